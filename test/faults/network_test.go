//go:build faults

package faults_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshnode/meshnode/pkg/access"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// F11, F12, F18: bytes vanish, in both directions or in one: both ends find out
// within T and P, nothing runs twice, and after the heal calls succeed again
// within B and a second.
func TestF11F12F18Silence(t *testing.T) {
	for what, lanes := range map[string]func(*proxy) []*lane{
		"F11 both ways": func(p *proxy) []*lane { return []*lane{&p.up, &p.down} },
		"F12 up":        func(p *proxy) []*lane { return []*lane{&p.up} },
		"F12 down":      func(p *proxy) []*lane { return []*lane{&p.down} },
	} {
		t.Run(what, func(t *testing.T) {
			n := newNode(t, "db").start()
			p := newProxy(t, n.addr)
			h := newHistory(t, n)
			m := client(t, "client", mesh.Table{"db": p.addr()})
			l := h.begin(m, "db@echo", 32, 500, 30*time.Second)
			l.goesOn(200, 20*time.Second)
			start := time.Now()
			for _, lane := range lanes(p) {
				lane.hole.Store(true)
			}
			until(t, "the dialler finds out", silence+beat+slack, func() bool { return m.Stats().LinksLost > 0 })
			until(t, "the listener finds out", silence+beat+slack, func() bool { return n.stats().LinksIn == 0 })
			t.Logf("both ends knew after %s; %d bytes up and %d down were swallowed", time.Since(start).Round(time.Millisecond), p.up.eaten.Load(), p.down.eaten.Load())
			for _, lane := range lanes(p) {
				if lane.eaten.Load() == 0 {
					t.Error("nothing was swallowed")
				}
				lane.hole.Store(false)
			}
			timed(t, "the first success after the heal", backoff+time.Second+slack, func() { l.goesOn(1, 20*time.Second) })
			l.stop()
			h.check()
		})
	}
}

// F18: a middlebox forgets a flow on which nothing is said: heartbeats find it
// within T, and the next call succeeds on a new connection.
func TestF18ForgottenFlow(t *testing.T) {
	n := newNode(t, "db").start()
	p := newProxy(t, n.addr)
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": p.addr()})
	if err := h.call(context.Background(), m, "db@echo", 0); err != nil {
		t.Fatal(err)
	}
	p.up.hole.Store(true)
	p.down.hole.Store(true)
	until(t, "the link is lost", silence+beat+slack, func() bool { return m.Stats().LinksLost > 0 })
	p.up.hole.Store(false)
	p.down.hole.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := h.call(ctx, m, "db@echo", 0, mesh.WaitUp); err != nil || p.taken.Load() < 2 {
		t.Errorf("%v, %d connections", err, p.taken.Load())
	}
	h.check()
}

// F13: a connection is reset in the middle of frames, or closed in one direction:
// the link ends at once.
func TestF13ResetAndHalfClose(t *testing.T) {
	for what, breakIt := range map[string]func(*proxy) int{"RST": (*proxy).reset, "FIN up": (*proxy).finish} {
		t.Run(what, func(t *testing.T) {
			n := newNode(t, "db").start()
			p := newProxy(t, n.addr)
			h := newHistory(t, n)
			m := client(t, "client", mesh.Table{"db": p.addr()})
			l := h.begin(m, "db@echo", 16, 200_000, 20*time.Second, mesh.WaitUp)
			l.goesOn(50, 20*time.Second)
			for i := range 5 {
				until(t, "there is a connection to break", slack, func() bool { return breakIt(p) > 0 })
				until(t, "the link is lost", slack, func() bool { return m.Stats().LinksLost > int64(i) })
				l.goesOn(50, 20*time.Second)
			}
			l.stop()
			t.Log(h.count())
			h.check()
		})
	}
}

// F13: bytes are changed on the way: no wrong byte reaches a handler or a caller
// unnoticed where gRPC or the mesh can notice it; nothing panics, nothing hangs.
// With TLS none can pass.
func TestF13Corruption(t *testing.T) {
	n := newNode(t, "db")
	files := realm(t, "db")
	n.config.TLS = files
	n.start()
	p := newProxy(t, n.addr)
	p.up.corrupt.Store(20_000)
	p.down.corrupt.Store(20_000)
	h := newHistory(t, n)
	m := client(t, "db", mesh.Table{"db": p.addr()}, func(o *mesh.Options) { o.TLS = files })
	l := h.begin(m, "db@echo", 16, 500, 20*time.Second, mesh.WaitUp)
	until(t, "the corruption broke links", 30*time.Second, func() bool { return m.Stats().LinksLost >= 3 })
	p.up.corrupt.Store(0)
	p.down.corrupt.Store(0)
	l.goesOn(200, 20*time.Second)
	l.stop()
	if p.up.spoilt.Load()+p.down.spoilt.Load() == 0 {
		t.Error("nothing was changed")
	}
	t.Logf("%d bytes were changed: %v", p.up.spoilt.Load()+p.down.spoilt.Load(), h.count())
	h.check() // which compares each reply, byte for byte
}

// realm makes the files of a process whose certificate carries a name.
func realm(t *testing.T, name string) *mesh.TLS {
	t.Helper()
	return realmIn(t, name, t.TempDir())
}

// realmIn makes a CA and its files in a directory.
func realmIn(t *testing.T, name, dir string) *mesh.TLS {
	t.Helper()
	ca, err := access.NewAuthority("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return certificate(t, ca, name, dir)
}

// F14: 400 ms round trip with jitter: outcomes as ever, no false down.
func TestF14SlowLine(t *testing.T) {
	n := newNode(t, "db").start()
	p := newProxy(t, n.addr)
	for _, l := range []*lane{&p.up, &p.down} {
		l.delay.Store(int64(200 * time.Millisecond))
		l.jitter.Store(int64(20 * time.Millisecond))
	}
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": p.addr()})
	l := h.begin(m, "db@echo", 64, 1000, 20*time.Second)
	l.goesOn(500, 60*time.Second)
	time.Sleep(silence) // long enough for a false down
	l.stop()
	start := time.Now()
	if err := h.call(context.Background(), m, "db@echo", 0); err != nil || time.Since(start) < 390*time.Millisecond {
		t.Errorf("the line is not slow: %s, %v", time.Since(start), err)
	}
	if c := h.count(); m.Stats().LinksLost != 0 || len(c) != 1 {
		t.Errorf("%d links lost, %v", m.Stats().LinksLost, c)
	}
	h.check()
}

// F15: 8 MiB over a line of 1 Mbit/s: small calls pass it, the link lives.
func TestF15ThinLine(t *testing.T) {
	n := newNode(t, "db")
	n.config.Log = true
	n.start()
	p := newProxy(t, n.addr)
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": p.addr()})
	if err := h.call(context.Background(), m, "db@echo", 0); err != nil {
		t.Fatal(err)
	}
	p.up.rate.Store(125_000)
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second) // 8 MiB would take 67 s
	defer cancel()
	var large sync.WaitGroup
	large.Go(func() { _ = h.call(ctx, m, "db@echo", 8<<20) })
	until(t, "the large one is on its way", 20*time.Second, func() bool { return p.up.passed.Load() > 500_000 })
	worst := time.Duration(0)
	for ctx.Err() == nil {
		start := time.Now()
		one, done := context.WithTimeout(context.Background(), 20*time.Second)
		if err := h.call(one, m, "db@slow", 0); err != nil {
			t.Error(err)
		}
		done()
		worst = max(worst, time.Since(start))
	}
	large.Wait()
	if m.Stats().LinksLost != 0 {
		t.Error("the link was lost while bytes moved")
	}
	if worst > 3*time.Second+slack {
		t.Errorf("a small call took %s", worst)
	}
	t.Logf("worst small call %s beside a large one, %d bytes passed", worst.Round(time.Millisecond), p.up.passed.Load())
	h.check()
}

// F17: what answers is no mesh: a failed connect with a sentence that helps, and
// no faster dials than backoff allows.
func TestF17Strangers(t *testing.T) {
	cert := realm(t, "db")
	pair, err := tls.LoadX509KeyPair(cert.Cert, cert.Key)
	if err != nil {
		t.Fatal(err)
	}
	secure := func(protocols ...string) func(net.Conn) {
		return func(c net.Conn) {
			if tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: protocols}).Handshake() != nil {
				_ = c.Close()
			}
		}
	}
	noise := bytes.Repeat([]byte("\x00\xffgarbage\n"), 1000)
	for what, c := range map[string]struct {
		speak func(net.Conn)
		tls   *mesh.TLS
		says  string
	}{
		"bytes":            {func(c net.Conn) { _, _ = c.Write(noise) }, nil, "does it expect TLS?"},
		"nothing, and FIN": {func(c net.Conn) { _ = c.Close() }, nil, "does it expect TLS?"},
		"HTTP/1.1": {func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		}, nil, "does it expect TLS?"},
		"TLS to plaintext": {secure("h2"), nil, "does it expect TLS?"},
		"plaintext to TLS": {func(c net.Conn) { _, _ = c.Write(noise) }, cert, "handshake"},
		"wrong ALPN":       {secure("http/1.1"), cert, "connect [db]"},
	} {
		t.Run(what, func(t *testing.T) {
			addr, taken := garbage(t, c.speak)
			m := client(t, "db", mesh.Table{"db": addr}, func(o *mesh.Options) { o.TLS = c.tls })
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			_, err := m.Call(ctx, "db@echo", "GO", nil)
			if !errors.Is(err, mesh.ErrConnect) || !strings.Contains(err.Error(), c.says) || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("%v; it should say %q", err, c.says)
			}
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
				_, _ = m.Call(ctx, "db@echo", "GO", nil)
			}
			if n := taken.Load(); n == 0 || n > 12 {
				t.Errorf("%d connections in 3 s", n)
			}
		})
	}
}

// F17: a server of another kind of gRPC, and one of HTTP.
func TestF17OtherServers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.NotFoundHandler(), Protocols: new(http.Protocols)}
	web.Protocols.SetUnencryptedHTTP2(true)
	var wg sync.WaitGroup
	wg.Go(func() { _ = web.Serve(l) })
	defer wg.Wait()
	defer web.Close()
	m := client(t, "client", mesh.Table{"db": l.Addr().String()})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := m.Call(ctx, "db@echo", "GO", nil); !errors.Is(err, mesh.ErrConnect) {
		t.Error(err)
	} else {
		t.Log(err)
	}
}

// F19: a server takes connections and never says a word: the dial ends after C,
// and other nodes do not notice (F16).
func TestF16F19SilentServer(t *testing.T) {
	addr, taken := garbage(t, func(net.Conn) {})
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"mute": addr, "db": n.addr})
	l := h.begin(m, "db@echo", 4, 0, 20*time.Second)
	l.goesOn(100, 20*time.Second)
	start := time.Now()
	_, err := m.Call(context.Background(), "mute@echo", "GO", nil)
	if took := time.Since(start); !errors.Is(err, mesh.ErrConnect) || took < dialTime-time.Second || took > dialTime+slack {
		t.Errorf("after %s: %v", took, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	timed(t, "a waiter's own deadline", 200*time.Millisecond+slack/2, func() {
		if _, err := m.Call(ctx, "mute@echo", "GO", nil, mesh.WaitUp); !errors.Is(err, context.DeadlineExceeded) || mesh.VerdictOf(err) != mesh.NotSent {
			t.Error(err)
		}
	})
	l.goesOn(100, 20*time.Second)
	l.stop()
	if c := h.count(); len(c) != 1 || taken.Load() == 0 {
		t.Errorf("%v, %d connections", c, taken.Load())
	}
	h.check()
}

// certificate writes the files of a process and returns where they are.
func certificate(t *testing.T, ca *access.Authority, name, dir string) *mesh.TLS {
	t.Helper()
	own, err := ca.Issue(access.Subject{Names: []string{name}, Domain: "mesh", Hosts: []string{"127.0.0.1", "localhost"}, Valid: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	root, err := ca.Pair()
	if err != nil {
		t.Fatal(err)
	}
	at := func(kind string) string { return fmt.Sprintf("%s/%s-%s.pem", dir, name, kind) }
	for path, content := range map[string][]byte{at("cert"): own.Cert, at("key"): own.Key, at("ca"): root.Cert} {
		replace(t, path, content)
	}
	return &mesh.TLS{Cert: at("cert"), Key: at("key"), CA: at("ca")}
}
