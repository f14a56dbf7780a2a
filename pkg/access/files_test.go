package access

import (
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// disk is a directory with the files of one process.
type disk struct {
	*testing.T
	Files
}

func newDisk(t *testing.T) *disk {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	return &disk{t, Files{Cert: at("cert.pem"), Key: at("key.pem"), CA: at("ca.pem")}}
}

func (d *disk) write(path string, content []byte) {
	d.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		d.Fatal(err)
	}
}

func (d *disk) put(ca *Authority, s Subject) {
	d.Helper()
	if s.Valid == 0 {
		s.Valid = time.Hour
	}
	own, err := ca.Pair()
	if err != nil {
		d.Fatal(err)
	}
	p, err := ca.Issue(s)
	if err != nil {
		d.Fatal(err)
	}
	d.write(d.Cert, p.Cert)
	d.write(d.Key, p.Key)
	d.write(d.CA, own.Cert)
}

func authority(t *testing.T) *Authority {
	t.Helper()
	ca, err := NewAuthority("test", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// F48: a new certificate is taken within a second of virtual time; one that is
// not right leaves the last that was, and is told once.
func TestFilesAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, d := authority(t), newDisk(t)
		d.put(ca, Subject{Names: []string{"one"}, Domain: "mesh"})
		var told []string
		k, err := Open(d.Files, func(err error) {
			if err == nil {
				told = append(told, "taken")
			} else {
				told = append(told, err.Error())
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		name := func() string { return strings.Join(k.Names(""), " ") }
		d.put(ca, Subject{Names: []string{"two"}, Domain: "mesh"})
		if name() != "one" {
			t.Error("the files were looked at before a second was over")
		}
		time.Sleep(time.Second)
		if name() != "two" || len(told) != 1 || told[0] != "taken" {
			t.Errorf("%s, told %q", name(), told)
		}
		good, err := os.ReadFile(d.Cert)
		if err != nil {
			t.Fatal(err)
		}
		for what, spoil := range map[string]func(){
			"PEM":       func() { d.write(d.Cert, good[:len(good)/2]) },
			"expired":   func() { d.put(ca, Subject{Names: []string{"x"}, Domain: "mesh", Valid: -time.Minute}) },
			"cannot be": func() { _ = os.Remove(d.Key) },
			"private": func() {
				p, _ := ca.Issue(Subject{Hosts: []string{"x"}, Valid: time.Hour})
				d.write(d.Key, p.Key)
				d.write(d.Cert, good)
			},
		} {
			told = nil
			spoil()
			for range 3 {
				time.Sleep(time.Second)
				if name() != "two" {
					t.Fatalf("%s: the name is %s", what, name())
				}
			}
			if len(told) != 1 || !strings.Contains(told[0], what) {
				t.Errorf("%s: told %q", what, told)
			}
		}
		told = nil
		d.put(ca, Subject{Names: []string{"three"}, Domain: "mesh"})
		time.Sleep(time.Second)
		if name() != "three" || len(told) != 1 {
			t.Errorf("%s, told %q", name(), told)
		}
	})
}

// What is wrong with the files at the start is said, and no part of a key is.
func TestOpenSaysWhatIsWrong(t *testing.T) {
	ca, d := authority(t), newDisk(t)
	if _, err := Open(Files{Cert: d.Cert}, nil); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Error(err)
	}
	d.put(ca, Subject{Hosts: []string{"localhost"}})
	if _, err := Open(Files{Cert: d.Cert, Key: d.Key}, nil); err == nil || !strings.Contains(err.Error(), "no file is named for the CA") {
		t.Error(err)
	}
	d.write(d.CA, []byte("nothing"))
	if _, err := Open(d.Files, nil); err == nil || !strings.Contains(err.Error(), "no certificate in PEM") {
		t.Error(err)
	}
	d.put(ca, Subject{Hosts: []string{"localhost"}})
	d.write(d.Key, []byte("canary-canary-canary"))
	if _, err := Open(d.Files, nil); err == nil || strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
}

// M63: which names a certificate carries.
func TestNamesIn(t *testing.T) {
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	c := &x509.Certificate{
		URIs: []*url.URL{
			uri("spiffe://mesh/node/db"), uri("spiffe://mesh/node/db"), uri("spiffe://other/node/far"), uri("https://mesh/node/web"),
			uri("spiffe://mesh/node/a/b"), uri("spiffe://mesh/node/"), uri("spiffe://mesh/ns/x"), uri("spiffe://mesh/node/x?y=1"),
			uri("spiffe://mesh/node/a%0Ab"), uri("spiffe://u@mesh/node/user"),
		},
		DNSNames: []string{"db2", "db.example", "*.wild", "sd\u0435b", ""},
	}
	for domain, want := range map[string][]string{"mesh": {"db"}, "": {"db", "far"}, "none": {"db2", "db.example"}} {
		if got := NamesIn(c, domain); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", domain, got, want)
		}
	}
	if NamesIn(nil, "") != nil || NamesIn(&x509.Certificate{}, "") != nil {
		t.Error("a name out of nothing")
	}
}

func TestAuthority(t *testing.T) {
	ca := authority(t)
	pair, err := ca.Pair()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseAuthority(pair)
	if err != nil || !again.key.Equal(ca.key) {
		t.Fatal(err)
	}
	leaf, err := ca.Issue(Subject{Hosts: []string{"h"}, Valid: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for what, p := range map[string]Pair{"no PEM": {}, "no CA": leaf, "another's key": {pair.Cert, leaf.Key}} {
		if _, err := ParseAuthority(p); err == nil {
			t.Errorf("%s is taken for a CA", what)
		}
	}
	for _, s := range []Subject{{}, {Names: []string{"a b"}, Domain: "d"}, {Names: []string{"a"}}} {
		if _, err := ca.Issue(s); err == nil {
			t.Errorf("%+v is taken", s)
		}
	}
}
