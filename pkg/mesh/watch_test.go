package mesh_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// watched collects what a Watch tells.
type watched struct {
	mu   sync.Mutex
	seen []mesh.NodeInfo
	over bool
}

// watch begins to watch until stop is called.
func (w *world) watch(m *mesh.Mesh, nodes ...string) (_ *watched, stop func()) {
	x := &watched{}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for i := range m.Watch(ctx, nodes...) {
			x.mu.Lock()
			x.seen = append(x.seen, i)
			x.mu.Unlock()
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.over = true
	}()
	w.Cleanup(cancel)
	synctest.Wait()
	return x, func() { cancel(); synctest.Wait() }
}

// take returns what was told since the last take.
func (x *watched) take() []mesh.NodeInfo {
	synctest.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	seen := x.seen
	x.seen = nil
	return seen
}

func (x *watched) states() (s []mesh.State) {
	for _, i := range x.take() {
		s = append(s, i.State)
	}
	return s
}

// told checks what was told since the last time.
func (w *world) told(x *watched, step string, want ...mesh.State) {
	w.Helper()
	if got := x.states(); !slices.Equal(got, want) {
		w.Errorf("%s: %v, want %v", step, got, want)
	}
}

func incarnation(m *mesh.Mesh) uint32 {
	s := m.NewService(echo)
	defer s.Stop()
	return uint32(s.Handle() >> 32)
}

// M38: every change of a node is one event, in order.
func TestWatchTellsEveryChange(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.serve("a", "db:1", "sdb", echo)
		g := newDoor("")
		b := w.serve("b", "db:2", "sdb", g.handle)
		m := w.process("client")
		x, _ := w.watch(m)
		w.told(x, "an empty table")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.told(x, "an address", mesh.Idle)
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", nil), "")
		up := x.take()
		if len(up) != 1 || up[0] != (mesh.NodeInfo{Node: "db", State: mesh.Up, Addr: "db:1", Process: "a", Incarnation: incarnation(a)}) {
			t.Errorf("up: %+v", up)
		}
		w.reload(m, mesh.Table{"db": "db:2"})
		up = x.take()
		if len(up) != 1 || up[0] != (mesh.NodeInfo{Node: "db", State: mesh.Up, Addr: "db:2", Process: "b", Incarnation: incarnation(b)}) {
			t.Errorf("up at the new address: %+v", up)
		}
		last := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		over := w.closing(b)
		w.told(x, "the listener closed", mesh.Leaving)
		close(g.open)
		w.succeeds(last, "GET")
		<-over
		w.told(x, "its last call was answered", mesh.Idle)
		w.fails(w.ask(context.Background(), m, "db@sdb", "GET", nil, mesh.NoWait), mesh.NotSent, mesh.ErrConnect)
		w.told(x, "a dial failed", mesh.Lost)
		w.reload(m, mesh.Table{"db": "db:1"})
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", nil), "")
		w.told(x, "a dial succeeded", mesh.Up)
		w.Cut("db:1")
		lost := x.take()
		if len(lost) != 1 || lost[0].State != mesh.Lost || lost[0].Reason == "" || lost[0].Process != "a" {
			t.Errorf("lost: %+v", lost)
		}
		w.reload(m, mesh.Table{"db": false})
		w.told(x, "down", mesh.Down)
		w.reload(m, mesh.Table{"db": nil})
		w.told(x, "absent", mesh.Absent)
		w.reload(m, mesh.Table{"db": "db:1"})
		w.told(x, "back", mesh.Idle)
		w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", nil), "")
		w.told(x, "used", mesh.Up)
		time.Sleep(6 * time.Minute)
		w.told(x, "not used", mesh.Idle)
	})
}

// M34, M38: a node that is leaving and then breaks is lost, with the reason.
func TestLeavingNodeThatBreaksIsLost(t *testing.T) {
	inWorld(t, func(w *world) {
		server := w.process("server")
		l := w.open(server, "db:1")
		w.register(server, "sdb", newDoor("").handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		a := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		x, _ := w.watch(m)
		w.told(x, "first", mesh.Up)
		go func() { _ = l.Close(context.Background()) }()
		w.told(x, "goaway", mesh.Leaving)
		w.rests(a)
		w.Cut("db:1")
		w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		lost := x.take()
		if len(lost) != 1 || lost[0].State != mesh.Lost || lost[0].Reason == "" {
			t.Errorf("after the break: %+v", lost)
		}
	})
}

// M6, M38: the end of a link that a move left behind is no change of the node,
// which is leaving at its new address.
func TestEndOfAMovedLinkIsNoEvent(t *testing.T) {
	inWorld(t, func(w *world) {
		g := []*door{newDoor("1 "), newDoor("2 ")}
		w.serve("a", "db:1", "sdb", g[0].handle)
		b := w.serve("b", "db:2", "sdb", g[1].handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		first := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		x, _ := w.watch(m)
		w.reload(m, mesh.Table{"db": "db:2"})
		second := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		w.told(x, "moved", mesh.Up, mesh.Up)
		over := w.closing(b)
		w.told(x, "goaway", mesh.Leaving)
		close(g[0].open)
		w.succeeds(first, "1 GET")
		w.told(x, "the moved link ended")
		close(g[1].open)
		w.succeeds(second, "2 GET")
		<-over
		w.told(x, "the node left", mesh.Idle)
	})
}

// M34, M38: an event comes after the calls of the link have failed.
func TestEventComesAfterTheCallsHaveFailed(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("")
		w.serve("server", "db:1", "sdb", g.handle)
		m := w.process("client")
		for name, end := range map[mesh.State]func(){
			mesh.Lost:   func() { w.Cut("db:1") },
			mesh.Down:   func() { w.reload(m, mesh.Table{"db": false}) },
			mesh.Absent: func() { w.reload(m, mesh.Table{"db": nil}) },
		} {
			w.reload(m, mesh.Table{"db": "db:1"})
			ctx, cancel := context.WithCancel(context.Background())
			inFlight := -1
			go func() {
				for i := range m.Watch(ctx) {
					if i.State == name {
						inFlight = m.Stats().InFlight
					}
				}
			}()
			a := w.ask(context.Background(), m, "db@sdb", "GET", nil)
			w.rests(a)
			end()
			w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken)
			synctest.Wait()
			cancel()
			w.counts("calls in flight when the node was "+name.String(), inFlight, 0)
			time.Sleep(time.Minute)
		}
	})
}

// M38: a slow watcher misses states that were followed by another of the same
// node, nothing else, and the order of the nodes stays.
func TestSlowWatcherSeesTheLatest(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", echo)
		m := w.process("client")
		var seen []mesh.NodeInfo
		read := make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			for i := range m.Watch(ctx) {
				seen = append(seen, i)
				<-read
			}
		}()
		w.reload(m, mesh.Table{"first": "x:1"})
		synctest.Wait()
		for range 3 {
			w.reload(m, mesh.Table{"a": false, "db": "db:1"})
			w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", nil), "")
			w.reload(m, mesh.Table{"db": false})
			w.reload(m, mesh.Table{"a": "x:1"})
		}
		w.reload(m, mesh.Table{"late": "x:1"})
		close(read)
		synctest.Wait()
		got := make(map[string]mesh.State)
		for _, i := range seen {
			got[i.Node] = i.State
		}
		if len(seen) != 4 || seen[0].Node != "first" || seen[3].Node != "late" || got["db"] != mesh.Down || got["a"] != mesh.Idle {
			t.Errorf("seen %+v", seen)
		}
	})
}

// M16: a Watch keeps the nodes that it names linked: they are dialled without a
// message, again after a break, and not closed when idle, until it ends.
func TestWatchKeepsNamedNodesLinked(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1", "other": "db:1"})
		all, _ := w.watch(m)
		w.told(all, "all", mesh.Idle, mesh.Idle)
		w.counts("dials", w.Dials("db:1"), 0)
		w.Hang("db:1", true)
		x, stop := w.watch(m, "db", "db", "absent")
		w.told(x, "first", mesh.Idle, mesh.Absent)
		w.counts("dials", w.Dials("db:1"), 1)
		w.Hang("db:1", false)
		time.Sleep(6 * time.Second)
		w.told(x, "the second dial", mesh.Lost, mesh.Up)
		time.Sleep(20 * time.Minute)
		w.counts("dials", w.Dials("db:1"), 2)
		w.Hang("db:1", true)
		w.Cut("db:1")
		w.told(x, "broken", mesh.Lost)
		w.counts("dials", w.Dials("db:1"), 3)
		w.Hang("db:1", false)
		time.Sleep(6 * time.Second)
		w.told(x, "linked again", mesh.Up)
		stop()
		time.Sleep(6 * time.Minute)
		w.counts("links after the watch", w.Conns("db:1"), 0)
		w.told(x, "after the end")
		w.counts("dials", w.Dials("db:1"), 4)
	})
}

// M15, M16: WaitReady waits until all its nodes are up at once.
func TestWaitReadyWaitsForAll(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("a", "db:1", "sdb", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"a": "db:1", "b": "db:2"})
		ready := make(chan error, 1)
		go func() { ready <- m.WaitReady(context.Background(), "a", "b", "c") }()
		time.Sleep(10 * time.Minute) // longer than the idle time
		if s := m.Node("a").State; s != mesh.Up || len(ready) > 0 {
			t.Errorf("a is %v, %d results", s, len(ready))
		}
		w.reload(m, mesh.Table{"c": "db:1"})
		synctest.Wait()
		w.counts("results without b", len(ready), 0)
		w.serve("b", "db:2", "sdb", echo)
		if err := <-ready; err != nil {
			t.Error(err)
		}
		w.isError(m.WaitReady(w.within(time.Second), "a", "absent"), mesh.NotSent, context.DeadlineExceeded)
		w.reload(m, mesh.Table{"b": false})
		w.isError(m.WaitReady(context.Background(), "a", "b"), mesh.NotSent, mesh.ErrDown)
		w.isError(m.WaitReady(context.Background(), "a.b"), mesh.NotSent, mesh.ErrInvalidTarget)
		go func() { ready <- m.WaitReady(context.Background(), "absent") }()
		x, _ := w.watch(m)
		w.closed(m)
		w.isError(<-ready, mesh.NotSent, mesh.ErrClosed)
		synctest.Wait()
		if x.mu.Lock(); !x.over {
			t.Error("a Watch outlives its Mesh")
		}
		x.mu.Unlock()
	})
}

// M15, M25, M38, F6, F7: a node that crashes and returns is one lost and one up
// event; its peers find it within the longest pause, and dials are spaced.
func TestCrashedNodeComesBack(t *testing.T) {
	inWorld(t, func(w *world) {
		var doors []net.Listener
		born := func(name string) *mesh.Mesh {
			m := w.process(name, func(o *mesh.Options) {
				o.Listen = func(addr string) (net.Listener, error) {
					l, err := w.Listen(addr)
					doors = append(doors, l)
					return l, err
				}
			})
			w.open(m, "db:1")
			w.register(m, "sdb", newDoor("").handle)
			return m
		}
		first := born("a")
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		x, _ := w.watch(m, "db")
		time.Sleep(time.Minute)
		a := w.ask(context.Background(), m, "db@sdb", "GET", nil)
		x.take()
		_ = doors[0].Close()
		w.Cut("db:1")
		w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		time.Sleep(time.Minute)
		if n := w.Dials("db:1"); n < 20 || n > 50 {
			t.Errorf("%d dials in a minute", n)
		}
		second := born("b")
		start := time.Now()
		if err := m.WaitReady(context.Background(), "db"); err != nil || time.Since(start) > 3*time.Second {
			t.Errorf("up after %v: %v", time.Since(start), err)
		}
		seen := x.take()
		if len(seen) != 2 || seen[0].State != mesh.Lost || seen[1].State != mesh.Up || seen[1].Incarnation != incarnation(second) ||
			seen[0].Incarnation != incarnation(first) || !strings.Contains(seen[0].Reason, "reset") {
			t.Errorf("seen %+v", seen)
		}
	})
}
