package mesh_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// M29: Send waits for its node as a call does, and returns nil once the message
// stands in the line of an open link, not before.
func TestSendWaitsForItsNode(t *testing.T) {
	inWorld(t, func(w *world) {
		var seen arrivals
		w.serve("server", "db:1", "sdb", seen.handle)
		m := w.process("client")
		sent := make(chan error, 1)
		go func() { sent <- m.Send(context.Background(), "db@sdb", "PUSH", nil) }()
		time.Sleep(time.Hour) // for as long as it takes: it waits for no room
		synctest.Wait()
		if len(sent) != 0 {
			t.Fatalf("Send returned before there was a node: %v", <-sent)
		}
		w.Hang("db:1", true)
		w.reload(m, mesh.Table{"db": "db:1"})
		synctest.Wait()
		if len(sent) != 0 {
			t.Fatalf("Send returned before there was a link: %v", <-sent)
		}
		w.Hang("db:1", false)
		w.reload(m, mesh.Table{"db": "db:2"})
		w.reload(m, mesh.Table{"db": "db:1"}) // dials anew
		if err := <-sent; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := len(seen.methods()); n != 1 {
			t.Errorf("the push came %d times", n)
		}
	})
}

// M29: with an open link Send returns at once, though nothing can leave.
func TestSendIsDoneInTheLineOfAnOpenLink(t *testing.T) {
	inWorld(t, func(w *world) {
		var seen arrivals
		w.serve("server", "db:1", "sdb", seen.handle)
		m := lonely(mesh.Table{"db": "db:1"})(w)
		w.blockWriter(m, "db@sdb")
		start := time.Now()
		for range 10 {
			if err := m.Send(w.within(time.Hour), "db@sdb", "PUSH", nil); err != nil {
				t.Error(err)
			}
		}
		if !time.Now().Equal(start) {
			t.Errorf("it took %s", time.Since(start))
		}
		if n := len(seen.methods()); n != 0 {
			t.Errorf("%d came over a frozen network", n)
		}
		w.Freeze("db:1", false, false)
		synctest.Wait()
		if n := len(seen.methods()); n != 11 {
			t.Errorf("%d of 11 came", n)
		}
	})
}

// blockWriter opens the link to db:1, freezes the way to it, and begins a push
// to target that is larger than the network holds: what follows it to the same
// target stays in the line.
func (w *world) blockWriter(m *mesh.Mesh, target string) {
	w.Helper()
	if err := m.WaitReady(w.within(time.Minute), "db"); err != nil {
		w.Fatal(err)
	}
	w.Freeze("db:1", true, false)
	if err := m.Send(w.within(time.Hour), target, "LARGE", make([]byte, 3<<20)); err != nil {
		w.Fatal(err)
	}
	synctest.Wait()
}

// M29, M12: for room in the line Send waits until its context ends, and at most
// SendWait, whether the node is there or not; then it was not sent.
func TestSendWaitsForRoomAtMostSendWait(t *testing.T) {
	const unset = 0
	for _, c := range []struct {
		name     string
		sendWait time.Duration
		context  time.Duration
		linked   bool
		want     error
		after    time.Duration
	}{
		{"default", unset, time.Hour, false, mesh.ErrOverloaded, time.Second},
		{"default, linked", unset, time.Hour, true, mesh.ErrOverloaded, time.Second},
		{"set", 4 * time.Second, time.Hour, true, mesh.ErrOverloaded, 4 * time.Second},
		{"none", -1, time.Hour, true, mesh.ErrOverloaded, 0},
		{"context first", unset, 500 * time.Millisecond, true, context.DeadlineExceeded, 500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				var seen arrivals
				w.serve("server", "db:1", "sdb", seen.handle)
				m := w.process("client", withLimits(mesh.Limits{LinePushBytes: 1}), func(o *mesh.Options) { o.SendWait = c.sendWait })
				if c.linked {
					w.reload(m, mesh.Table{"db": "db:1"})
					w.blockWriter(m, "db@sdb")
				}
				first := make(chan error, 1)
				go func() { first <- m.Send(w.within(time.Hour), "db@sdb", "FIRST", nil) }()
				synctest.Wait()
				start := time.Now()
				err := m.Send(w.within(c.context), "db@sdb", "SECOND", nil)
				wantError{verdict: mesh.NotSent, is: c.want, node: "db", target: "db@sdb", method: "SECOND"}.check(t, err)
				if took := time.Since(start); took != c.after {
					t.Errorf("it failed after %s, want %s", took, c.after)
				}
				if c.linked {
					w.Freeze("db:1", false, false)
				} else {
					w.reload(m, mesh.Table{"db": "db:1"})
				}
				if err := <-first; err != nil {
					t.Errorf("the one that had room: %v", err)
				}
				synctest.Wait()
				if got := seen.methods(); got[len(got)-1] != "FIRST" {
					t.Errorf("%q came", got)
				}
			})
		})
	}
}

// M29: one that finds room in time goes on, in the order in which they waited.
func TestSendTakesRoomThatIsMade(t *testing.T) {
	inWorld(t, func(w *world) {
		var seen arrivals
		w.serve("server", "db:1", "sdb", seen.handle)
		m := w.process("client", withLimits(mesh.Limits{LinePushBytes: 1}))
		w.reload(m, mesh.Table{"db": "db:1"})
		w.blockWriter(m, "db@sdb")
		results := make(chan error, 4)
		for _, method := range []string{"1", "2", "3", "4"} {
			go func() { results <- m.Send(w.within(time.Hour), "db@sdb", method, nil) }()
			synctest.Wait()
		}
		if len(results) != 1 {
			t.Errorf("%d had room, want 1", len(results))
		}
		time.Sleep(900 * time.Millisecond)
		w.Freeze("db:1", false, false)
		for range cap(results) {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if got := seen.methods(); len(got) != 5 || got[1] != "1" || got[2] != "2" || got[3] != "3" || got[4] != "4" {
			t.Errorf("%q came", got)
		}
	})
}

// M29: one that found room waits for its node like a call, beyond SendWait.
func TestSendThatFoundRoomWaitsForItsNode(t *testing.T) {
	inWorld(t, func(w *world) {
		var seen arrivals
		w.serve("server", "db:1", "sdb", seen.handle)
		m := w.process("client", withLimits(mesh.Limits{LinePushBytes: 1}))
		ctx, cancel := context.WithCancel(context.Background())
		go func() { _ = m.Send(ctx, "db@sdb", "FIRST", nil) }()
		synctest.Wait()
		second := make(chan error, 1)
		go func() { second <- m.Send(w.within(time.Hour), "db@sdb", "SECOND", nil) }()
		synctest.Wait()
		cancel() // makes room
		time.Sleep(time.Minute)
		if len(second) != 0 {
			t.Fatalf("it did not wait: %v", <-second)
		}
		w.reload(m, mesh.Table{"db": "db:1"})
		if err := <-second; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := seen.methods(); len(got) != 1 || got[0] != "SECOND" {
			t.Errorf("%q came", got)
		}
	})
}

// M29, M51: what becomes of a push is not told to its maker, by Send, by the
// option Post, or by a proxy.
func TestFateOfAPushIsNotTold(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.serve("server", "db:1", "sdb", func(_ context.Context, method string, _ []byte) ([]byte, error) {
			if method == "PANIC" {
				panic("a handler of a push")
			}
			return nil, context.Canceled
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		ctx := w.within(time.Minute)
		for _, target := range []string{"db@sdb", "db@nobody"} {
			for _, method := range []string{"FAIL", "PANIC"} {
				if err := m.Send(ctx, target, method, nil); err != nil {
					t.Error(err)
				}
				if got, err := m.Call(ctx, target, method, nil, mesh.Post); got != nil || err != nil {
					t.Errorf("%q, %v", got, err)
				}
				if err := m.Proxy(target).Send(ctx, method, nil); err != nil {
					t.Error(err)
				}
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := s.Stats(); st.PushErrors != 3 || st.Panics != 3 || st.PushesUnknown != 6 || st.ReplyBytes != 0 {
			t.Errorf("%d errors, %d panics, %d to unknown names were counted; want 3, 3, 6", st.PushErrors, st.Panics, st.PushesUnknown)
		}
		if st := m.Stats(); st.FramesStray != 0 || st.RepliesLate != 0 || st.InFlight != 0 {
			t.Errorf("a push was answered: %+v", st)
		}
	})
}
