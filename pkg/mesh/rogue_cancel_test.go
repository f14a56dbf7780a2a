package mesh_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

const cancelled = meshv1.Reason_REASON_CANCELLED

// stubborn is a service whose method WAIT returns when the test lets it go,
// whatever its context says.
type stubborn struct {
	let   chan struct{}
	began []string // by payload
	ended []error  // the contexts' errors when their handlers were let go
}

func (s *stubborn) handle(ctx context.Context, method string, payload []byte) ([]byte, error) {
	s.began = append(s.began, string(payload))
	if method == "WAIT" {
		<-s.let
		s.ended = append(s.ended, ctx.Err())
	}
	return payload, nil
}

// withStubborn runs f with a stubborn serial service and a rogue.
func withStubborn(t *testing.T, f func(s *stubborn, r *rogue), set ...func(*mesh.Options)) {
	t.Helper()
	inWorld(t, func(w *world) {
		s := &stubborn{let: make(chan struct{}, 10)}
		m := w.process("server", set...)
		w.open(m, "db:1")
		w.register(m, "sdb", s.handle)
		f(s, w.rogue("db:1"))
		close(s.let)
	})
}

// M58, M31: a cancelled call whose handler runs is answered when the handler has
// returned, not before; its context ends at once.
func TestCancelledCallIsAnsweredWhenItsHandlerReturns(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		r.say(rogueCall(1, "@sdb", "UNTIL", nil))
		time.Sleep(time.Second)
		began := time.Now()
		r.say(rogueCancel(1))
		if f := r.fails(1, cancelled); codes.Code(f.GetCode()) != codes.Canceled {
			t.Errorf("answered by %v", f)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the context ended after %s", took)
		}
		r.answers(2)
	})
	withStubborn(t, func(s *stubborn, r *rogue) {
		r.beating()
		r.say(rogueCall(1, "@sdb", "WAIT", nil))
		synctest.Wait()
		began := time.Now()
		r.say(rogueCancel(1), rogueCancel(1)) // the second changes nothing
		time.AfterFunc(20*time.Second, func() { s.let <- struct{}{} })
		r.fails(1, cancelled)
		if took := time.Since(began); took != 20*time.Second {
			t.Errorf("answered after %s, want when the handler returned, after 20 s", took)
		}
		if len(s.ended) != 1 || s.ended[0] != context.Canceled {
			t.Errorf("the handler's context: %v", s.ended)
		}
		r.answers(2)
	})
}

// M58: a cancelled call that has not started is answered at once, and never
// starts; so is one whose parts are still on their way.
func TestCancelledCallThatHasNotStarted(t *testing.T) {
	withStubborn(t, func(s *stubborn, r *rogue) {
		r.beating()
		r.say(rogueCall(1, "@sdb", "WAIT", []byte("1")), rogueCall(2, "@sdb", "ECHO", []byte("2")), rogueLarge(3, 1<<20, partSize))
		synctest.Wait()
		began := time.Now()
		r.say(rogueCancel(2), rogueCancel(3))
		r.fails(2, cancelled)
		r.fails(3, cancelled)
		if took := time.Since(began); took != 0 {
			t.Errorf("answered after %s", took)
		}
		r.say(roguePart(3, partSize))
		s.let <- struct{}{}
		if f := r.hear(); f.GetSession() != 1 || f.GetReply() == nil {
			t.Errorf("the call that ran: %v", f)
		}
		r.answers(4)
		if len(s.began) != 2 || s.began[0] != "1" || s.began[1] != "alive" {
			t.Errorf("ran: %q", s.began)
		}
	})
}

// M58, M56: the place of a cancelled call among the calls in flight is free when
// it was answered, and not before.
func TestCancelledCallKeepsItsPlace(t *testing.T) {
	withStubborn(t, func(s *stubborn, r *rogue) {
		r.say(rogueCall(1, "@sdb", "WAIT", nil))
		synctest.Wait()
		r.say(rogueCancel(1), rogueCall(2, "@sdb", "ECHO", nil))
		r.fails(2, meshv1.Reason_REASON_OVERLOADED)
		s.let <- struct{}{}
		r.fails(1, cancelled)
		r.answers(3)
	}, func(o *mesh.Options) { o.Limits.CallsInFlight = 1 })
}

// M58: a failure breaks off a large reply that has begun, and one that waits for
// the peer's bounds is not begun at all.
func TestCancelBreaksOffALargeReply(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue(func(h *meshv1.Hello) { h.MaxUnfinishedBytes = 1 << 20 })
		// Nothing is read: a window of 64 KiB fills, and the first reply stops
		// in the middle. The second may not begin beside it.
		r.say(rogueCall(1, "@sdb", "LARGE", nil))
		synctest.Wait()
		r.say(rogueCall(2, "@sdb", "LARGE", nil))
		synctest.Wait()
		r.say(rogueCancel(2), rogueCancel(1))
		synctest.Wait()
		if n := v.server.Stats().ReplyBytes; n > 64<<10 {
			t.Errorf("%d bytes of replies that nobody wants are held", n)
		}
		parts := 0
		f := r.hear()
		if f.GetSession() != 1 || f.GetReply().GetTotalSize() != 1<<20 {
			t.Fatalf("got %v, want the beginning of a large reply", f)
		}
		for f = r.hear(); f.GetPart() != nil && f.GetSession() == 1; f = r.hear() {
			parts++
		}
		if parts >= 31 {
			t.Errorf("the whole reply was sent: %d parts", parts)
		}
		failed := map[uint64]bool{}
		for range 2 {
			if f.GetFailure().GetReason() != cancelled || failed[f.GetSession()] {
				t.Fatalf("got %v, want that 1 and 2 are cancelled", f)
			}
			if failed[f.GetSession()] = true; len(failed) < 2 {
				f = r.hear()
			}
		}
		r.say(rogueCall(3, "@sdb", "LARGE", nil))
		if got := r.replies(1); len(got[3]) != 1<<20 {
			t.Errorf("the next large reply: %d bytes", len(got[3]))
		}
		r.answers(4)
	})
}

// M58, M41: the failure that breaks off a large reply comes before the next large
// reply begins, whatever waits: until then its caller has no room for that one.
func TestCancelMakesRoomForTheNextReply(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue(func(h *meshv1.Hello) { h.MaxUnfinishedBytes = 1 << 20 })
		for n := range uint64(2) {
			r.say(rogueCall(n+1, "@sdb", "LARGE", nil))
			synctest.Wait()
		}
		for n := range uint64(30) { // more than a batch
			r.say(rogueCall(n+3, "@sdb", "ECHO", make([]byte, partSize)))
		}
		synctest.Wait()
		r.say(rogueCancel(1))
		synctest.Wait()
		for {
			f := r.hear()
			if f.GetSession() == 2 {
				t.Fatalf("got the beginning of the second reply before the end of the first")
			}
			if f.GetFailure() != nil {
				break
			}
		}
	})
}

// M58: a reply that waits for a peer that does not read holds neither its
// service nor a handler.
func TestReplyThatWaitsHoldsNoService(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.serve("server", "db:1", "sdb", func(_ context.Context, method string, _ []byte) ([]byte, error) {
			if method == "LARGE" {
				return make([]byte, 4<<20), nil
			}
			return nil, nil
		})
		r := w.rogue("db:1")
		r.say(rogueCall(1, "@sdb", "LARGE", nil))
		synctest.Wait()
		if s := m.Stats(); s.ReplyBytes < 3<<20 || s.Running != 0 {
			t.Fatalf("%d bytes wait and %d handlers run, want most of 4 MiB and none", s.ReplyBytes, s.Running)
		}
		honest := w.process("honest")
		w.reload(honest, mesh.Table{"db": "db:1"})
		if _, err := honest.Call(w.within(time.Second), "db@sdb", "ECHO", nil); err != nil {
			t.Error(err)
		}
		if got := r.replies(1); len(got[1]) != 4<<20 {
			t.Errorf("the reply that waited: %d bytes", len(got[1]))
		}
	})
}

// M58, M57, M28: a process whose services are full stops reading the links of its
// callers, and goes on reading the replies to its own calls.
func TestFullProcessStillReadsReplies(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newTurnstile()
		full := w.process("full", limited(mesh.Limits{QueueMessages: 1}))
		w.open(full, "full:1")
		w.register(full, "sdb", g.handle)
		caller := w.serve("caller", "db:1", "sdb", func(context.Context, string, []byte) ([]byte, error) { return make([]byte, 1<<20), nil })
		w.reload(caller, mesh.Table{"full": "full:1"})
		w.reload(full, mesh.Table{"db": "db:1"})
		for range 10 {
			if err := caller.Send(w.within(time.Second), "full@sdb", "PUSH", nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Second)
		for range 5 {
			if got, err := full.Call(w.within(time.Second), "db@sdb", "GET", nil); err != nil || len(got) != 1<<20 {
				t.Errorf("a call of the full process: %d bytes, %v", len(got), err)
			}
		}
		if n := len(g.started()); n != 1 {
			t.Errorf("%d pushes ran, want the first alone", n)
		}
		close(g.let)
		synctest.Wait()
		if n := len(g.started()); n != 10 {
			t.Errorf("%d pushes ran in the end, want 10", n)
		}
	})
}
