package mesh_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

func (w *world) closed(m *mesh.Mesh) {
	w.Helper()
	if err := m.Close(context.Background()); err != nil {
		w.Errorf("close %s: %v", m.Name(), err)
	}
}

// M15, M21, M22, M35, F5, F6: a node is restarted in good order under 64
// callers: no call fails, and none runs twice.
func TestRestartInGoodOrderFailsNoCall(t *testing.T) {
	inWorld(t, func(w *world) {
		f := &flipped{runs: make(map[string]int)}
		server := w.serve("life-0", "db:1", "sdb", f.handle, mesh.Concurrent(0))
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					id := fmt.Sprintf("%d/%d", i, n)
					if reply, err := m.Call(context.Background(), "db@sdb", id, []byte(id)); err != nil || string(reply) != id {
						t.Errorf("call %s: %q, %v", id, reply, err)
					}
					f.check(w, id, nil)
					time.Sleep(time.Duration(i%5) * time.Millisecond)
				}
			})
		}
		for life := 1; life <= 5; life++ {
			time.Sleep(200 * time.Millisecond)
			w.closed(server)
			if w.Conns("db:1") != 0 {
				t.Error("the old life left links")
			}
			time.Sleep(time.Duration(life) * 100 * time.Millisecond)
			server = w.serve(fmt.Sprint("life-", life), "db:1", "sdb", f.handle, mesh.Concurrent(0))
		}
		time.Sleep(time.Second)
		stop()
		wg.Wait()
		if i := m.Node("db"); i.Process != "life-5" || i.State != mesh.Up {
			t.Errorf("at the end: %+v", i)
		}
		if n := m.Stats().DialsFailed; n < 5 {
			t.Errorf("only %d dials failed: the restarts were not seen", n)
		}
		w.counts("links lost", int(m.Stats().LinksLost), 0)
	})
}

// M22, M24, M35: calls that a listener had not taken when it said goaway are
// sent again on the next link, in order and before later ones; pushes among
// them are gone, and counted exactly.
func TestGoawayPutsBackWhatWasNotTaken(t *testing.T) {
	inWorld(t, func(w *world) {
		old, young := &diary{who: "old "}, &diary{who: "young "}
		server := w.serve("old", "db:1", "sdb", old.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "before", nil), "old before")
		w.Freeze("db:1", true, false) // what is sent now is not read before the goaway
		var calls []*asked
		var want []string
		for i := range 30 {
			method := fmt.Sprint(i)
			if i%3 == 1 {
				w.sends(m, "db@sdb", method, nil)
				continue
			}
			calls, want = append(calls, w.ask(context.Background(), m, "db@sdb", method, nil)), append(want, method)
		}
		w.sends(m, "db@sdb", "large", make([]byte, 1<<20)) // has begun and not ended
		synctest.Wait()
		w.counts("calls in flight", m.Stats().InFlight, 20)
		w.closed(server)
		w.counts("pushes lost", int(m.Stats().PushesLostGoaway), 11)
		if s := m.Node("db").State; s != mesh.Lost && s != mesh.Leaving {
			t.Errorf("the node is %v", s)
		}
		calls, want = append(calls, w.ask(context.Background(), m, "db@sdb", "after", nil)), append(want, "after")
		w.rests(calls...)
		w.Freeze("db:1", false, false)
		w.serve("young", "db:1", "sdb", young.handle)
		for i, c := range calls {
			w.succeeds(c, "young "+want[i])
		}
		w.ranExactly(old, "before")
		w.ranExactly(young, want...)
		w.counts("pushes lost", int(m.Stats().PushesLostGoaway), 11)
		w.counts("pushes lost by a break", int(m.Stats().PushesLostBroken), 0)
	})
}

// M35, M36, M37: what was taken before the goaway has the drain time to finish,
// a large request and a cancel too; then the listener ends the stream.
func TestTakenCallsFinishAfterGoaway(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("a ")
		server := w.process("server")
		l := w.open(server, "db:1")
		w.register(server, "sdb", g.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		a := w.ask(context.Background(), m, "db@sdb", "a", make([]byte, 1<<20))
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(3*time.Second, cancel)
		gone := w.ask(ctx, m, "db@sdb", "gone", nil)
		go func() { _ = l.Close(context.Background()) }()
		synctest.Wait()
		if i := m.Node("db"); i.State != mesh.Leaving || i.Reason == "" {
			t.Errorf("the node is %+v", i)
		}
		w.fails(gone, mesh.MaybeExecuted, context.Canceled)
		synctest.Wait()
		w.counts("handlers whose contexts ended", g.wasCut(), 1)
		time.Sleep(6 * time.Second) // longer than a silence
		w.rests(a)
		close(g.open)
		w.succeeds(a, "a a")
		synctest.Wait()
		w.counts("links", w.Conns("db:1"), 0)
		w.counts("links lost", int(m.Stats().LinksLost), 0)
		if s := m.Node("db").State; s != mesh.Idle {
			t.Errorf("the node is %v", s)
		}
	})
}

// M22, M35: what still waits in a service's queue at the end of the drain time
// is rejected as draining, which its caller's mesh sends again; what runs then
// is cut.
func TestQueuedCallsAreRetriedAfterTheDrain(t *testing.T) {
	inWorld(t, func(w *world) {
		g, young := &diary{who: "old "}, &diary{who: "young "}
		server := w.serve("old", "db:1", "sdb", func(ctx context.Context, method string, payload []byte) ([]byte, error) {
			_, _ = g.handle(ctx, method, payload)
			<-ctx.Done() // keeps the turn
			return nil, ctx.Err()
		})
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		running := w.ask(context.Background(), m, "db@sdb", "running", nil)
		var queued []*asked
		var want []string
		for i := range 20 {
			queued, want = append(queued, w.ask(context.Background(), m, "db@sdb", fmt.Sprint(i), nil)), append(want, fmt.Sprint(i))
		}
		start := time.Now()
		go w.closed(server)
		synctest.Wait()
		w.serve("young", "db:1", "sdb", young.handle)
		time.Sleep(9 * time.Second)
		w.rests(append(queued, running)...)
		for i, a := range queued {
			w.succeeds(a, "young "+want[i])
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("retried after %v", d)
		}
		w.fails(running, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		w.ranExactly(g, "running")
		got := young.list()
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("the new life ran %q, want %q", got, want)
		}
	})
}

// M15, M35: for 30 s after a goaway a failed dial is told to NoWait callers
// alone; the others stay in line, and WaitUp stays longer.
func TestThirtySecondsOfPatienceAfterGoaway(t *testing.T) {
	inWorld(t, func(w *world) {
		server := w.serve("old", "db:1", "sdb", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", nil), "")
		w.closed(server)
		w.Hang("db:1", true)
		time.Sleep(time.Second)
		up := w.ask(context.Background(), m, "db@sdb", "GET", []byte("up"), mesh.WaitUp)
		patient := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		w.rests(patient, up)
		n := w.ask(context.Background(), m, "db@sdb", "GET", nil, mesh.NoWait)
		w.rests(n) // a dial is waited for, its failure is told
		w.fails(n, mesh.NotSent, mesh.ErrConnect)
		w.rests(patient, up)
		w.Hang("db:1", false)
		if n = w.ask(context.Background(), m, "db@sdb", "GET", nil, mesh.NoWait); !n.over() {
			t.Error("NoWait waits in the pause")
		}
		w.fails(n, mesh.NotSent, mesh.ErrConnect)
		w.fails(patient, mesh.NotSent, mesh.ErrConnect)
		if patient.took < 29*time.Second || patient.took > 32*time.Second {
			t.Errorf("told after %v", patient.took+time.Second)
		}
		w.rests(up)
		w.fails(w.ask(context.Background(), m, "db@sdb", "GET", nil), mesh.NotSent, mesh.ErrConnect)
		w.serve("young", "db:1", "sdb", echo)
		w.succeeds(up, "up")
	})
}

// M36: a process that closes sends what stands in its line and waits until the
// listener has placed what it read: no push that was accepted is lost.
func TestPushesOfAClosingProcessArrive(t *testing.T) {
	for name, pace := range map[string]time.Duration{"fast": 0, "slow": 80 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				var ran, want []string
				server := w.process("server", func(o *mesh.Options) { o.Limits.QueueMessages = 4 })
				w.open(server, "db:1")
				w.register(server, "sdb", func(_ context.Context, method string, _ []byte) ([]byte, error) {
					time.Sleep(pace)
					ran = append(ran, method)
					return nil, nil
				})
				m := w.process("client")
				w.reload(m, mesh.Table{"db": "db:1"})
				for i := range 100 {
					want = append(want, fmt.Sprint(i))
					if err := m.Send(context.Background(), "db@sdb", fmt.Sprint(i), make([]byte, i%5*20_000)); err != nil {
						t.Fatal(err)
					}
				}
				start := time.Now()
				w.closed(m)
				if d, least := time.Since(start), 90*pace; d < least {
					t.Errorf("closed after %v: the last pushes had no place before %v", d, least)
				}
				time.Sleep(10 * pace)
				synctest.Wait()
				if !slices.Equal(ran, want) {
					t.Errorf("ran %d: %q", len(ran), ran)
				}
				w.counts("unplaced", int(server.Stats().PushesUnplaced), 0)
			})
		})
	}
}

// M36, M37: a dialler that closes goes on with heartbeats and cancels until its
// last call has its outcome.
func TestCallsOfAClosingProcessFinish(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("a ")
		w.serve("server", "db:1", "sdb", g.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		a := w.ask(context.Background(), m, "db@sdb", "a", nil)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(3*time.Second, cancel)
		gone := w.ask(ctx, m, "db@sdb", "gone", nil)
		over := make(chan struct{})
		go func() { w.closed(m); close(over) }()
		time.Sleep(4 * time.Second)
		w.fails(gone, mesh.MaybeExecuted, context.Canceled)
		w.counts("handlers whose contexts ended", g.wasCut(), 1)
		w.fails(w.ask(context.Background(), m, "db@sdb", "late", nil), mesh.NotSent, mesh.ErrClosed)
		time.Sleep(5 * time.Second)
		w.rests(a)
		close(g.open)
		w.succeeds(a, "a a")
		start := time.Now()
		<-over
		if d := time.Since(start); d > 0 {
			t.Errorf("Close took %v after the last call", d)
		}
		w.ranExactly(&g.diary, "a", "gone")
	})
}

// M16, M36: the dialler closes a link that nobody has used for the idle time;
// the next message dials again.
func TestIdleLinkEndsAndTheNextMessageDials(t *testing.T) {
	inWorld(t, func(w *world) {
		server := w.serve("server", "db:1", "sdb", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", nil), "")
		time.Sleep(4 * time.Minute)
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", nil), "")
		time.Sleep(299 * time.Second)
		w.counts("links before the idle time is over", w.Conns("db:1"), 1)
		time.Sleep(4 * time.Second)
		w.counts("links after it", w.Conns("db:1"), 0)
		w.counts("links of the listener", server.Stats().LinksIn, 0)
		if s := m.Node("db").State; s != mesh.Idle {
			t.Errorf("the node is %v", s)
		}
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", nil), "")
		w.counts("dials", w.Dials("db:1"), 2)
		w.counts("links lost", int(m.Stats().LinksLost), 0)
	})
}
