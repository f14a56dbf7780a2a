package mesh_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// fakeLink is what a listener that is not ours does with a link.
type fakeLink func(s grpc.BidiStreamingServer[meshv1.LinkRequest, meshv1.LinkResponse]) error

type fakeListener struct {
	meshv1.UnimplementedClusterServiceServer
	link fakeLink
}

// Link is the gRPC method.
func (f fakeListener) Link(s grpc.BidiStreamingServer[meshv1.LinkRequest, meshv1.LinkResponse]) error {
	return f.link(s)
}

// fake listens at addr with a gRPC server that is no mesh.
func (w *world) fake(addr string, link fakeLink) {
	w.Helper()
	l, err := w.Listen(addr)
	if err != nil {
		w.Fatal(err)
	}
	srv := grpc.NewServer()
	meshv1.RegisterClusterServiceServer(srv, fakeListener{link: link})
	go func() { _ = srv.Serve(l) }()
	w.Cleanup(srv.Stop)
}

func heartbeat(stopped bool) *meshv1.LinkResponse {
	return &meshv1.LinkResponse{Frames: []*meshv1.Frame{
		{Body: &meshv1.Frame_Heartbeat{Heartbeat: &meshv1.Heartbeat{ReadingStopped: stopped}}},
	}}
}

func hello() *meshv1.LinkResponse {
	return &meshv1.LinkResponse{Frames: []*meshv1.Frame{
		{Body: &meshv1.Frame_Hello{Hello: &meshv1.Hello{Version: 1, Process: "fake", Incarnation: 7}}},
	}}
}

// M14: a dial goes on when the last who waited for it has left, and its link is
// kept.
func TestDialGoesOnWithoutItsCallers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", echo)
		w.Freeze("db:1", true, true)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.fails(w.ask(w.within(time.Second), m, "db@sdb", "GET", nil), mesh.NotSent, context.DeadlineExceeded)
		w.Freeze("db:1", false, false)
		synctest.Wait()
		if s := m.Node("db").State; s != mesh.Up {
			t.Errorf("the node is %v", s)
		}
		w.succeeds(w.ask(w.within(time.Second), m, "db@sdb", "GET", []byte("x")), "x")
		w.counts("dials", w.Dials("db:1"), 1)
	})
}

// M14, F25: an address that changes while a dial runs wins, even where the dial
// succeeds; each address is dialled once, and nothing reaches the old one.
func TestNewAddressWinsOverARunningDial(t *testing.T) {
	inWorld(t, func(w *world) {
		a, b := &diary{who: "a "}, &diary{who: "b "}
		w.serve("a", "db:1", "sdb", a.handle)
		w.serve("b", "db:2", "sdb", b.handle)
		m := w.process("client", func(o *mesh.Options) {
			o.Dial = func(_ context.Context, addr string) (net.Conn, error) { // deaf to its context
				if addr == "db:1" {
					time.Sleep(time.Second)
				}
				return w.Dial(context.Background(), addr)
			}
		})
		w.reload(m, mesh.Table{"db": "db:1"})
		var calls []*asked
		for i := range 10 {
			calls = append(calls, w.ask(context.Background(), m, "db@sdb", fmt.Sprint(i), nil))
		}
		w.rests(calls...)
		w.reload(m, mesh.Table{"db": "db:2"})
		for i, c := range calls {
			w.succeeds(c, fmt.Sprint("b ", i))
			if c.took != 0 {
				t.Errorf("call %d took %v", i, c.took)
			}
		}
		time.Sleep(10 * time.Second)
		w.ranExactly(a)
		w.counts("links to the old address", w.Conns("db:1"), 0)
		w.counts("dials of the old address", w.Dials("db:1"), 1)
		w.counts("dials of the new address", w.Dials("db:2"), 1)
		if i := m.Node("db"); i.State != mesh.Up || i.Process != "b" {
			t.Errorf("at the end: %+v", i)
		}
	})
}

// M7, M8, M14: a node that becomes down or absent while it is dialled.
func TestNodeGoesWhileItIsDialled(t *testing.T) {
	for name, c := range map[string]struct {
		table mesh.Table
		opts  []grpc.CallOption
		cause error
	}{
		"down":                 {mesh.Table{"db": false}, nil, mesh.ErrDown},
		"absent":               {mesh.Table{"db": nil}, nil, nil},
		"absent and nowaiting": {mesh.Table{"db": nil, "__nowaiting": true}, nil, mesh.ErrAbsent},
		"absent and NoWait":    {mesh.Table{"db": nil}, []grpc.CallOption{mesh.NoWait}, mesh.ErrAbsent},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.Hang("db:1", true)
				w.serve("server", "db:2", "sdb", echo)
				m := w.process("client")
				w.reload(m, mesh.Table{"db": "db:1"})
				a := w.ask(context.Background(), m, "db@sdb", "GET", []byte("x"), c.opts...)
				w.rests(a)
				w.reload(m, c.table)
				synctest.Wait()
				switch {
				case c.cause == nil:
					time.Sleep(time.Hour)
					w.rests(a)
					w.reload(m, mesh.Table{"db": "db:2"})
					w.succeeds(a, "x")
				case !a.over():
					t.Error("the call waits on")
					w.reload(m, mesh.Table{"db": "db:2"})
				default:
					w.fails(a, mesh.NotSent, c.cause)
				}
			})
		})
	}
}

// M15, F19: a dial has a bound, whatever the other end does instead of an
// answer. All who stand in the line fail together.
func TestDialHasABound(t *testing.T) {
	silent := func(w *world, then func(net.Conn)) {
		l, err := w.Listen("db:1")
		if err != nil {
			w.Fatal(err)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go then(conn)
			}
		}()
		w.Cleanup(func() { _ = l.Close() })
	}
	for name, prepare := range map[string]func(*world){
		"no connection": func(w *world) { w.Hang("db:1", true) },
		"no settings":   func(w *world) { silent(w, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) },
		"no reader":     func(w *world) { silent(w, func(net.Conn) {}) },
		"no hello": func(w *world) {
			w.fake("db:1", func(s grpc.BidiStreamingServer[meshv1.LinkRequest, meshv1.LinkResponse]) error {
				<-s.Context().Done()
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				prepare(w)
				m := w.process("client")
				w.reload(m, mesh.Table{"db": "db:1"})
				early := w.ask(context.Background(), m, "db@sdb", "GET", nil, mesh.NoWait)
				time.Sleep(2 * time.Second)
				late := w.ask(context.Background(), m, "db@sdb", "GET", nil)
				for _, a := range []*asked{early, late} {
					w.fails(a, mesh.NotSent, mesh.ErrConnect)
					if !strings.HasPrefix(a.err.Error(), "connect [db] (db:1): ") {
						t.Errorf("error %q", a.err)
					}
				}
				if early.took != 5*time.Second || late.took != 3*time.Second {
					t.Errorf("failed after %v and %v", early.took, late.took)
				}
				synctest.Wait()
				w.counts("dials", w.Dials("db:1"), 1)
				w.counts("connections left", w.Conns("db:1"), 0)
			})
		})
	}
}

// M15: the sentence of a failed dial.
func TestFailedDialSaysWhy(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		a := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		w.fails(a, mesh.NotSent, mesh.ErrConnect)
		if want := "connect [db] (db:1): dial db:1: connection refused"; a.err.Error() != want {
			t.Errorf("error %q, want %q", a.err, want)
		}
		w.isError(m.Send(context.Background(), "db@sdb", "SET", nil), mesh.NotSent, mesh.ErrConnect)
	})
}

// M15: dials after a failure are spaced, from 100 ms to 3 s with jitter.
func TestDialsAreSpaced(t *testing.T) {
	inWorld(t, func(w *world) {
		var mu sync.Mutex
		var tries []time.Time
		m := w.process("client", func(o *mesh.Options) {
			o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				tries = append(tries, time.Now())
				return w.Dial(ctx, addr)
			}
		})
		w.reload(m, mesh.Table{"db": "db:1"})
		a := w.ask(w.within(time.Minute), m, "db@sdb", "GET", nil, mesh.WaitUp)
		w.fails(a, mesh.NotSent, context.DeadlineExceeded)
		mu.Lock()
		defer mu.Unlock()
		different := make(map[time.Duration]bool)
		for i, most := 1, 100*time.Millisecond; i < len(tries); i, most = i+1, min(2*most, 3*time.Second) {
			gap := tries[i].Sub(tries[i-1])
			if gap < max(most/2, 100*time.Millisecond) || gap > most {
				t.Errorf("pause %d is %v, want %v to %v", i, gap, max(most/2, 100*time.Millisecond), most)
			}
			if most == 3*time.Second {
				different[gap] = true
			}
		}
		if n := len(tries); n < 20 || n > 46 {
			t.Errorf("%d dials in a minute", n)
		}
		if len(different) < 2 {
			t.Error("the pauses have no jitter")
		}
	})
}

// M12, M15: in the pause after a failed dial a caller waits for the next try;
// with NoWait it fails at once with the last cause, and nothing is dialled.
func TestPauseAfterAFailedDial(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.fails(w.ask(context.Background(), m, "db@sdb", "GET", nil), mesh.NotSent, mesh.ErrConnect)
		a := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		w.rests(a)
		n := w.ask(context.Background(), m, "db@sdb", "GET", nil, mesh.NoWait)
		if !n.over() {
			t.Fatal("NoWait waits in the pause")
		}
		w.fails(n, mesh.NotSent, mesh.ErrConnect)
		if n.err.Error() != "connect [db] (db:1): dial db:1: connection refused" {
			t.Errorf("error %q", n.err)
		}
		w.counts("dials", w.Dials("db:1"), 1)
		w.serve("server", "db:1", "sdb", echo)
		w.succeeds(a, "")
		if a.took != 100*time.Millisecond {
			t.Errorf("the first pause was %v", a.took)
		}
		w.counts("dials", w.Dials("db:1"), 2)
	})
}

// M13, M15: with WaitUp a failed dial is told to nobody; others in the same
// line fail.
func TestWaitUpWaitsUntilTheNodeIsThere(t *testing.T) {
	inWorld(t, func(w *world) {
		d := &diary{}
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		var calls []*asked
		for i := range 5 {
			calls = append(calls, w.ask(context.Background(), m, "db@sdb", fmt.Sprint(i), nil, mesh.WaitUp))
		}
		time.Sleep(10 * time.Minute)
		w.rests(calls...)
		w.fails(w.ask(context.Background(), m, "db@sdb", "impatient", nil), mesh.NotSent, mesh.ErrConnect)
		w.serve("server", "db:1", "sdb", d.handle)
		for i, c := range calls {
			w.succeeds(c, fmt.Sprint(i))
		}
		w.ranExactly(d, "0", "1", "2", "3", "4")
	})
}

// flipped notes how often each call ran.
type flipped struct {
	mu   sync.Mutex
	runs map[string]int
}

func (f *flipped) handle(_ context.Context, id string, payload []byte) ([]byte, error) {
	f.mu.Lock()
	f.runs[id]++
	n := len(f.runs)
	f.mu.Unlock()
	time.Sleep(time.Duration(n%23) * time.Millisecond)
	return payload, nil
}

// check says whether the runs of a call fit its outcome (M21, M22, M23).
func (f *flipped) check(w *world, id string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, v := f.runs[id], mesh.VerdictOf(err)
	unsent := v == mesh.NotSent || v == mesh.Rejected
	if n > 1 || err == nil && n != 1 || unsent && n != 0 || err != nil && !unsent && v != mesh.MaybeExecuted {
		w.Errorf("call %s ran %d times: %v (%v)", id, n, err, v)
	}
}

// M6, M14, M21, M22, F24: the address flips 100 times a second under 64
// callers: each call has one outcome, and none runs twice.
func TestAddressFlipsUnderCallers(t *testing.T) {
	inWorld(t, func(w *world) {
		f := &flipped{runs: make(map[string]int)}
		w.serve("a", "db:1", "sdb", f.handle, mesh.Concurrent(0))
		w.serve("b", "db:2", "sdb", f.handle, mesh.Concurrent(0))
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					id := fmt.Sprintf("%d/%d", i, n)
					reply, err := m.Call(context.Background(), "db@sdb", id, []byte(id))
					f.check(w, id, err)
					if err == nil && string(reply) != id {
						t.Errorf("the reply of %s is %s", id, reply)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		const flips = 150
		for i := range flips {
			time.Sleep(10 * time.Millisecond)
			w.reload(m, mesh.Table{"db": fmt.Sprint("db:", 1+(i+1)%2)})
		}
		time.Sleep(time.Second)
		stop()
		wg.Wait()
		if n := w.Dials("db:1") + w.Dials("db:2"); n > flips+1 || n < flips/2 {
			t.Errorf("%d dials for %d flips", n, flips)
		}
		if len(f.runs) < 64*flips/4 {
			t.Errorf("only %d calls ran", len(f.runs))
		}
		if i := m.Node("db"); i.State != mesh.Up || i.Process != "a" || i.Addr != "db:1" {
			t.Errorf("at the end: %+v", i)
		}
		w.counts("calls in flight", m.Stats().InFlight+m.Stats().Waiting, 0)
	})
}
