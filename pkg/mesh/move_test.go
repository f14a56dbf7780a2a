package mesh_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// observed returns a logger and what it logs.
func observed() (func(*mesh.Options), *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	return func(o *mesh.Options) { o.Logger = zap.New(core) }, logs
}

func drainTime(d time.Duration) func(*mesh.Options) {
	return func(o *mesh.Options) { o.DrainTime = d }
}

// callsInFlight bounds what a listener takes at once; the rest stands in the
// line of its caller.
func callsInFlight(n int) func(*mesh.Options) {
	return func(o *mesh.Options) { o.Limits.CallsInFlight = n }
}

// M5, F25: the same address again causes no reconnect, and leaves calls alone.
func TestSameAddressAgainKeepsTheLink(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("a ")
		w.serve("server", "db:1", "sdb", g.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		a := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		for range 5 {
			w.reload(m, mesh.Table{"db": "db:1", "other": "db:7"})
			w.reload(m, mesh.Table{"other": nil})
			time.Sleep(time.Second)
		}
		w.rests(a)
		close(g.open)
		w.succeeds(a, "a GET")
		w.counts("dials", w.Dials("db:1"), 1)
		w.counts("links", w.Conns("db:1"), 1)
	})
}

// M6: a move returns at once; new calls go to the new address while the old
// ones finish, and the old link closes with the last of them.
func TestMoveLetsCallsInFlightFinish(t *testing.T) {
	inWorld(t, func(w *world) {
		g, b := newDoor("a "), &diary{who: "b "}
		w.serve("a", "db:1", "sdb", g.handle)
		w.serve("b", "db:2", "sdb", b.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		old := w.ask(context.Background(), m, "db@sdb", "old", nil)
		start := time.Now()
		w.reload(m, mesh.Table{"db": "db:2"})
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "new", nil), "b new")
		if d := time.Since(start); d != 0 {
			t.Errorf("the move took %v", d)
		}
		time.Sleep(9900 * time.Millisecond)
		w.rests(old)
		w.counts("links to the old address", w.Conns("db:1"), 1)
		close(g.open)
		w.succeeds(old, "a old")
		synctest.Wait()
		w.counts("links to the old address after its last call", w.Conns("db:1"), 0)
		w.ranExactly(b, "new")
		w.counts("links lost", int(m.Stats().LinksLost), 0)
	})
}

// M6, M32, M34: after the drain time the calls that are left fail at once, and
// the contexts of their handlers end.
func TestMoveCutsAfterTheDrainTime(t *testing.T) {
	for set, want := range map[time.Duration]time.Duration{0: 10 * time.Second, 3 * time.Second: 3 * time.Second, -1: 0} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			inWorld(t, func(w *world) {
				g := newDoor("a ")
				w.serve("a", "db:1", "sdb", g.handle)
				w.serve("b", "db:2", "sdb", echo)
				m := w.process("client", drainTime(set))
				w.reload(m, mesh.Table{"db": "db:1"})
				x := w.ask(context.Background(), m, "db@sdb", "1", nil)
				y := w.ask(context.Background(), m, "db@sdb", "2", nil)
				w.reload(m, mesh.Table{"db": "db:2"})
				for _, a := range []*asked{x, y} {
					w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken)
					if a.took != want {
						t.Errorf("failed after %v, want %v", a.took, want)
					}
				}
				synctest.Wait()
				w.counts("handlers whose contexts ended", g.wasCut(), 2)
				w.counts("links to the old address", w.Conns("db:1"), 0)
			})
		})
	}
}

// M6: a node has one draining link at most; the next move cuts it.
func TestSecondMoveCutsTheDrainingLink(t *testing.T) {
	inWorld(t, func(w *world) {
		g := []*door{newDoor("1 "), newDoor("2 ")}
		w.serve("a", "db:1", "sdb", g[0].handle)
		w.serve("b", "db:2", "sdb", g[1].handle)
		w.serve("c", "db:3", "sdb", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		first := w.ask(context.Background(), m, "db@sdb", "first", nil)
		w.reload(m, mesh.Table{"db": "db:2"})
		second := w.ask(context.Background(), m, "db@sdb", "second", nil)
		w.rests(first, second)
		time.Sleep(time.Second)
		w.reload(m, mesh.Table{"db": "db:3"})
		w.fails(first, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		if first.took != time.Second {
			t.Errorf("failed after %v, want 1s", first.took)
		}
		w.rests(second)
		close(g[1].open)
		w.succeeds(second, "2 second")
	})
}

// M6, M36: what stands in the line goes on at the new address, in order, pushes
// that were accepted too; what is in flight stays where it is.
func TestLineGoesOnAtTheNewAddress(t *testing.T) {
	inWorld(t, func(w *world) {
		g, b := newDoor("a "), &diary{who: "b "}
		a := w.process("a", callsInFlight(1))
		w.open(a, "db:1")
		w.register(a, "sdb", g.handle)
		w.serve("b", "db:2", "sdb", b.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		flight := w.ask(context.Background(), m, "db@sdb", "flight", nil)
		var want []string
		var calls []*asked
		for i := range 10 {
			method := fmt.Sprint(i)
			want = append(want, method)
			if i%2 == 0 {
				calls = append(calls, w.ask(context.Background(), m, "db@sdb", method, nil))
			} else {
				w.sends(m, "db@sdb", method, nil)
			}
		}
		w.rests(calls...)
		w.reload(m, mesh.Table{"db": "db:2"})
		for i, c := range calls {
			w.succeeds(c, fmt.Sprint("b ", 2*i))
		}
		w.ranExactly(b, want...)
		close(g.open)
		w.succeeds(flight, "a flight")
		w.ranExactly(&g.diary, "flight")
	})
}

// M6: a node that was never used is not dialled by a reload; one that has a
// link is, whether anyone calls or not, and a failure is logged.
func TestMoveDialsWhereTheNodeWasLinked(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("b", "db:2", "sdb", echo)
		log, logs := observed()
		m := w.process("client", log)
		w.reload(m, mesh.Table{"db": "db:1"})
		w.reload(m, mesh.Table{"db": "db:2"})
		time.Sleep(time.Minute)
		w.counts("dials before the first use", w.Dials("db:1")+w.Dials("db:2"), 0)
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", []byte("x")), "x")
		w.counts("dials of the old address", w.Dials("db:1"), 0)
		w.reload(m, mesh.Table{"db": "db:3"})
		synctest.Wait()
		w.counts("dials of a new address without a caller", w.Dials("db:3"), 1)
		failed := logs.FilterMessage("dial failed").FilterField(zap.String("node", "db")).FilterField(zap.String("addr", "db:3"))
		w.counts("log lines", failed.Len(), 1)
		if s := m.Node("db").State; s != mesh.Lost {
			t.Errorf("the node is %v", s)
		}
	})
}

// M7, M8, M9, F23: a node that is set to down closes its link: calls in flight
// fail at once as by a break, what stands in the line as down, later calls at
// once and without a dial; an address brings it back.
func TestDownEndsTheLink(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("")
		server := w.process("server", callsInFlight(2))
		w.open(server, "db:1")
		w.register(server, "sdb", g.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		p := m.Proxy("db@sdb")
		a := w.ask(context.Background(), m, "db@sdb", "a", nil)
		b := w.ask(context.Background(), m, "db@sdb", "b", nil)
		line := w.ask(context.Background(), m, "db@sdb", "line", nil)
		w.sends(m, "db@sdb", "push", nil)
		start := time.Now()
		w.reload(m, mesh.Table{"db": false})
		w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		w.fails(b, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		w.fails(line, mesh.NotSent, mesh.ErrDown)
		w.counts("pushes lost", int(m.Stats().PushesLostTable), 1)
		for range 3 {
			_, err := p.Call(context.Background(), "c", nil)
			w.isError(err, mesh.NotSent, mesh.ErrDown)
			w.isError(p.Send(context.Background(), "c", nil), mesh.NotSent, mesh.ErrDown)
			if err.Error() != "cluster node [db] is down." {
				t.Errorf("error %q", err)
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("that took %v", d)
		}
		synctest.Wait()
		w.counts("handlers whose contexts ended", g.wasCut(), 2)
		w.counts("links", w.Conns("db:1"), 0)
		w.counts("dials", w.Dials("db:1"), 1)
		close(g.open)
		w.reload(m, mesh.Table{"db": "db:1"})
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "d", nil), "d")
		w.ranExactly(&g.diary, "a", "b", "d")
	})
}

// M7, M11: a node that is set back to absent closes its link, and later callers
// wait for an address.
func TestAbsentAgainEndsTheLink(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", newDoor("").handle)
		w.serve("other", "db:2", "sdb", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		a := w.ask(context.Background(), m, "db@sdb", "a", nil)
		w.reload(m, mesh.Table{"db": nil})
		w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		b := w.ask(context.Background(), m, "db@sdb", "b", []byte("x"))
		time.Sleep(time.Hour)
		w.rests(b)
		w.fails(w.ask(context.Background(), m, "db@sdb", "c", nil, mesh.NoWait), mesh.NotSent, mesh.ErrAbsent)
		w.counts("links", w.Conns("db:1"), 0)
		w.counts("dials", w.Dials("db:1"), 1)
		w.reload(m, mesh.Table{"db": "db:2"})
		w.succeeds(b, "x")
	})
}

// M2, M7, M10, F21, F22: __nowaiting wakes everyone who waits: nodes that are
// still absent fail, those that got an address go ahead. Off, callers wait.
func TestNoWaitingWakesWhoWaits(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", echo)
		m := w.process("client")
		ctx, cancel := context.WithCancel(context.Background())
		left := w.ask(ctx, m, "gone@sdb", "GET", nil)
		var gone, db []*asked
		for range 50 {
			gone = append(gone, w.ask(context.Background(), m, "gone@sdb", "GET", nil))
			db = append(db, w.ask(context.Background(), m, "db@sdb", "GET", []byte("x")))
		}
		cancel()
		w.fails(left, mesh.NotSent, context.Canceled)
		w.rests(append(gone, db...)...)
		w.counts("waiting", m.Stats().Waiting, 100)
		w.reload(m, mesh.Table{"db": "db:1", "__nowaiting": true})
		for i := range gone {
			w.fails(gone[i], mesh.NotSent, mesh.ErrAbsent)
			w.succeeds(db[i], "x")
			if gone[i].err.Error() != "cluster node [gone] is absent." || gone[i].took != 0 || db[i].took != 0 {
				t.Errorf("%q after %v, %v", gone[i].err, gone[i].took, db[i].took)
			}
		}
		w.reload(m, mesh.Table{"other": "x:1"})
		w.fails(w.ask(context.Background(), m, "late@sdb", "GET", nil), mesh.NotSent, mesh.ErrAbsent)
		w.reload(m, mesh.Table{"__nowaiting": false})
		late := w.ask(w.within(time.Hour), m, "late@sdb", "GET", nil)
		w.fails(late, mesh.NotSent, context.DeadlineExceeded)
		w.counts("waiting", m.Stats().Waiting, 0)
	})
}

// M18: a proxy stays valid, across down, up, moves and restarts, also one that
// was made while its node was down.
func TestProxyOutlivesItsNode(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("client")
		w.reload(m, mesh.Table{"db": false})
		p := m.Proxy("db@sdb")
		for life, addr := range []string{"db:1", "db:1", "db:2", "db:1"} {
			_, err := p.Call(context.Background(), "GET", nil)
			w.isError(err, mesh.NotSent, mesh.ErrDown)
			server := w.serve(fmt.Sprint("life-", life), addr, "sdb", echo)
			w.reload(m, mesh.Table{"db": addr})
			if got, err := p.Call(w.within(time.Minute), "GET", []byte("x")); err != nil || string(got) != "x" {
				t.Errorf("life %d: %q, %v", life, got, err)
			}
			w.closed(server)
			w.reload(m, mesh.Table{"db": false})
		}
	})
}

// M19, M59: two names for one address are two links with fates of their own,
// and a listener answers under a name that it never opened.
func TestAliasIsALinkOfItsOwn(t *testing.T) {
	inWorld(t, func(w *world) {
		server := w.process("server")
		w.reload(server, mesh.Table{"db2": "db:1"})
		w.open(server, "db2")
		w.register(server, "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			c, _ := mesh.CallerFrom(ctx)
			return []byte(c.Node), nil
		})
		m := w.process("client")
		w.reload(m, mesh.Table{"db2": "db:1", "db3": "db:1"})
		w.succeeds(w.ask(context.Background(), m, "db2@sdb", "GET", nil), "db2")
		w.succeeds(w.ask(context.Background(), m, "db3@sdb", "GET", nil), "db3")
		w.counts("links", w.Conns("db:1"), 2)
		w.reload(m, mesh.Table{"db2": false})
		synctest.Wait()
		w.counts("links", w.Conns("db:1"), 1)
		w.succeeds(w.ask(context.Background(), m, "db3@sdb", "GET", nil), "db3")
		w.counts("dials", w.Dials("db:1"), 2)
	})
}
