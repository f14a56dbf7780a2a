package mesh_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// failure is one way to fail: prepare makes the world in which a call to
// db@sdb, method GET, with the payload and options, fails as want says.
type failure struct {
	name    string
	prepare func(w *world) *mesh.Mesh
	payload int
	options []grpc.CallOption
	target  string // default db@sdb
	method  string // default GET
	pushes  bool   // Send fails in the same way
	want    wantError
}

func (f failure) run(t *testing.T) {
	inWorld(t, func(w *world) {
		m := f.prepare(w)
		target, method := f.target, f.method
		if target == "" {
			target = "db@sdb"
		}
		if method == "" {
			method = "GET"
		}
		want := f.want
		want.target, want.method = target, method
		if want.is != mesh.ErrInvalidTarget {
			want.node = "db"
		}
		payload := make([]byte, f.payload)
		reply, err := m.Call(w.within(3*time.Second), target, method, payload, f.options...)
		if reply != nil {
			w.Errorf("a reply of %d bytes came with the error", len(reply))
		}
		want.check(w.T, err)
		_, err = m.Proxy(target).Call(w.within(3*time.Second), method, payload, f.options...)
		want.check(w.T, err)
		if f.pushes {
			want.check(w.T, m.Send(w.within(3*time.Second), target, method, payload, f.options...))
		}
	})
}

// lonely is a process with a table, and nobody on its network.
func lonely(table mesh.Table, set ...func(*mesh.Options)) func(*world) *mesh.Mesh {
	return func(w *world) *mesh.Mesh {
		m := w.process("client", set...)
		w.reload(m, table)
		return m
	}
}

// toServer is a client of a server with an echo at db@sdb.
func toServer(client, server func(*mesh.Options)) func(*world) *mesh.Mesh {
	return func(w *world) *mesh.Mesh {
		s := w.process("server", server)
		w.open(s, "db:1")
		w.register(s, "sdb", echo)
		m := w.process("client", client)
		w.reload(m, mesh.Table{"db": "db:1"})
		return m
	}
}

func withLimits(l mesh.Limits) func(*mesh.Options) { return func(o *mesh.Options) { o.Limits = l } }
func unchanged(*mesh.Options)                      {}

// M23, M7, M8, M15: what never left says so, and why, in every way in which one
// can ask.
func TestNotSentSaysWhy(t *testing.T) {
	for _, f := range []failure{
		{
			name: "absent", prepare: lonely(mesh.Table{}), options: []grpc.CallOption{mesh.NoWait}, pushes: true,
			want: wantError{is: mesh.ErrAbsent, text: "cluster node [db] is absent."},
		},
		{
			name: "absent with nowaiting", prepare: lonely(mesh.Table{"__nowaiting": true}), pushes: true,
			want: wantError{is: mesh.ErrAbsent, text: "cluster node [db] is absent."},
		},
		{
			name: "down", prepare: lonely(mesh.Table{"db": false}), pushes: true,
			want: wantError{is: mesh.ErrDown, text: "cluster node [db] is down."},
		},
		{
			name: "connect failed", prepare: lonely(mesh.Table{"db": "db:1"}), pushes: true,
			want: wantError{is: mesh.ErrConnect, text: "connect [db] (db:1): "},
		},
		{
			name: "too large here", prepare: toServer(withLimits(mesh.Limits{MessageBytes: 1000}), unchanged), payload: 1001, pushes: true,
			want: wantError{is: mesh.ErrTooLarge, text: "1001 bytes"},
		},
		{
			name: "too large for the node", prepare: toServer(unchanged, withLimits(mesh.Limits{MessageBytes: 1000})), payload: 1001,
			want: wantError{is: mesh.ErrTooLarge, text: "1001 bytes"},
		},
		{
			name: "too large for the call", prepare: toServer(unchanged, unchanged), payload: 1001, pushes: true,
			options: []grpc.CallOption{grpc.MaxCallSendMsgSize(1000)},
			want:    wantError{is: mesh.ErrTooLarge, text: "1001 bytes"},
		},
		{
			name: "method too long", prepare: lonely(mesh.Table{}), method: strings.Repeat("x", 1025), pushes: true,
			want: wantError{is: mesh.ErrInvalidRequest, text: "1025 bytes"},
		},
		{
			name: "headers too long", prepare: lonely(mesh.Table{}), pushes: true,
			options: []grpc.CallOption{mesh.Headers(map[string][]string{"k": {strings.Repeat("x", 8<<10)}})},
			want:    wantError{is: mesh.ErrInvalidRequest, text: "headers"},
		},
		{
			name: "closed", pushes: true, prepare: func(w *world) *mesh.Mesh {
				m := w.process("client")
				_ = m.Close(context.Background())
				return m
			},
			want: wantError{is: mesh.ErrClosed},
		},
		{
			name: "deadline in the line", prepare: lonely(mesh.Table{}), pushes: true,
			want: wantError{is: context.DeadlineExceeded},
		},
	} {
		f.want.verdict = mesh.NotSent
		t.Run(f.name, f.run)
	}
}

// M23, M42: an invalid target is told at first use, with what was asked.
func TestInvalidTargetSaysWhatWasAsked(t *testing.T) {
	for _, target := range []string{"", "db", "@x", "db@", "db:12", "db@a\nb", "d\xff@x"} {
		f := failure{prepare: lonely(mesh.Table{}), target: target, pushes: true, want: wantError{verdict: mesh.NotSent, is: mesh.ErrInvalidTarget}}
		if target == "" { // stands for the default in the table
			f.target = "@"
		}
		t.Run(target, f.run)
	}
}

// M23: a context that ends while the message is in the line: not sent.
func TestCancelledInTheLineIsNotSent(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("client")
		ctx, cancel := context.WithCancel(context.Background())
		errs := make(chan error, 3)
		go func() { _, err := m.Call(ctx, "db@sdb", "GET", nil); errs <- err }()
		go func() { errs <- m.Send(ctx, "db@sdb", "GET", nil) }()
		go func() { _, err := m.Query(ctx, "db@sdb"); errs <- err }()
		synctest.Wait()
		start := time.Now()
		cancel()
		for range cap(errs) {
			wantError{verdict: mesh.NotSent, is: context.Canceled, node: "db", target: "db@sdb"}.check(t, <-errs)
		}
		if !time.Now().Equal(start) {
			t.Error("it took time to leave")
		}
		if n := m.Stats().Waiting; n != 0 {
			t.Errorf("%d calls still wait", n)
		}
		if _, err := m.Call(ctx, "db@sdb", "GET", nil); mesh.VerdictOf(err) != mesh.NotSent {
			t.Errorf("a call with a context that had ended: %v", err)
		}
	})
}

// M23, M12: at the bound of the line one more fails at once.
func TestOverloadedHereIsNotSent(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("client", withLimits(mesh.Limits{LineCalls: 1, LinePushBytes: 1}))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() { _, _ = m.Call(ctx, "db@sdb", "FIRST", nil) }()
		go func() { _ = m.Send(ctx, "db@sdb", "FIRST", nil) }()
		synctest.Wait()
		want := wantError{verdict: mesh.NotSent, is: mesh.ErrOverloaded, node: "db", target: "db@sdb", method: "GET", text: "line of node [db] is full"}
		start := time.Now()
		_, err := m.Call(ctx, "db@sdb", "GET", nil)
		want.check(t, err)
		if !time.Now().Equal(start) {
			t.Error("the call did not fail at once")
		}
		want.check(t, m.Send(ctx, "db@sdb", "GET", nil))
	})
}
