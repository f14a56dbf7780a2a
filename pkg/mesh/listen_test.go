package mesh_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// M52: what cannot be opened is told, and opens nothing; a name can be opened
// again when its listener is closed.
func TestOpenTellsWhatIsWrong(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("server")
		w.reload(m, mesh.Table{"db": "db:1", "same": "db:1", "down": false, "gone": nil})
		if l, err := w.Listen("db:1"); err != nil {
			t.Errorf("something listens before Open: %v", err)
		} else {
			_ = l.Close()
		}
		l := w.open(m, "db")
		for name, want := range map[string]struct {
			cause error
			text  string
		}{
			"absent":     {mesh.ErrAbsent, "[absent] is absent"},
			"gone":       {mesh.ErrAbsent, "[gone] is absent"},
			"down":       {mesh.ErrDown, "[down] is down"},
			"db":         {nil, "[db] is open already, on db:1"},
			"same":       {syscall.EADDRINUSE, "db:1"},
			"db:1":       {syscall.EADDRINUSE, "db:1"},
			"a b":        {nil, "not allowed in a node name"},
			"__x":        {nil, "for options"},
			"":           {nil, "empty"},
			"db:":        {nil, "no port"},
			"db:70000":   {nil, "out of range"},
			"unix:":      {nil, "no path"},
			"http://x:1": {nil, "scheme"},
		} {
			got, err := m.Open(name)
			if err == nil || got != nil || !strings.Contains(err.Error(), want.text) || want.cause != nil && !errors.Is(err, want.cause) {
				t.Errorf("open %q: %v, want %q (%v)", name, err, want.text, want.cause)
			}
		}
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := l.Close(context.Background()); err != nil {
			t.Errorf("the second Close: %v", err)
		}
		if got := w.open(m, "db").Addr().String(); got != "db:1" {
			t.Errorf("listens on %s", got)
		}
		w.closed(m)
		if _, err := m.Open("same"); !errors.Is(err, mesh.ErrClosed) {
			t.Errorf("open after Close: %v", err)
		}
	})
}

// onLoopback starts a server on real sockets and returns a client that knows it
// as db, on a port that the system picked, and as unix, on a unix socket.
func onLoopback(t *testing.T, h mesh.Handler) (client *mesh.Mesh) {
	t.Helper()
	var all []*mesh.Mesh
	for _, name := range []string{"server", "client"} {
		m, err := mesh.New(mesh.Options{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		all = append(all, m)
	}
	if err := all[0].Register("sdb", all[0].NewService(h)); err != nil {
		t.Fatal(err)
	}
	path := "unix:" + t.TempDir() + "/socket"
	l, err := all[0].Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := all[0].Open(path); err != nil {
		t.Fatal(err)
	}
	if err := all[1].Reload(mesh.Table{"db": l.Addr().String(), "unix": path}); err != nil {
		t.Fatal(err)
	}
	return all[1]
}

// M52, M61: on a real loopback port 0 picks a port; a unix socket is an address
// too; plaintext is spoken nowhere else.
func TestOpenOnRealSockets(t *testing.T) {
	m := onLoopback(t, echo)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, node := range []string{"db", "unix"} {
		if got, err := m.Call(ctx, node+"@sdb", "GET", []byte(node)); err != nil || string(got) != node {
			t.Errorf("%s: %q, %v", node, got, err)
		}
	}
	if _, err := m.Open("0.0.0.0:0"); err == nil {
		t.Error("plaintext off loopback")
	}
}

// M52: a reload that moves or removes a node that is open here leaves its
// listener where it is, and warns.
func TestReloadLeavesAnOpenListener(t *testing.T) {
	inWorld(t, func(w *world) {
		log, logs := observed()
		server := w.process("server", log)
		w.reload(server, mesh.Table{"db": "db:1"})
		l := w.open(server, "db")
		w.register(server, "sdb", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		warned := func() int {
			return logs.FilterLevelExact(zapcore.WarnLevel).FilterField(zap.String("node", "db")).FilterField(zap.String("listening", "db:1")).Len()
		}
		w.reload(server, mesh.Table{"db": "db:1", "other": "db:9"})
		w.counts("warnings without a move", warned(), 0)
		for i, to := range []any{"db:2", false, nil} {
			w.reload(server, mesh.Table{"db": to})
			w.counts("warnings", warned(), i+1)
			time.Sleep(time.Minute)
			w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", []byte("x")), "x")
		}
		if got := l.Addr().String(); got != "db:1" {
			t.Errorf("listens on %s", got)
		}
		w.counts("dials", w.Dials("db:1"), 1)
		w.counts("dials", w.Dials("db:2"), 0)
	})
}

// M45, M53: a process may open several nodes; closing one ends its links in
// order and leaves the others.
func TestClosingOneListenerLeavesTheOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("")
		server := w.process("server")
		w.reload(server, mesh.Table{"db": "db:1", "db2": "db:2"})
		first := w.open(server, "db")
		w.open(server, "db2")
		w.register(server, "sdb", g.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1", "db2": "db:2"})
		one := w.ask(context.Background(), m, "db@sdb", "one", nil)
		two := w.ask(context.Background(), m, "db2@sdb", "two", nil)
		over := make(chan struct{})
		go func() { _ = first.Close(context.Background()); close(over) }()
		time.Sleep(5 * time.Second)
		w.rests(one, two)
		select {
		case <-over:
			t.Error("Close did not wait for the call that it took")
		default:
		}
		close(g.open)
		w.succeeds(one, "one")
		w.succeeds(two, "two")
		<-over
		w.counts("links of the closed one", w.Conns("db:1"), 0)
		w.counts("links of the other one", w.Conns("db:2"), 1)
		w.succeeds(w.ask(context.Background(), m, "db2@sdb", "three", nil), "three")
		w.counts("dials", w.Dials("db:2"), 1)
		w.fails(w.ask(context.Background(), m, "db@sdb", "four", nil, mesh.NoWait), mesh.NotSent, mesh.ErrConnect)
	})
}

// M15, M54, M56: one link more than a listener takes is refused as a failed
// connect, the others do not notice; a place that is free is given again.
func TestTooManyLinks(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("")
		server := w.process("server", func(o *mesh.Options) { o.Limits.Links = 2 })
		w.open(server, "db:1")
		w.register(server, "sdb", g.handle)
		var in []*mesh.Mesh
		var calls []*asked
		for _, name := range []string{"a", "b", "c"} {
			m := w.process(name)
			w.reload(m, mesh.Table{"db": "db:1"})
			in = append(in, m)
			calls = append(calls, w.ask(context.Background(), m, "db@sdb", name, nil))
		}
		w.fails(calls[2], mesh.NotSent, mesh.ErrConnect)
		if !strings.HasPrefix(calls[2].err.Error(), "connect [db] (db:1): too many links") {
			t.Errorf("error %q", calls[2].err)
		}
		w.counts("links", server.Stats().LinksIn, 2)
		w.rests(calls[:2]...)
		close(g.open)
		w.succeeds(calls[0], "a")
		w.succeeds(calls[1], "b")
		w.closed(in[0])
		w.succeeds(w.ask(context.Background(), in[2], "db@sdb", "c", nil), "c")
		w.succeeds(w.ask(context.Background(), in[1], "db@sdb", "b", nil), "b")
		w.ranExactly(&g.diary, "a", "b", "c", "b")
	})
}

// M54, M56: connections that never become links are bounded too, and end soon.
func TestTooManyConnections(t *testing.T) {
	inWorld(t, func(w *world) {
		server := w.process("server", func(o *mesh.Options) { o.Limits.Links = 2 })
		w.open(server, "db:1")
		w.register(server, "sdb", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", []byte("x")), "x")
		var closed atomic.Int32
		for range 100 {
			c, err := w.Dial(context.Background(), "db:1")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, c); closed.Add(1) }()
			synctest.Wait()
		}
		w.counts("connections that were closed at once", int(closed.Load()), 100-65)
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", []byte("x")), "x")
		time.Sleep(10 * time.Second)
		w.counts("connections that were closed", int(closed.Load()), 100)
		other := w.process("other")
		w.reload(other, mesh.Table{"db": "db:1"})
		w.succeeds(w.ask(context.Background(), other, "db@sdb", "GET", []byte("x")), "x")
		w.counts("dials of the first", int(m.Stats().Dials), 1)
	})
}

// asked is a call that was made on a goroutine of its own.
type asked struct {
	started time.Time
	reply   []byte
	err     error
	took    time.Duration
	done    chan struct{}
}

// ask makes a call and returns when everything is at rest: the call has its
// outcome, is in flight, or stands in the line.
func (w *world) ask(ctx context.Context, m *mesh.Mesh, target, method string, payload []byte, opts ...grpc.CallOption) *asked {
	a := &asked{started: time.Now(), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.reply, a.err = m.Call(ctx, target, method, payload, opts...)
		a.took = time.Since(a.started)
	}()
	synctest.Wait()
	return a
}

// sends checks that a push is accepted.
func (w *world) sends(m *mesh.Mesh, target, method string, payload []byte) {
	w.Helper()
	if err := m.Send(context.Background(), target, method, payload); err != nil {
		w.Errorf("send %s: %v", method, err)
	}
}

func (a *asked) over() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// ends waits for the outcome of a call, and until everything is at rest again.
func (w *world) ends(a *asked) {
	w.Helper()
	select {
	case <-a.done:
	case <-time.After(24 * time.Hour):
		w.Fatal("a call has no outcome")
	}
	synctest.Wait()
}

// fails checks that the call fails like that, and waits for it.
func (w *world) fails(a *asked, v mesh.Verdict, cause error) {
	w.Helper()
	w.ends(a)
	w.isError(a.err, v, cause)
}

// succeeds checks that the call has a reply, and waits for it.
func (w *world) succeeds(a *asked, want string) {
	w.Helper()
	w.ends(a)
	if a.err != nil || string(a.reply) != want {
		w.Errorf("reply %q, error %v; want %q", a.reply, a.err, want)
	}
}

func (w *world) isError(err error, v mesh.Verdict, cause error) {
	w.Helper()
	if !errors.Is(err, cause) || mesh.VerdictOf(err) != v {
		w.Errorf("error %v (%v), want %v (%v)", err, mesh.VerdictOf(err), cause, v)
	}
}

// rests checks that the call has no outcome yet.
func (w *world) rests(as ...*asked) {
	w.Helper()
	synctest.Wait()
	for i, a := range as {
		if a.over() {
			w.Errorf("call %d has its outcome already: %q, %v", i, a.reply, a.err)
		}
	}
}

// diary notes what ran, in order. Its handler answers with who and the method.
type diary struct {
	who string
	mu  sync.Mutex
	ran []string
}

func (d *diary) handle(_ context.Context, method string, _ []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ran = append(d.ran, method)
	return []byte(d.who + method), nil
}

func (d *diary) list() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.ran)
}

func (w *world) ranExactly(d *diary, want ...string) {
	w.Helper()
	synctest.Wait()
	if got := d.list(); !slices.Equal(got, want) {
		w.Errorf("%s ran %q, want %q", d.who, got, want)
	}
}

// door is a service whose handlers wait until it is opened, and end with an
// error when their contexts do.
type door struct {
	diary
	open chan struct{}
	cut  int // handlers whose contexts ended
}

func newDoor(who string) *door { return &door{diary: diary{who: who}, open: make(chan struct{})} }

func (g *door) handle(ctx context.Context, method string, payload []byte) ([]byte, error) {
	reply, err := g.diary.handle(ctx, method, payload)
	mesh.Await(ctx, func() {
		select {
		case <-g.open:
		case <-ctx.Done():
			g.mu.Lock()
			defer g.mu.Unlock()
			g.cut++
			err = ctx.Err()
		}
	})
	return reply, err
}

func (g *door) wasCut() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cut
}

func (w *world) counts(what string, got, want int) {
	w.Helper()
	if got != want {
		w.Errorf("%s: %d, want %d", what, got, want)
	}
}
