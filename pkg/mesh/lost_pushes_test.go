package mesh_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// lost is what a process says of the pushes that it made and that were lost.
type lost struct{ connect, table, goaway, broken, tooLarge, closed int64 }

func lostOf(m *mesh.Mesh) lost {
	s := m.Stats()
	return lost{s.PushesLostConnect, s.PushesLostTable, s.PushesLostGoaway, s.PushesLostBroken, s.PushesLostTooLarge, s.PushesLostClosed}
}

// M29, M34: pushes that Send accepted and that are lost are counted by cause:
// here a large one that is on its way, and three that stand behind it.
func TestLostPushesAreCountedByCause(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  func(w *world, m *mesh.Mesh, l *mesh.Listener)
		want lost
	}{
		{"no new link", func(w *world, _ *mesh.Mesh, _ *mesh.Listener) {
			time.Sleep(4 * time.Second) // the link was no failed dial
			w.Hang("db:1", true)
			w.Cut("db:1")
			time.Sleep(time.Minute)
		}, lost{broken: 1, connect: 3}},
		{"down", func(w *world, m *mesh.Mesh, _ *mesh.Listener) { w.reload(m, mesh.Table{"db": false}) }, lost{broken: 1, table: 3}},
		{"absent with nowaiting", func(w *world, m *mesh.Mesh, _ *mesh.Listener) {
			w.reload(m, mesh.Table{"db": nil, "__nowaiting": true})
		}, lost{broken: 1, table: 3}},
		{"closed", func(_ *world, m *mesh.Mesh, _ *mesh.Listener) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = m.Close(ctx)
		}, lost{broken: 1, closed: 3}},
		{"a node that takes less", func(w *world, m *mesh.Mesh, _ *mesh.Listener) {
			small := w.process("small", withLimits(mesh.Limits{MessageBytes: 10}))
			w.open(small, "small:1")
			w.reload(m, mesh.Table{"db": "small:1"})
			time.Sleep(time.Minute)
		}, lost{broken: 1, tooLarge: 3}},
		{"a break alone", func(w *world, _ *mesh.Mesh, _ *mesh.Listener) {
			w.Cut("db:1")
			w.Freeze("db:1", false, false)
			time.Sleep(time.Minute)
		}, lost{broken: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				var seen arrivals
				s := w.process("server")
				l := w.open(s, "db:1")
				w.register(s, "sdb", seen.handle)
				m := lonely(mesh.Table{"db": "db:1"})(w)
				w.blockWriter(m, "db@sdb")
				for range 3 {
					if err := m.Send(w.within(time.Hour), "db@sdb", "SMALL", make([]byte, 100)); err != nil {
						t.Error(err)
					}
				}
				if got := lostOf(m); got != (lost{}) {
					t.Errorf("before anything happened %+v were lost", got)
				}
				c.bad(w, m, l)
				synctest.Wait()
				if got := lostOf(m); got != c.want {
					t.Errorf("%+v were lost, want %+v", got, c.want)
				}
				if n := m.Stats().PushBytes; n != 0 {
					t.Errorf("%d bytes of pushes still wait", n)
				}
				if n, want := len(seen.methods()), 3-int(c.want.connect+c.want.table+c.want.closed+c.want.tooLarge); n != want {
					t.Errorf("%d pushes came, want %d", n, want)
				}
			})
		})
	}
}

// M29, M35: pushes that a goaway says were not taken are counted by their
// numbers; the calls among them are sent again.
func TestPushesLostAtAGoawayAreCountedExactly(t *testing.T) {
	inWorld(t, func(w *world) {
		links := 0
		w.listenPuppet("db:1", func(p *puppet) {
			links++
			for f := p.next(); f != nil; f = p.next() {
				switch {
				case links > 1:
					p.say(replyFrame(f.GetSession(), "second link"))
				case f.GetSession() == 5:
					p.say(goawayFrame(2))
					return
				}
			}
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		for range 4 {
			if err := m.Send(w.within(time.Hour), "db@sdb", "PUSH", nil); err != nil {
				t.Error(err)
			}
		}
		if got, err := m.Call(w.within(time.Hour), "db@sdb", "CALL", nil); err != nil || string(got) != "second link" {
			t.Errorf("%q, %v", got, err)
		}
		if got := lostOf(m); got != (lost{goaway: 2}) {
			t.Errorf("%+v were lost, want 2 at the goaway", got)
		}
	})
}

// M29, M31: what the callee refuses of pushes is counted there.
func TestRefusedPushesAreCountedWhereTheyAre(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newGate()
		s := w.serve("server", "db:1", "sdb", g.handle)
		w.register(s, "stub", nil)
		m := lonely(mesh.Table{"db": "db:1"})(w)
		send := func(ctx context.Context, target string, size int) {
			if err := m.Send(ctx, target, "PUSH", make([]byte, size)); err != nil {
				t.Error(err)
			}
		}
		for _, target := range []string{"db@nobody", "db.sdb", "db:00000001000000ff", "db@stub"} {
			send(w.within(time.Hour), target, 10)
			send(w.within(time.Hour), target, 100<<10)
		}
		synctest.Wait()
		if st := s.Stats(); st.PushesUnknown != 8 || st.PushesRefused != 0 {
			t.Errorf("%d unknown, %d refused; want 8, 0", st.PushesUnknown, st.PushesRefused)
		}
		send(w.within(time.Hour), "db@sdb", 0)
		synctest.Wait() // it runs
		// Ours have no deadline; one of another client is too late when its turn comes.
		late := pushFrame(1, "@sdb", "LATE")
		late.GetRequest().TimeLeftUs = 1e6
		w.dialPuppet(w.within(time.Hour), "db:1").say(late)
		time.Sleep(2 * time.Second)
		close(g.hold)
		synctest.Wait()
		if st := s.Stats(); st.PushesRefused != 1 || len(g.methods()) != 1 {
			t.Errorf("%d refused, %d ran; want 1, 1", st.PushesRefused, len(g.methods()))
		}
	})
}

// M29, M48: pushes that wait for a service that stops are lost, and counted.
func TestPushesToAServiceThatStopsAreCounted(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newGate()
		s := w.process("server")
		w.open(s, "db:1")
		svc := w.register(s, "sdb", g.handle)
		m := lonely(mesh.Table{"db": "db:1"})(w)
		for range 4 { // one runs, three wait
			if err := m.Send(w.within(time.Hour), "db@sdb", "PUSH", nil); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		svc.Stop()
		close(g.hold)
		synctest.Wait()
		if n := len(g.methods()); n != 1 {
			t.Errorf("%d ran, want 1", n)
		}
		if st := s.Stats(); st.PushesUnknown+st.PushesRefused != 3 {
			t.Errorf("%d unknown and %d refused were counted; 3 were lost", st.PushesUnknown, st.PushesRefused)
		}
	})
}

// M29, M55: pushes that wait for their turn when the process closes are lost,
// and counted.
func TestPushesThatWaitAtTheEndAreCounted(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newGate()
		s := w.serve("server", "db:1", "sdb", g.handle)
		m := lonely(mesh.Table{"db": "db:1"})(w)
		for range 4 {
			if err := m.Send(w.within(time.Hour), "db@sdb", "PUSH", nil); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		_ = s.Close(context.Background())
		ran := len(g.methods())
		close(g.hold)
		synctest.Wait()
		if n := len(g.methods()); n != ran {
			t.Errorf("%d started after Close", n-ran)
		}
		if st := s.Stats(); int(st.PushesUnknown+st.PushesRefused) != 4-ran {
			t.Errorf("%d unknown and %d refused were counted; %d were lost", st.PushesUnknown, st.PushesRefused, 4-ran)
		}
	})
}
