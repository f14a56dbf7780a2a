package binary_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const canary = "canary-0123456789-token"

// keys makes certificates in a directory and returns the flags of a process.
func keys(t *testing.T, dir, name string, more ...string) []string {
	t.Helper()
	must(t, nil, append([]string{"cert", "--dir", dir, name}, more...)...)
	at := func(file string) string { return filepath.Join(dir, file) }
	return []string{"--tls-cert", at(name + ".pem"), "--tls-key", at(name + "-key.pem"), "--tls-ca", at("ca.pem"), "--node-identity"}
}

// Certificates of `meshnode cert`, a token and rules: who belongs gets in, who
// does not is told why, and rules and tokens are taken again when their files
// change (M61, M62, M63).
func TestAccess(t *testing.T) {
	dir, others := t.TempDir(), t.TempDir()
	token, rules := newTable(t, canary+"\n"), newTable(t, "default: deny\nrules:\n  - {allow: web, call: '@sdb', methods: [GET, SET]}\n")
	s := serve(t, append(keys(t, dir, "db"), "--token-file", token, "--rules", rules, "--listen", "127.0.0.1:0", "--example", "simpledb")...)
	web, stranger := keys(t, dir, "web"), keys(t, others, "web")
	call := func(flags []string, method, arg string) outcome {
		t.Helper()
		return do(t, nil, append(append([]string{"call", s.db()}, flags...), "db@sdb", method, arg)...)
	}
	with := append(web[:len(web):len(web)], "--token-file", token)
	for _, c := range []struct {
		what   string
		flags  []string
		method string
		code   int
		says   string
	}{
		{"who belongs", with, "SET", 0, ""},
		{"a method that no rule names", with, "DELETE", 4, "not permitted"},
		{"no token", web, "GET", 3, "asks for the token"},
		{"no certificate", []string{"--token-file", token}, "GET", 3, "does it expect TLS?"},
		{"another CA", append(stranger, "--token-file", token), "GET", 3, "authority"},
	} {
		if o := call(c.flags, c.method, "a=1"); o.code != c.code || !strings.Contains(o.stderr, c.says) {
			t.Errorf("%s: exit code %d, %s", c.what, o.code, o.stderr)
		}
	}
	writeTable(t, rules, "default: deny\nrules:\n  - {allow: web, call: '@sdb', methods: GET}\n")
	s.wait("rules reloaded", 1, nil)
	if o := call(with, "SET", "a=2"); o.code != 4 {
		t.Errorf("the old rules hold: exit code %d, %s", o.code, o.stderr)
	}
	writeTable(t, rules, "default: deny\nrules:\n  - {alow: web}\n")
	if l := s.wait("a change of the rules was not taken; everything stays as it was", 1, nil); !strings.Contains(l["error"].(string), `line 3: unknown key "alow"`) {
		t.Error(l)
	}
	next := newTable(t, "canary-9876543210-token\n")
	writeTable(t, token, "canary-9876543210-token\n"+canary+"\n")
	s.wait("tokens reloaded", 1, nil)
	for _, file := range []string{token, next} {
		if o := call(append(web[:len(web):len(web)], "--token-file", file), "GET", "a"); o.code != 0 || strings.TrimSpace(o.stdout) != "1" {
			t.Errorf("%s: exit code %d, %s%s", file, o.code, o.stdout, o.stderr)
		}
	}
	if strings.Contains(s.String(), "canary") {
		t.Error("a token is in the log")
	}
}

// What is wrong with a flag or a file is told, with what to do.
func TestAccessFlags(t *testing.T) {
	dir := t.TempDir()
	own := keys(t, dir, "db")
	short, bad := newTable(t, "short\n"), newTable(t, "default: perhaps\n")
	for says, args := range map[string][]string{
		"--tls-cert, --tls-key and --tls-ca together": own[:2],
		"speak of certificates":                       {"--node-identity"},
		"the certificate cannot be read":              {"--tls-cert", dir + "/none", "--tls-key", own[3], "--tls-ca", own[5]},
		"no certificate with its key":                 {"--tls-cert", own[1], "--tls-key", own[1], "--tls-ca", own[5]},
		"16 are the least":                            {"--token-file", short},
		"no such file":                                {"--rules", dir + "/none"},
		`line 1: default is "perhaps"`:                {"--rules", bad},
		"is not in the certificate":                   append(own, "--name", "web"),
	} {
		if o := do(t, nil, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...); o.code != 2 || !strings.Contains(o.stderr, says) {
			t.Errorf("%q: exit code %d, %s", args, o.code, o.stderr)
		}
	}
	for says, args := range map[string][]string{
		"for whom is the certificate":   {},
		"give --force":                  {"db"},
		"the CA's own file":             {"ca"},
		"--days 0":                      {"--days", "0", "x"},
		"name \"a b\"":                  {"a b"},
		"the CA needs both ca.pem and ": {"--dir", half(t, dir), "x"},
	} {
		if o := do(t, nil, append([]string{"cert", "--dir", dir}, args...)...); o.code != 2 || !strings.Contains(o.stderr, says) {
			t.Errorf("%q: exit code %d, %s", args, o.code, o.stderr)
		}
	}
	before, err := os.ReadFile(own[1])
	if err != nil {
		t.Fatal(err)
	}
	if made := must(t, nil, "cert", "--dir", dir, "--force", "db"); strings.Contains(made, "ca.pem") {
		t.Errorf("the CA was made again: %s", made)
	}
	if after, err := os.ReadFile(own[1]); err != nil || string(after) == string(before) {
		t.Errorf("--force replaced nothing: %v", err)
	}
	if info, err := os.Stat(own[3]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key is readable by others: %v %v", info.Mode(), err)
	}
}

// half is a directory with a CA whose key is missing.
func half(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := os.WriteFile(filepath.Join(to, "ca.pem"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}
