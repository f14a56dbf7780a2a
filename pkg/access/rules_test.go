package access

import (
	"errors"
	"strings"
	"testing"
)

const team = `
default: deny
rules:
  - allow: [web, "worker-*"]
    call: ["@sdb", ".launcher"]
    methods: [GET, "/simpledb.v1.SimpleDBService/*"]
  - allow: "*"
    call: "@open*"
  - allow: admin
    call: ["*"]
  - deny: [token, unknown]
    call: "@open-secret"
  - allow: [edge]
    rights: [query, process, forward, behalf]
  - deny: edge
    rights: forward
  - allow: "model-*"
    serve: ["@model", "@model.*"]
`

func mustParse(t *testing.T, text string) *Rules {
	t.Helper()
	r, err := ParseRules([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func id(names ...string) Identity { return Identity{Names: names} }

// M62: who may call what: deny wins, look-alikes are other names, a service
// without a name has the default alone.
func TestRulesForCalls(t *testing.T) {
	r := mustParse(t, team)
	for _, c := range []struct {
		who     Identity
		names   []string // of the service that was found
		written string
		method  string
		may     bool
	}{
		{id("web"), []string{"@sdb"}, "@sdb", "GET", true},
		{id("web"), []string{"@sdb"}, "@sdb", "SET", false},
		{id("web"), []string{"@sdb"}, "@sdb", "get", false},
		{id("web"), []string{"@sdb"}, "@sdb", "GET ", false},
		{id("web"), []string{"@sdb"}, "@sdb", "/simpledb.v1.SimpleDBService/Get", true},
		{id("web"), []string{"@sdb"}, "@sdb", "/simpledb.v1.SimpleDBServiceX/Get", false},
		{id("web"), []string{"@sdb"}, "", "GET", true}, // by handle: the service's name counts
		{id("web"), nil, "", "GET", false},
		{id("admin"), nil, "", "GET", false},
		{id("web"), []string{".launcher"}, ".launcher", "GET", true},
		{id("web"), []string{"@SDB"}, "@SDB", "GET", false},
		{id("web"), []string{"@@sdb"}, "@@sdb", "GET", false},
		{id("web"), []string{"@sdb\x00"}, "@sdb\x00", "GET", false},
		{id("web"), []string{"@sd\u0435b"}, "@sd\u0435b", "GET", false},
		{id("WEB"), []string{"@sdb"}, "@sdb", "GET", false},
		{id("web2"), []string{"@sdb"}, "@sdb", "GET", false},
		{id("worker-"), []string{"@sdb"}, "@sdb", "GET", true},
		{id("worker-7"), []string{"@sdb"}, "@sdb", "GET", true},
		{id("worker"), []string{"@sdb"}, "@sdb", "GET", false},
		{id("other", "web"), []string{"@sdb"}, "@sdb", "GET", true},
		{id(), []string{"@sdb"}, "@sdb", "GET", false},
		{id(), []string{"@open"}, "@open", "anything", true},
		{id(), []string{"@open-secret"}, "@open-secret", "x", false},
		{id(Token), []string{"@open-secret"}, "@open-secret", "x", false},
		{id("web"), []string{"@open-secret"}, "@open-secret", "x", true},
		{id(Token), []string{"@open-secret", ".s"}, ".s", "x", false}, // by its other name
		{id(Token), []string{"@open-secret", "@open-too"}, "@open-too", "x", false},
		{id("admin", Token), []string{"@open-secret"}, "@open-secret", "x", false}, // deny on any of its names
		{id("admin"), []string{"@x"}, "@x", "x", true},
		{id("nobody"), []string{"@x"}, "@x", "x", false},
		{id("nobody"), []string{"@x"}, "@open", "x", true}, // renamed since: the target as written counts too
	} {
		if got := r.MayCall(c.who, c.names, c.written, c.method); got != c.may {
			t.Errorf("%q may call %q of %q by %q: %v", c.who.Names, c.method, c.names, c.written, got)
		}
	}
}

// M62: rights and names for Serve are things of their own.
func TestRulesForRights(t *testing.T) {
	r := mustParse(t, team)
	for right, may := range map[Right]bool{Query: true, Process: true, Behalf: true, Forward: false} {
		if r.May(id("edge"), right) != may || r.May(id("web"), right) || r.May(id("admin"), right) || r.May(id(), right) {
			t.Errorf("%s: edge %v, web %v, admin %v", right, r.May(id("edge"), right), r.May(id("web"), right), r.May(id("admin"), right))
		}
	}
	for name, may := range map[string]bool{"@model": true, "@model.a": true, "@modelx": false, ".model": false, "@sdb": false} {
		if r.MayServe(id("model-1"), name) != may || r.MayServe(id("admin"), name) {
			t.Errorf("serve %s", name)
		}
	}
	open := mustParse(t, "default: allow")
	var none *Rules
	for _, r := range []*Rules{open, none} {
		if !r.MayCall(id(), nil, "", "x") || !r.MayServe(id(), "@x") || !r.May(id(), Query) {
			t.Error("what no rule speaks of is allowed")
		}
	}
	if open.May(id("x"), Behalf) {
		t.Error("a peer is believed that no rule names")
	}
}

// Every mistake is told, with its line, and nothing is taken.
func TestRulesMistakes(t *testing.T) {
	for text, want := range map[string][]string{
		"":                              {"empty"},
		"rules: []":                     {"default is missing"},
		"default: maybe":                {`line 1: default is "maybe"`},
		"default: deny\nrule: []":       {"line 2", "rule"},
		"default: deny\ndefault: allow": {"line 2", "already defined"},
		"default: deny\n---\n{}":        {"second document"},
		"default: deny\nrules:\n  - allow: a\n    call: sdb\n  - cal: '@x'\n": {`line 5: unknown key "cal"`},
		"default: deny\nrules:\n  - allow: a\n    call: sdb\n  - deny: b\n    allow: c\n    serve: '@x'\n  - methods: x\n": {
			`line 4: "sdb" has no sign`, "line 5: allow and deny", "line 8: for whom", "line 8: what is the rule about", "line 8: methods without call"},
		"default: deny\nrules:\n  - allow: [a, '']\n    rights: [fly]\n": {"line 3: an empty text", `line 4: "fly" is no right`},
		"default: deny\nrules:\n  - allow: 7\n    call: '@x'\n":          {"line 3: a text is wanted"},
		"default: deny\nrules:\n  - x\n":                                 {"line 3: a rule has keys"},
		"default: [":                                                     {"line 1"},
	} {
		r, err := ParseRules([]byte(text))
		var e *RulesError
		if r != nil || !errors.As(err, &e) {
			t.Errorf("%q: %v", text, err)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v\n  does not say %q", text, err, w)
			}
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "ab", false}, {"*", "", true}, {"*", "x", true},
		{"a*", "a", true}, {"a*", "ba", false}, {"*a", "ba", true}, {"*a", "ab", false},
		{"a*b", "ab", true}, {"a*b", "axxb", true}, {"a*b", "a", false}, {"ab*b", "ab", false},
		{"a*b*c", "abc", true}, {"a*b*c", "aXbYc", true}, {"a*b*c", "acb", false}, {"**", "x", true},
		{"a**c", "abc", true}, {"*b*", "abc", true}, {"*b*", "ac", false}, {"", "", true}, {"", "x", false},
	} {
		if got := match(c.pattern, c.s); got != c.want {
			t.Errorf("match(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

// FuzzRules: no text makes the parser panic, and what it takes decides.
func FuzzRules(f *testing.F) {
	f.Add([]byte(team))
	f.Add([]byte("default: deny\nrules:\n  - {allow: [a], call: ['*'], methods: ['*x*']}"))
	f.Add([]byte("default: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRules(text)
		if (r == nil) == (err == nil) {
			t.Fatal(r, err)
		}
		if r != nil {
			_ = r.MayCall(id("web"), []string{"@sdb"}, "@sdb", "GET")
		}
	})
}
