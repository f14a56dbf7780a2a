package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// closing closes m beside the test and tells how long that took.
func (w *world) closing(m *mesh.Mesh) <-chan time.Duration {
	took, start := make(chan time.Duration, 1), time.Now()
	go func() { w.closed(m); took <- time.Since(start) }()
	synctest.Wait()
	return took
}

var bubble = regexp.MustCompile(`synctest bubble \d+`)

// meshGoroutines lists the goroutines of this bubble that the mesh runs.
func meshGoroutines() (left []string) {
	synctest.Wait()
	buf := make([]byte, 4<<20)
	all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	own := bubble.FindString(all[0])
	for _, g := range all[1:] {
		if bubble.FindString(g) == own && (strings.Contains(g, "pkg/channel.") || strings.Contains(g, "pkg/mesh.(") || strings.Contains(g, "pkg/registry.")) {
			left = append(left, g)
		}
	}
	return left
}

// M55, F45: Close while a dial runs: who waits for it fails as closed, and it
// leaves nothing.
func TestCloseDuringADial(t *testing.T) {
	for name, stall := range map[string]func(*world){
		"connecting": func(w *world) { w.Hang("db:1", true) },
		"greeting":   func(w *world) { w.Freeze("db:1", true, true) },
		"pause":      func(*world) {},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				if name != "pause" {
					w.serve("server", "db:1", "sdb", echo)
				}
				stall(w)
				m := w.process("client")
				w.reload(m, mesh.Table{"db": "db:1"})
				var calls []*asked
				for range 10 {
					calls = append(calls, w.ask(context.Background(), m, "db@sdb", "GET", nil, mesh.WaitUp))
				}
				w.rests(calls...)
				w.closed(m)
				for _, a := range calls {
					w.fails(a, mesh.NotSent, mesh.ErrClosed)
					if a.took != 0 {
						t.Errorf("told after %v", a.took)
					}
				}
				for _, g := range meshGoroutines() {
					if strings.Contains(g, "Manager).connect") {
						t.Error("a dial is left:", g)
					}
				}
				dials := w.Dials("db:1")
				time.Sleep(time.Minute)
				w.counts("dials after Close", w.Dials("db:1")-dials, 0)
			})
		})
	}
}

// M21, M55, F45: Close with 10,000 callers that wait, for a node that is absent
// and behind one that does not answer: each has one outcome.
func TestCloseWithWaitingCallers(t *testing.T) {
	inWorld(t, func(w *world) {
		server := w.process("server", callsInFlight(2))
		w.open(server, "db:1")
		w.register(server, "sdb", newDoor("").handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		var closed, cut atomic.Int32
		var wg sync.WaitGroup
		for i := range 10_000 {
			wg.Go(func() {
				_, err := m.Call(context.Background(), []string{"db@sdb", "absent@sdb"}[i%2], "GET", nil)
				switch {
				case errors.Is(err, mesh.ErrClosed) && mesh.VerdictOf(err) == mesh.NotSent:
					closed.Add(1)
				case errors.Is(err, mesh.ErrLinkBroken) && mesh.VerdictOf(err) == mesh.MaybeExecuted:
					cut.Add(1)
				default:
					w.Error(err)
				}
			})
		}
		synctest.Wait()
		w.counts("waiting", m.Stats().Waiting, 9998)
		if d := <-w.closing(m); d != 10*time.Second {
			t.Errorf("closed after %v", d)
		}
		wg.Wait()
		w.counts("not sent", int(closed.Load()), 9998)
		w.counts("cut", int(cut.Load()), 2)
	})
}

// M55: twice, at once and one after the other, is once; what comes after Close
// is refused.
func TestCloseTwice(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("")
		server := w.serve("server", "db:1", "sdb", g.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.reload(server, mesh.Table{"db": "db:1"})
		a := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		var tries []<-chan time.Duration
		for range 10 {
			tries = append(tries, w.closing(server))
		}
		if err := server.Close(w.within(time.Second)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a Close beside another: %v", err)
		}
		w.fails(w.ask(context.Background(), server, "db@sdb", "GET", nil), mesh.NotSent, mesh.ErrClosed)
		close(g.open)
		w.succeeds(a, "GET")
		for _, c := range tries {
			if d := <-c; d != time.Second {
				t.Errorf("closed after %v", d)
			}
		}
		w.closed(server)
		w.isError(server.Send(context.Background(), "db@sdb", "GET", nil), mesh.NotSent, mesh.ErrClosed)
		_, err := server.Query(context.Background(), "db@sdb")
		w.isError(err, mesh.NotSent, mesh.ErrClosed)
		w.isError(server.WaitReady(context.Background(), "db"), mesh.NotSent, mesh.ErrClosed)
		if _, err := server.Open("db"); !errors.Is(err, mesh.ErrClosed) {
			t.Errorf("open: %v", err)
		}
		w.closed(m)
		if left := meshGoroutines(); len(left) > 0 {
			t.Errorf("goroutines left: %s", left)
		}
	})
}

// M55: called with a handler's context Close does not wait for that handler,
// but for the others.
func TestCloseInsideAHandler(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("")
		server := w.process("server")
		w.open(server, "db:1")
		w.register(server, "other", g.handle)
		var took time.Duration
		w.register(server, "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			start := time.Now()
			err := server.Close(ctx)
			took = time.Since(start)
			return nil, err
		})
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		other := w.ask(context.Background(), m, "db@other", "GET", nil)
		a := w.ask(context.Background(), m, "db@sdb", "STOP", nil)
		time.Sleep(3 * time.Second)
		w.rests(other, a)
		close(g.open)
		w.succeeds(other, "GET")
		w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		synctest.Wait()
		if took != 3*time.Second {
			t.Errorf("Close took %v", took)
		}
		w.closed(server)
		w.closed(m)
		if left := meshGoroutines(); len(left) > 0 {
			t.Errorf("goroutines left: %s", left)
		}
	})
}

// M31, M55: while a process closes, its running handlers may call, by links
// that are open and by new ones, calls and pushes alike; others may not.
func TestRunningHandlersMayCallWhileTheProcessCloses(t *testing.T) {
	for name, push := range map[string]bool{"call": false, "push": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				d := &diary{}
				w.serve("back", "back:1", "sdb", d.handle)
				w.serve("new", "new:1", "sdb", d.handle)
				server := w.process("server")
				w.open(server, "db:1")
				w.reload(server, mesh.Table{"back": "back:1", "new": "new:1"})
				w.succeeds(w.ask(context.Background(), server, "back@sdb", "before", nil), "before")
				var errs []error
				w.register(server, "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
					for i := range 4 {
						mesh.Await(ctx, func() { time.Sleep(time.Second) })
						if ctx.Err() != nil {
							errs = append(errs, ctx.Err())
						}
						node := []string{"back", "new"}[i%2]
						child, cancel := context.WithTimeout(ctx, time.Minute)
						if _, err := server.Call(child, node+"@sdb", fmt.Sprint(node, i), nil); err != nil {
							errs = append(errs, err)
						}
						cancel()
					}
					return nil, server.Send(ctx, "back@sdb", "end", nil)
				})
				m := w.process("client")
				w.reload(m, mesh.Table{"db": "db:1"})
				var a *asked
				if push {
					w.sends(m, "db@sdb", "GO", nil)
					synctest.Wait()
				} else {
					a = w.ask(context.Background(), m, "db@sdb", "GO", nil)
				}
				over := w.closing(server)
				w.fails(w.ask(context.Background(), server, "back@sdb", "outside", nil), mesh.NotSent, mesh.ErrClosed)
				if took := <-over; took != 4*time.Second {
					t.Errorf("Close took %v, its last handler 4s", took)
				}
				if a != nil {
					w.succeeds(a, "")
				}
				synctest.Wait()
				if len(errs) > 0 {
					t.Errorf("the handler's calls failed: %v", errs)
				}
				w.ranExactly(d, "before", "back0", "new1", "back2", "new3", "end")
			})
		})
	}
}

// M55: at the end of the drain time, or of Close's context, the contexts of
// the handlers end; one that ignores its own is named in the log and left.
func TestHandlersAreToldToEnd(t *testing.T) {
	for name, c := range map[string]struct{ bound, want time.Duration }{
		"drain time": {time.Hour, 10 * time.Second}, "context": {3 * time.Second, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				log, logs := observed()
				server := w.process("server", log)
				w.open(server, "db:1")
				g := newDoor("")
				var ended []time.Time
				w.register(server, "good", func(ctx context.Context, method string, payload []byte) ([]byte, error) {
					_, err := g.handle(ctx, method, payload)
					ended = append(ended, time.Now())
					return nil, err
				})
				deaf := make(chan struct{})
				w.register(server, "deaf", func(context.Context, string, []byte) ([]byte, error) { <-deaf; return nil, nil })
				m := w.process("client")
				w.reload(m, mesh.Table{"db": "db:1"})
				a := w.ask(context.Background(), m, "db@good", "GET", nil)
				w.sends(m, "db@good", "PUSH", nil)
				b := w.ask(context.Background(), m, "db@deaf", "HEAR", nil)
				start := time.Now()
				if err := server.Close(w.within(c.bound)); err != nil {
					t.Errorf("Close: %v", err)
				}
				if d := time.Since(start); d < c.want || d > c.want+time.Second {
					t.Errorf("Close took %v", d)
				}
				<-a.done
				if v := mesh.VerdictOf(a.err); v != mesh.HandlerFailed && v != mesh.MaybeExecuted {
					t.Errorf("the good handler's caller: %v (%v)", a.err, v)
				}
				w.fails(b, mesh.MaybeExecuted, mesh.ErrLinkBroken)
				synctest.Wait()
				w.counts("good handlers that ended", len(ended), 2)
				for _, at := range ended {
					if d := at.Sub(start); d < c.want || d > c.want+time.Second {
						t.Errorf("a good handler ended after %v", d)
					}
				}
				named := logs.FilterMessageSnippet("still runs").FilterField(zap.String("service", "@deaf")).FilterField(zap.String("method", "HEAR"))
				w.counts("log lines about the deaf one", named.Len(), 1)
				close(deaf)
				w.closed(m)
				if left := meshGoroutines(); len(left) > 0 {
					t.Errorf("goroutines left: %s", left)
				}
			})
		})
	}
}

// M29, M35, M55: pushes that a queue took have the drain time to run; those
// that are left are counted.
func TestQueuedPushesAtTheEndOfTheDrain(t *testing.T) {
	inWorld(t, func(w *world) {
		d := &diary{}
		server := w.serve("server", "db:1", "sdb", func(ctx context.Context, method string, _ []byte) ([]byte, error) {
			time.Sleep(3 * time.Second)
			return d.handle(ctx, method, nil)
		})
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		for i := range 10 {
			w.sends(m, "db@sdb", fmt.Sprint(i), nil)
		}
		synctest.Wait()
		start := time.Now()
		w.closed(server)
		if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("Close took %v", took)
		}
		time.Sleep(time.Minute)
		w.ranExactly(d, "0", "1", "2", "3")
		s := server.Stats()
		w.counts("pushes lost", int(s.PushesRefused+s.PushesUnplaced+s.PushesUnknown), 6)
	})
}

// M36, M37, M55: Close ends in time when the peers are dead.
func TestCloseWithDeadPeers(t *testing.T) {
	inWorld(t, func(w *world) {
		server := w.serve("server", "db:1", "sdb", newDoor("").handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		a := w.ask(context.Background(), m, "db@sdb", "GET", make([]byte, 4<<20))
		b := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		w.Freeze("db:1", true, true)
		x, y := w.closing(m), w.closing(server)
		for _, took := range []time.Duration{<-x, <-y} {
			if took > 12*time.Second {
				t.Errorf("Close took %v", took)
			}
		}
		for _, c := range []*asked{a, b} {
			w.fails(c, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		}
		if left := meshGoroutines(); len(left) > 0 {
			t.Errorf("goroutines left: %s", left)
		}
	})
}
