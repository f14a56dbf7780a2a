package mesh_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M32: when a link breaks, the contexts of its calls' handlers end, its calls
// that have not started do not start, and pushes that are in the queue run.
func TestBreakEndsCallsAndLeavesPushes(t *testing.T) {
	inWorld(t, func(w *world) {
		var seen arrivals
		ended := make(chan error, 1)
		push := make(chan error, 1)
		s := w.serve("server", "db:1", "sdb", func(ctx context.Context, method string, p []byte) ([]byte, error) {
			_, _ = seen.handle(ctx, method, p)
			switch method {
			case "HOLD":
				<-ctx.Done()
				ended <- ctx.Err()
				time.Sleep(time.Second)
			case "PUSH":
				push <- ctx.Err()
			}
			return []byte("too late"), nil
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		errs := make(chan error, 3)
		call := func(method string, size int) {
			go func() { _, err := m.Call(w.within(time.Hour), "db@sdb", method, make([]byte, size)); errs <- err }()
			synctest.Wait()
		}
		call("HOLD", 0)
		call("WAITING", 0)
		if err := m.Send(w.within(time.Hour), "db@sdb", "PUSH", nil); err != nil {
			t.Error(err)
		}
		call("WAITING LARGE", 100<<10)
		start := time.Now()
		w.Cut("db:1")
		for range cap(errs) {
			wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken}.check(t, <-errs)
		}
		if err := <-ended; err != context.Canceled || !time.Now().Equal(start) {
			t.Errorf("the handler's context ended with %v after %s", err, time.Since(start))
		}
		if err := <-push; err != nil {
			t.Errorf("the push ran with a context that had ended: %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := seen.methods(); !slices.Equal(got, []string{"HOLD", "PUSH"}) {
			t.Errorf("%q ran", got)
		}
		if n := s.Stats().RepliesDropped; n != 1 {
			t.Errorf("%d replies were counted as dropped, want that of HOLD", n)
		}
	})
}

// M32: a push that runs is not told of the break.
func TestBreakDoesNotEndThePushThatRuns(t *testing.T) {
	inWorld(t, func(w *world) {
		result := make(chan error, 1)
		w.serve("server", "db:1", "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			time.Sleep(time.Minute)
			result <- ctx.Err()
			return nil, nil
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		if err := m.Send(context.Background(), "db@sdb", "PUSH", nil); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		w.Cut("db:1")
		if err := <-result; err != nil {
			t.Errorf("its context ended: %v", err)
		}
	})
}

// M32, M29: pushes that were read and not placed when their link broke are lost,
// and counted: the one in the reader's hand and those in the same batch.
func TestBreakLosesThePushInTheReadersHand(t *testing.T) {
	for name, c := range map[string]struct{ inHand, want int64 }{"one": {1, 1}, "the rest of a batch": {3, 3}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				g := newGate()
				s := w.process("server", withLimits(mesh.Limits{QueueMessages: 1}))
				w.open(s, "db:1")
				w.register(s, "sdb", g.handle)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				p := w.dialPuppet(ctx, "db:1")
				batch := []*meshv1.Frame{pushFrame(1, "@sdb", "RUNS"), pushFrame(2, "@sdb", "WAITS")}
				for i := range uint64(c.inHand) {
					batch = append(batch, pushFrame(3+i, "@sdb", "IN HAND"))
				}
				p.say(batch...)
				synctest.Wait()
				w.Cut("db:1")
				synctest.Wait()
				if n := s.Stats().PushesUnplaced; n != c.want {
					t.Errorf("%d pushes were counted as not placed, want %d", n, c.want)
				}
				close(g.hold)
				synctest.Wait()
				if got := g.methods(); !slices.Equal(got, []string{"RUNS", "WAITS"}) {
					t.Errorf("%q ran", got)
				}
			})
		})
	}
}

// M32: replies that wait for a link are dropped with it, and counted.
func TestBreakDropsWaitingReplies(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.serve("server", "db:1", "sdb", func(context.Context, string, []byte) ([]byte, error) { return make([]byte, 4<<20), nil })
		m := lonely(mesh.Table{"db": "db:1"})(w)
		if err := m.WaitReady(w.within(time.Minute), "db"); err != nil {
			t.Fatal(err)
		}
		w.Freeze("db:1", false, true)
		errs := make(chan error, 3)
		for range cap(errs) {
			go func() { _, err := m.Call(w.within(time.Hour), "db@sdb", "GET", nil); errs <- err }()
		}
		synctest.Wait()
		if n := s.Stats().ReplyBytes; n < 8<<20 {
			t.Fatalf("%d bytes of replies wait", n)
		}
		w.Cut("db:1")
		for range cap(errs) {
			wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken}.check(t, <-errs)
		}
		synctest.Wait()
		if st := s.Stats(); st.RepliesDropped != 3 || st.ReplyBytes != 0 {
			t.Errorf("%d replies were counted as dropped, want 3; %d bytes are still held", st.RepliesDropped, st.ReplyBytes)
		}
	})
}

// M33, F31: what a listener says of sessions that nobody knows is dropped and
// counted; the link lives.
func TestStrayRepliesAreDropped(t *testing.T) {
	inWorld(t, func(w *world) {
		w.listenPuppet("db:1", func(p *puppet) {
			for f := p.next(); f != nil; f = p.next() {
				n := f.GetSession()
				p.say(replyFrame(n+100, "stray"), failureFrame(n+100, &meshv1.Failure{Reason: meshv1.Reason_REASON_PANIC}), partFrame(n+100, "stray"),
					partFrame(n, "of a reply that has not begun"), replyFrame(n, "right"), replyFrame(n, "twice"), failureFrame(n, &meshv1.Failure{}))
			}
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		for i := range int64(10) {
			if got, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil); err != nil || string(got) != "right" {
				t.Errorf("%q, %v", got, err)
			}
			synctest.Wait()
			if n := m.Stats().FramesStray; n != (i+1)*6 {
				t.Errorf("%d stray frames were counted, want %d", n, (i+1)*6)
			}
		}
		if st := m.Stats(); st.LinksLost != 0 || st.Dials != 1 {
			t.Errorf("%d links lost, %d dials", st.LinksLost, st.Dials)
		}
	})
}

// M33, F31: what comes for a call that was given up is dropped and counted.
func TestLateRepliesAreDropped(t *testing.T) {
	inWorld(t, func(w *world) {
		w.listenPuppet("db:1", func(p *puppet) {
			for f := p.next(); f != nil; f = p.next() {
				if f.GetCancel() != nil || f.GetRequest().GetMethod() == "GET" {
					p.say(replyFrame(f.GetSession(), "right"))
				}
			}
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		for i := range int64(5) {
			_, err := m.Call(w.within(time.Second), "db@sdb", "WAIT", nil)
			wantError{verdict: mesh.MaybeExecuted, is: context.DeadlineExceeded}.check(t, err)
			if got, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil); err != nil || string(got) != "right" {
				t.Errorf("%q, %v", got, err)
			}
			if st := m.Stats(); st.RepliesLate != i+1 || st.FramesStray != 0 || st.InFlight != 0 || st.LinksLost != 0 {
				t.Errorf("%d late, %d stray, %d in flight, %d links lost", st.RepliesLate, st.FramesStray, st.InFlight, st.LinksLost)
			}
		}
	})
}

// M33, F31: what a dialler says of sessions that nobody knows is dropped and
// counted; the link lives, and its calls are answered once.
func TestStrayRequestsAreDropped(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.serve("server", "db:1", "sdb", echo)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		p := w.dialPuppet(ctx, "db:1")
		p.say(cancelFrame(9), partFrame(9, "stray"), cancelFrame(0), replyFrame(9, "of a dialler"), failureFrame(9, &meshv1.Failure{}), goawayFrame(0))
		p.say(requestFrame(10, "@sdb", "GET"))
		if f := p.next(); f.GetSession() != 10 || f.GetReply() == nil {
			t.Errorf("%v", f)
		}
		p.say(cancelFrame(10), partFrame(10, "of a finished one"))
		p.say(requestFrame(11, "@sdb", "GET"))
		if f := p.next(); f.GetSession() != 11 || f.GetReply() == nil {
			t.Errorf("%v", f)
		}
		if n := s.Stats().FramesStray; n != 8 {
			t.Errorf("%d stray frames were counted, want 8", n)
		}
	})
}
