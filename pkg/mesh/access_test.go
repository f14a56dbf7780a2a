package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/meshnode/meshnode/pkg/access"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// realm has the certificates of a world.
type realm struct {
	*world
	ca *access.Authority
}

func (w *world) realm() *realm {
	w.Helper()
	ca, err := access.NewAuthority("world", 48*time.Hour)
	if err != nil {
		w.Fatal(err)
	}
	return &realm{w, ca}
}

// files writes a certificate and what belongs to it; trusted is whose peers are
// taken.
func (r *realm) files(s access.Subject, trusted *access.Authority) mesh.TLS {
	r.Helper()
	t := mesh.TLS{}
	for name, path := range map[string]*string{"cert.pem": &t.Cert, "key.pem": &t.Key, "ca.pem": &t.CA} {
		*path = filepath.Join(r.TempDir(), name)
	}
	r.rewrite(t, s, trusted)
	return t
}

func (r *realm) rewrite(t mesh.TLS, s access.Subject, trusted *access.Authority) {
	r.Helper()
	if s.Valid == 0 {
		s.Valid = time.Hour
	}
	s.Domain = "mesh"
	own, err := r.ca.Issue(s)
	if err != nil {
		r.Fatal(err)
	}
	ca, err := trusted.Pair()
	if err != nil {
		r.Fatal(err)
	}
	for path, content := range map[string][]byte{t.Cert: own.Cert, t.Key: own.Key, t.CA: ca.Cert} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			r.Fatal(err)
		}
	}
}

// named is the option of a process whose certificate carries names.
func (r *realm) named(names ...string) func(*mesh.Options) {
	r.Helper()
	t := r.files(access.Subject{Names: names, Hosts: []string{"db"}}, r.ca)
	return func(o *mesh.Options) { o.TLS = &t }
}

func identified(o *mesh.Options) { o.TLS.NodeIdentity = true; o.Name = "" }

// audited collects the log of a process.
func audited(o *mesh.Options) *observer.ObservedLogs {
	core, logs := observer.New(zap.WarnLevel)
	o.Logger = zap.New(core)
	return logs
}

// refusals are the lines that tell of a peer that was not let in.
func refusals(logs *observer.ObservedLogs) (lines []string) {
	for _, e := range logs.All() {
		if strings.HasPrefix(e.Message, "refused: ") {
			lines = append(lines, fmt.Sprint(e.Message, e.ContextMap()))
		}
	}
	return lines
}

// M61: with TLS calls pass encrypted, the handler knows the name that the
// caller's certificate carries, and no byte of them is on the wire in clear.
func TestTLS(t *testing.T) {
	inWorld(t, func(w *world) {
		r := w.realm()
		m := w.process("server", r.named("server"))
		w.open(m, "db:1")
		var seen mesh.Caller
		w.register(m, "sdb", func(ctx context.Context, _ string, p []byte) ([]byte, error) {
			seen, _ = mesh.CallerFrom(ctx)
			return p, nil
		})
		client := w.process("client", r.named("web", "web2"))
		w.reload(client, mesh.Table{"db": "db:1"})
		if got, err := client.Call(w.within(time.Minute), "db@sdb", "GET", []byte("x")); err != nil || string(got) != "x" {
			t.Fatalf("%s %v", got, err)
		}
		if seen.Identity != "web" || seen.Process != "client" {
			t.Errorf("%+v", seen)
		}
	})
}

// M61, M63: each way in which a peer does not belong. It is refused before any
// handler runs, the process goes on, and one line tells of it.
func TestWhoIsNotLetIn(t *testing.T) {
	const token, other = "canary-0123456789ab", "canary-ba9876543210"
	type setting func(r *realm, o *mesh.Options)
	plain := func(*realm, *mesh.Options) {}
	tls := func(names ...string) setting { return func(r *realm, o *mesh.Options) { r.named(names...)(o) } }
	strict := func(names ...string) setting {
		return func(r *realm, o *mesh.Options) {
			t := r.files(access.Subject{Names: names}, r.ca)
			o.TLS = &t
			identified(o)
		}
	}
	tokens := func(ts ...string) setting { return func(_ *realm, o *mesh.Options) { o.Tokens = ts } }
	and := func(ss ...setting) setting {
		return func(r *realm, o *mesh.Options) {
			for _, s := range ss {
				s(r, o)
			}
		}
	}
	foreign := func(r *realm, o *mesh.Options) { // signed by a CA that nobody knows
		stranger := r.world.realm()
		t := stranger.files(access.Subject{Names: []string{"web"}, Hosts: []string{"db"}}, r.ca)
		o.TLS = &t
	}
	trusting := func(r *realm, o *mesh.Options) { // trusts another CA than the server's
		t := r.files(access.Subject{Names: []string{"web"}}, r.world.realm().ca)
		o.TLS = &t
	}
	wrongHost := func(r *realm, o *mesh.Options) {
		t := r.files(access.Subject{Names: []string{"server"}, Hosts: []string{"elsewhere"}}, r.ca)
		o.TLS = &t
	}
	anyone := func(_ *realm, o *mesh.Options) { o.TLS.AnyClient = true }
	brief := func(r *realm, o *mesh.Options) {
		t := r.files(access.Subject{Names: []string{"web"}, Valid: time.Minute}, r.ca)
		o.TLS = &t
	}
	called := func(name string) setting { return func(_ *realm, o *mesh.Options) { o.Name = name } }
	guarded := and(tls("db"), func(_ *realm, o *mesh.Options) { identified(o) })
	for _, c := range []struct {
		what           string
		server, client setting
		wait           time.Duration // before the call
		says           string        // what the caller is told; "" for success
		logged         bool          // the listener has a line of it
	}{
		{"TLS at both ends", tls("server"), tls("web"), 0, "", false},
		{"plaintext to TLS", tls("server"), plain, 0, "connect [db]", true},
		{"TLS to plaintext", plain, tls("web"), 0, "connect [db]", false},
		{"a CA that the listener does not know", tls("server"), foreign, 0, "connect [db]", true},
		{"a CA that the dialler does not know", tls("server"), trusting, 0, "unknown authority", true},
		{"a certificate that has expired since", tls("server"), brief, 2 * time.Minute, "connect [db]", true},
		{"a host that the listener's certificate lacks", wrongHost, tls("web"), 0, "not db", true},
		{"the same, and the node's name counts instead", and(wrongHost, strictly), strict("web"), 0, `node identity asks for \"db\"`, true},
		{"identity: names as they should be", strict("db"), strict("web"), 0, "", false},
		{"identity: one of several names", strict("x", "db"), strict("y", "web"), 0, "", false},
		{"identity: another node answers", strict("db2"), strict("web"), 0, `node identity asks for \"db\"`, true},
		{"identity: a name that looks alike", strict("dB"), strict("web"), 0, `node identity asks for \"db\"`, true},
		{"identity: the process says another name", guarded, and(tls("web"), called("admin")), 0, `the hello says process "admin"`, true},
		{"identity: the process says a part of it", guarded, and(tls("web"), called("we")), 0, `the hello says process "we"`, true},
		{"identity: and a longer one", guarded, and(tls("web"), called("web.web")), 0, `the hello says process "web.web"`, true},
		{"no certificate where one is needed", tls("server"), plain, 0, "connect [db]", true},
		{"any client", and(tls("server"), anyone), tls("web"), 0, "", false},
		{"token at both ends", tokens(token), tokens(token), 0, "", false},
		{"no token", tokens(token), plain, 0, "asks for the token", true},
		{"a wrong token", tokens(token), tokens(other), 0, "not the one that is asked for", true},
		{"a token that begins alike", tokens(token), tokens(token + "x"), 0, "not the one that is asked for", true},
		{"the old token of two", tokens(other, token), tokens(token), 0, "", false},
		{"a token where none is asked for", plain, tokens(token), 0, "", false},
		{"certificate and token", and(tls("server"), tokens(token)), and(tls("web"), tokens(token)), 0, "", false},
		{"a certificate without the token", and(tls("server"), tokens(token)), tls("web"), 0, "asks for the token", true},
		{"the token without a certificate", and(tls("server"), tokens(token)), tokens(token), 0, "connect [db]", true},
	} {
		t.Run(c.what, func(t *testing.T) {
			inWorld(t, func(w *world) {
				r := w.realm()
				var ran atomic.Int64
				var logs *observer.ObservedLogs
				m := w.process("server", func(o *mesh.Options) { c.server(r, o); logs = audited(o) })
				w.open(m, "db:1")
				w.register(m, "sdb", func(context.Context, string, []byte) ([]byte, error) { ran.Add(1); return nil, nil })
				client := w.process("web", func(o *mesh.Options) { c.client(r, o) })
				w.reload(client, mesh.Table{"db": "db:1"})
				time.Sleep(c.wait)
				_, err := client.Call(w.within(20*time.Second), "db@sdb", "GET", nil)
				synctest.Wait()
				switch {
				case c.says == "" && (err != nil || ran.Load() != 1):
					t.Errorf("%v, %d handlers ran", err, ran.Load())
				case c.says == "":
				case err == nil || !errors.Is(err, mesh.ErrConnect) || mesh.VerdictOf(err) != mesh.NotSent || !strings.Contains(err.Error(), c.says):
					t.Errorf("%v; it should say %q", err, c.says)
				case ran.Load() != 0:
					t.Error("a handler ran")
				}
				lines := refusals(logs)
				if (len(lines) == 1) != c.logged || len(lines) > 1 {
					t.Errorf("%d lines: %q", len(lines), lines)
				}
				if text := fmt.Sprint(err, logs.All()); strings.Contains(text, "canary") {
					t.Errorf("a token is in the open: %s", text)
				}
			})
		})
	}
}

func strictly(_ *realm, o *mesh.Options) { o.TLS.NodeIdentity = true; o.Name = "server" }

// M62: what is not permitted is rejected, by name, by handle, by a name that
// looks alike, and leaves a line; a change of the rules holds for the next
// message.
func TestRules(t *testing.T) {
	rules := func(t *testing.T, text string) *mesh.Rules {
		r, err := mesh.ParseRules([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	inWorld(t, func(w *world) {
		r := w.realm()
		var logs *observer.ObservedLogs
		m := w.process("server", r.named("server"), func(o *mesh.Options) {
			logs = audited(o)
			o.Rules = rules(t, "default: deny\nrules:\n  - {allow: web, call: '@sdb', methods: GET}\n  - {allow: web, rights: query}")
		})
		w.open(m, "db:1")
		var ran []string
		handler := func(_ context.Context, method string, p []byte) ([]byte, error) {
			ran = append(ran, method)
			return p, nil
		}
		s := w.register(m, "sdb", handler)
		w.register(m, "SDB", handler)
		bare := m.NewService(handler)
		client := w.process("client", r.named("web"))
		w.reload(client, mesh.Table{"db": "db:1"})
		ctx := w.within(time.Minute)
		call := func(target, method string, may bool) {
			t.Helper()
			ran, _ = nil, logs.TakeAll()
			_, err := client.Call(ctx, target, method, nil)
			switch {
			case may && (err != nil || !slices.Equal(ran, []string{method})):
				t.Errorf("%s %s: %v, ran %q", target, method, err, ran)
			case may:
			case !errors.Is(err, mesh.ErrNotPermitted) || mesh.VerdictOf(err) != mesh.Rejected || len(ran) > 0 || len(refusals(logs)) != 1:
				t.Errorf("%s %s: %v, ran %q, told %q", target, method, err, ran, refusals(logs))
			}
		}
		for _, target := range []string{"db@sdb", "db" + s.Handle().String()} {
			call(target, "GET", true)
			call(target, "SET", false)
			call(target, "get", false)
			call(target, "", false)
		}
		call("db@SDB", "GET", false)
		call("db"+bare.Handle().String(), "GET", false)
		if _, err := client.Query(ctx, "db@sdb"); err != nil {
			t.Error(err)
		}
		ran = nil
		large := make([]byte, 100<<10)
		if _, err := client.Call(ctx, "db@sdb", "SET", large); !errors.Is(err, mesh.ErrNotPermitted) {
			t.Error(err)
		}
		if err := client.Send(ctx, "db@sdb", "SET", nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if len(ran) > 0 || m.Stats().PushesRefused != 1 {
			t.Errorf("ran %q, %d pushes refused", ran, m.Stats().PushesRefused)
		}
		m.SetRules(rules(t, "default: allow\nrules:\n  - {deny: web, call: '@sdb'}\n  - {deny: web, rights: [query, process]}"))
		call("db@sdb", "GET", false)
		call("db@SDB", "GET", true)
		call("db"+bare.Handle().String(), "GET", true)
		if _, err := client.Query(ctx, "db@SDB"); !errors.Is(err, mesh.ErrNotPermitted) {
			t.Error(err)
		}
		m.SetRules(nil)
		call("db@sdb", "SET", true)
	})
}

// F48: certificates are exchanged under load, the CA too: no call fails, and
// links that open after it use the new ones.
func TestRotation(t *testing.T) {
	inWorld(t, func(w *world) {
		r := w.realm()
		server := r.files(access.Subject{Names: []string{"old"}, Hosts: []string{"db"}}, r.ca)
		m := w.process("server", func(o *mesh.Options) { o.TLS = &server })
		w.open(m, "db:1")
		var seen atomic.Pointer[string]
		w.register(m, "sdb", func(ctx context.Context, _ string, p []byte) ([]byte, error) {
			c, _ := mesh.CallerFrom(ctx)
			seen.Store(&c.Identity)
			return p, nil
		})
		own := r.files(access.Subject{Names: []string{"old"}}, r.ca)
		client := w.process("client", func(o *mesh.Options) { o.TLS = &own })
		w.reload(client, mesh.Table{"db": "db:1", "db2": "db:1"})
		ctx, stop := context.WithCancel(w.within(time.Hour))
		ended := make(chan int)
		go func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				if _, err := client.Call(context.Background(), "db@sdb", "GET", nil); err != nil {
					t.Error(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			ended <- n
		}()
		time.Sleep(2 * time.Second)
		r.ca = r.world.realm().ca // the old one is trusted by nobody
		r.rewrite(server, access.Subject{Names: []string{"new"}, Hosts: []string{"db"}}, r.ca)
		r.rewrite(own, access.Subject{Names: []string{"new"}}, r.ca)
		time.Sleep(2 * time.Second)
		stop()
		if n := <-ended; n < 300 || *seen.Load() != "old" {
			t.Errorf("%d calls, by %q", n, *seen.Load())
		}
		if _, err := client.Call(w.within(time.Minute), "db2@sdb", "GET", nil); err != nil || *seen.Load() != "new" {
			t.Errorf("%v, by %q", err, *seen.Load())
		}
	})
}

// Tokens are exchanged without a moment in which the ends disagree.
func TestTokensAreExchanged(t *testing.T) {
	const first, second = "canary-0123456789ab", "canary-ba9876543210"
	inWorld(t, func(w *world) {
		asks := func(o *mesh.Options) { o.Tokens = []string{first} }
		m := w.process("server", asks)
		w.open(m, "db:1")
		w.register(m, "sdb", echo)
		client := w.process("client", asks)
		n := 0
		call := func() error {
			n++
			node := fmt.Sprintf("db%d", n)
			w.reload(client, mesh.Table{node: "db:1"})
			_, err := client.Call(w.within(time.Minute), node+"@sdb", "GET", nil)
			return err
		}
		steps := []struct {
			on     *mesh.Mesh
			tokens []string
			fails  bool
		}{{m, []string{first, second}, false}, {client, []string{second, first}, false}, {m, []string{second}, false}, {client, []string{first}, true}}
		for i, s := range steps {
			if err := s.on.SetTokens(s.tokens...); err != nil {
				t.Fatal(err)
			}
			if err := call(); (err != nil) != s.fails {
				t.Errorf("step %d: %v", i, err)
			}
		}
		if err := m.SetTokens("short"); err == nil {
			t.Error("a short token is taken")
		}
	})
}

// Mistakes in the options are told by New.
func TestAccessOptions(t *testing.T) {
	inWorld(t, func(w *world) {
		r := w.realm()
		for says, set := range map[string]func(*mesh.Options){
			"no file is named":    func(o *mesh.Options) { o.TLS = &mesh.TLS{} },
			"is not in the cert":  func(o *mesh.Options) { r.named("a")(o); o.TLS.NodeIdentity = true },
			"carries no name":     func(o *mesh.Options) { r.named("a")(o); identified(o); o.TLS.Domain = "else"; noHosts(r, o) },
			"AnyClient":           func(o *mesh.Options) { r.named("a")(o); identified(o); o.TLS.AnyClient = true },
			"the least":           func(o *mesh.Options) { o.Tokens = []string{"short"} },
			"no visible ASCII":    func(o *mesh.Options) { o.Tokens = []string{"0123456789\tabcdef"} },
			"is no certificate w": func(o *mesh.Options) { r.named("a")(o); o.TLS.Key = o.TLS.CA },
		} {
			o := mesh.Options{Name: "x", Dial: w.Dial, Listen: w.Listen}
			set(&o)
			m, err := mesh.New(o)
			if err == nil {
				_ = m.Close(context.Background())
			}
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "are no cert", "is no cert"), says) {
				t.Errorf("%v; it should say %q", err, says)
			}
		}
		m := w.process("", r.named("named"), identified)
		if m.Name() != "named" {
			t.Errorf("the process is called %q", m.Name())
		}
		if err := m.SetTokens("0123456789abcdef"); err == nil {
			t.Error("tokens are asked for from now on, though New said that none are")
		}
	})
}

func noHosts(r *realm, o *mesh.Options) {
	t := r.files(access.Subject{Names: []string{"a"}}, r.ca)
	o.TLS.Cert, o.TLS.Key = t.Cert, t.Key
}
