package mesh_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// ending is how a handler's context ended, and when.
type ending struct {
	method string
	left   time.Duration // of its deadline, at its start; -1 for none
	err    error
	lasted time.Duration
}

// watchEnds is a handler that waits until its context ends.
func watchEnds(ends chan<- ending) mesh.Handler {
	return func(ctx context.Context, method string, _ []byte) ([]byte, error) {
		start, e := time.Now(), ending{method: method, left: -1}
		if d, ok := ctx.Deadline(); ok {
			e.left = time.Until(d)
		}
		mesh.Await(ctx, func() {
			<-ctx.Done()
			e.err, e.lasted = ctx.Err(), time.Since(start)
			ends <- e
			time.Sleep(time.Millisecond) // its answer comes too late
		})
		return nil, e.err
	}
}

// M31: a deadline travels as the time that is left when the frame leaves; the
// handler's context ends then, for small calls and large ones.
func TestDeadlineTravels(t *testing.T) {
	for name, size := range map[string]int{"call": 0, "large call": 100 << 10} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				ends := make(chan ending, 1)
				w.serve("server", "db:1", "sdb", watchEnds(ends))
				m := w.process("client")
				go func() {
					_, _ = m.Call(w.within(10*time.Second), "db@sdb", "WAIT", make([]byte, size))
				}()
				time.Sleep(4 * time.Second) // in the line
				w.reload(m, mesh.Table{"db": "db:1"})
				e := <-ends
				if e.left != 6*time.Second || e.lasted != 6*time.Second {
					t.Errorf("the handler had %s left and ran for %s, want 6s", e.left, e.lasted)
				}
			})
		})
	}
}

// M29, M31: the deadline of a Send bounds the Send, and does not travel: an
// accepted push does not expire in the queue of its service.
func TestDeadlineOfASendStaysHere(t *testing.T) {
	inWorld(t, func(w *world) {
		ran := make(chan bool, 2)
		w.serve("server", "db:1", "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			_, has := ctx.Deadline()
			time.Sleep(time.Minute)
			ran <- has || ctx.Err() != nil
			return nil, nil
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		for range cap(ran) {
			if err := m.Send(w.within(10*time.Second), "db@sdb", "PUSH", nil); err != nil {
				t.Fatal(err)
			}
		}
		for range cap(ran) {
			if <-ran {
				t.Error("a push had a deadline")
			}
		}
	})
}

// M31: without a deadline there is none, and a call may wait for ever.
func TestNoDeadlineMeansForEver(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			if d, ok := ctx.Deadline(); ok {
				t.Errorf("a deadline from nowhere: %s", d)
			}
			time.Sleep(time.Hour)
			return []byte("late"), ctx.Err()
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		if got, err := m.Call(context.Background(), "db@sdb", "GET", nil); err != nil || string(got) != "late" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// M31: a process may set a default; a deadline of the call's own wins, and
// pushes have none.
func TestCallTimeoutIsTheDefaultDeadline(t *testing.T) {
	inWorld(t, func(w *world) {
		ends := make(chan ending, 1)
		w.serve("server", "db:1", "sdb", watchEnds(ends))
		m := w.process("client", func(o *mesh.Options) { o.CallTimeout = 3 * time.Second })
		w.reload(m, mesh.Table{"db": "db:1"})
		for _, own := range []time.Duration{0, time.Second, 5 * time.Second} {
			ctx, want := context.Background(), 3*time.Second
			if own > 0 {
				ctx, want = w.within(own), own
			}
			start := time.Now()
			_, err := m.Proxy("db@sdb").Call(ctx, "WAIT", nil)
			wantError{verdict: mesh.MaybeExecuted, is: context.DeadlineExceeded}.check(t, err)
			if took := time.Since(start); took != want {
				t.Errorf("the call took %s, want %s", took, want)
			}
			if e := <-ends; e.left != want {
				t.Errorf("the handler had %s, want %s", e.left, want)
			}
		}
		start := time.Now()
		_, err := m.Query(context.Background(), "gone@sdb")
		wantError{verdict: mesh.NotSent, is: context.DeadlineExceeded}.check(t, err)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("a query took %s, want 3s", took)
		}
		if err := m.Send(context.Background(), "db@sdb", "PUSH", nil); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(ends) != 0 {
			t.Errorf("a push without a deadline ended: %+v", <-ends)
		}
		w.Cut("db:1")
	})
}

// M31: a request that is too late when its turn comes is not started; its
// caller, if it hears of it, is told so.
func TestExpiredRequestIsNotStarted(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newGate()
		s := w.serve("server", "db:1", "sdb", g.handle)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		p := w.dialPuppet(ctx, "db:1")
		hold := requestFrame(1, "@sdb", "HOLD")
		late, large, push := requestFrame(2, "@sdb", "LATE"), requestFrame(3, "@sdb", "LATE"), pushFrame(4, "@sdb", "LATE")
		for _, f := range []*meshv1.Frame{late, large, push} {
			f.GetRequest().TimeLeftUs = 1_000_000
		}
		large.GetRequest().TotalSize, large.GetRequest().Payload = 32769, make([]byte, 32768)
		p.say(hold, late, large, partFrame(3, "x"), push, requestFrame(5, "@sdb", "NEXT"))
		time.Sleep(time.Second) // exactly: then it is too late
		close(g.hold)
		want := map[uint64]bool{1: true, 5: true} // replied
		for range 4 {
			f := p.next()
			if want[f.GetSession()] {
				if f.GetReply() == nil {
					t.Errorf("session %d: %v", f.GetSession(), f)
				}
				continue
			}
			if r := f.GetFailure().GetReason(); r != meshv1.Reason_REASON_EXPIRED {
				t.Errorf("session %d: %v, want %v", f.GetSession(), f, meshv1.Reason_REASON_EXPIRED)
			}
		}
		if got := g.methods(); len(got) != 2 || got[1] != "NEXT" {
			t.Errorf("%q ran", got)
		}
		if n := s.Stats().PushesRefused; n != 1 {
			t.Errorf("%d pushes were counted as refused, want the late one", n)
		}
	})
}

// M31: a call that is cancelled cancels its handler's context, at once; one
// that has not started never does.
func TestCancelReachesTheHandler(t *testing.T) {
	for name, size := range map[string]int{"small": 0, "large": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				ends := make(chan ending, 1)
				ran := make(chan string, 10)
				w.serve("server", "db:1", "sdb", func(ctx context.Context, method string, _ []byte) ([]byte, error) {
					ran <- method
					start := time.Now()
					<-ctx.Done() // keeps the turn
					ends <- ending{method: method, err: ctx.Err(), lasted: time.Since(start)}
					return nil, nil
				})
				m := lonely(mesh.Table{"db": "db:1"})(w)
				first, cancelFirst := context.WithCancel(context.Background())
				second, cancelSecond := context.WithCancel(context.Background())
				errs := make(chan error, 2)
				go func() { _, err := m.Call(first, "db@sdb", "FIRST", make([]byte, size)); errs <- err }()
				synctest.Wait()
				go func() { _, err := m.Call(second, "db@sdb", "SECOND", make([]byte, size)); errs <- err }()
				synctest.Wait()
				time.Sleep(time.Second)
				cancelSecond()
				wantError{verdict: mesh.MaybeExecuted, is: context.Canceled, method: "SECOND"}.check(t, <-errs)
				time.Sleep(time.Second)
				cancelFirst()
				wantError{verdict: mesh.MaybeExecuted, is: context.Canceled, method: "FIRST"}.check(t, <-errs)
				if e := <-ends; e.method != "FIRST" || e.err != context.Canceled || e.lasted != 2*time.Second {
					t.Errorf("the handler ended so: %+v", e)
				}
				synctest.Wait()
				if n := len(ran); n != 1 {
					t.Errorf("%d handlers ran, want the first alone", n)
				}
				if st := m.Stats(); st.InFlight != 0 || st.RepliesLate != 2 || st.FramesStray != 0 {
					t.Errorf("%d in flight, %d late, %d stray; both cancelled calls are answered", st.InFlight, st.RepliesLate, st.FramesStray)
				}
			})
		})
	}
}

// M31, F9: the context ends at the deadline though no cancel can arrive, and the
// caller gets its error on time though the handler does not look.
func TestDeadlineNeedsNobodyElse(t *testing.T) {
	inWorld(t, func(w *world) {
		ends := make(chan ending, 1)
		s := w.serve("server", "db:1", "sdb", watchEnds(ends))
		w.register(s, "deaf", func(context.Context, string, []byte) ([]byte, error) { time.Sleep(time.Minute); return nil, nil })
		m := lonely(mesh.Table{"db": "db:1"})(w)
		errs := make(chan error, 2)
		start := time.Now()
		for _, target := range []string{"db@sdb", "db@deaf"} {
			go func() { _, err := m.Call(w.within(3*time.Second), target, "WAIT", nil); errs <- err }()
		}
		synctest.Wait()
		w.Freeze("db:1", true, true)
		for range 2 {
			wantError{verdict: mesh.MaybeExecuted, is: context.DeadlineExceeded}.check(t, <-errs)
		}
		if e := <-ends; e.err != context.DeadlineExceeded || e.lasted != 3*time.Second || time.Since(start) != 3*time.Second {
			t.Errorf("the handler ended so: %+v, the calls after %s", e, time.Since(start))
		}
		w.Freeze("db:1", false, false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if st := m.Stats(); st.RepliesLate != 2 || st.InFlight != 0 || st.LinksLost != 0 {
			t.Errorf("%d late replies, %d in flight, %d links lost; want 2, 0, 0", st.RepliesLate, st.InFlight, st.LinksLost)
		}
	})
}
