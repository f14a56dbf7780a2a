package mesh_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M31, M58: a cancel reaches the program; the call keeps its place until it is
// answered. One that waits is gone at once and never sent.
func TestCancelReachesTheProgram(t *testing.T) {
	served(t, func(w *world, node, caller *mesh.Mesh) {
		p := w.program(window(1), "@model")
		ctx, cancel := context.WithCancel(context.Background())
		errs := make(chan error, 2)
		for _, method := range []string{"HAD", "WAITS"} {
			go func() { _, err := caller.Call(ctx, "db@model", method, nil); errs <- err }()
			synctest.Wait()
		}
		s, _ := p.asked("HAD")
		next := w.calling(caller, "db@model", "NEXT", nil)
		cancel()
		for range 2 {
			if err := <-errs; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		if f := p.hear(); f.GetCancel() == nil || f.GetSession() != s {
			t.Errorf("got %v, want the cancel of %d", f, s)
		}
		p.rests() // the place is not free yet
		if n := caller.Stats().InFlight; n != 2 {
			t.Errorf("%d in flight, want the one that was cancelled and the next", n)
		}
		p.say(rogueReply(s, []byte("late")))
		s, _ = p.asked("NEXT")
		p.say(rogueReply(s, nil))
		w.gets(next, "")
		synctest.Wait()
		if got := caller.Stats(); got.InFlight != 0 || node.Stats().FramesStray != 0 {
			t.Errorf("%d in flight, %d strays", got.InFlight, node.Stats().FramesStray)
		}
	})
}

// M31: a call whose deadline passed while it waited is not sent; the time that
// is left travels.
func TestDeadlineOfACallToAProgram(t *testing.T) {
	served(t, func(w *world, node, _ *mesh.Mesh) {
		p := w.program(window(1), "@model")
		r := w.rogue("db:1") // a caller that does not cancel
		r.beating()
		in := func(d time.Duration) func(*meshv1.Request) {
			return func(q *meshv1.Request) { q.TimeLeftUs = uint64(d.Microseconds()) }
		}
		r.say(rogueCall(1, "@model", "1", nil, in(time.Minute)), rogueCall(2, "@model", "2", nil, in(time.Second)), rogueCall(3, "@model", "3", nil))
		s, q := p.asked("1")
		if left := time.Duration(q.GetTimeLeftUs()) * time.Microsecond; left < 59*time.Second || left > time.Minute {
			t.Errorf("%s left", left)
		}
		time.Sleep(2 * time.Second)
		p.say(rogueReply(s, nil))
		if f := r.hear(); f.GetSession() != 1 || f.GetReply() == nil {
			t.Errorf("got %v", f)
		}
		r.fails(2, meshv1.Reason_REASON_EXPIRED)
		s, q = p.asked("3")
		if q.GetTimeLeftUs() != 0 {
			t.Errorf("%d us left of no deadline", q.GetTimeLeftUs())
		}
		p.say(rogueReply(s, nil))
		if f := r.hear(); f.GetSession() != 3 || f.GetReply() == nil {
			t.Errorf("got %v", f)
		}
		if n := node.Stats().Running; n != 0 {
			t.Errorf("%d running", n)
		}
	})
}

// M30: the status of a program's handler passes with code, message and details,
// but for facts of the mesh, which are about another message; reasons of the
// mesh keep their verdicts.
func TestFailuresOfAProgram(t *testing.T) {
	served(t, func(w *world, _, caller *mesh.Mesh) {
		p := w.program(nil, "@model")
		detail, err := anypb.New(durationpb.New(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		facts, err := anypb.New(&errdetails.ErrorInfo{Domain: "mesh", Reason: "ABSENT"})
		if err != nil {
			t.Fatal(err)
		}
		fail := func(f *meshv1.Failure) error {
			done := w.calling(caller, "db@model", "M", nil)
			s, _ := p.asked("M")
			p.say(&meshv1.Frame{Session: s, Body: &meshv1.Frame_Failure{Failure: f}})
			return (<-done).err
		}
		err = fail(&meshv1.Failure{Reason: meshv1.Reason_REASON_HANDLER, Code: uint32(codes.DataLoss), Message: "lost\n", Details: []*anypb.Any{facts, detail}})
		wantError{verdict: mesh.HandlerFailed, code: codes.DataLoss, text: "lost\n"}.check(t, err)
		if n := len(status.Convert(err).Details()); n != 1 {
			t.Errorf("%d details", n)
		}
		for reason, want := range map[meshv1.Reason]wantError{
			meshv1.Reason_REASON_UNSPECIFIED:    {verdict: mesh.HandlerFailed, code: codes.NotFound},
			meshv1.Reason(99):                   {verdict: mesh.HandlerFailed, code: codes.NotFound},
			meshv1.Reason_REASON_PANIC:          {verdict: mesh.HandlerFailed, is: mesh.ErrPanic},
			meshv1.Reason_REASON_UNKNOWN_METHOD: {verdict: mesh.Rejected, is: mesh.ErrUnknownMethod},
			meshv1.Reason_REASON_OVERLOADED:     {verdict: mesh.Rejected, is: mesh.ErrOverloaded},
			meshv1.Reason_REASON_CANCELLED:      {verdict: mesh.MaybeExecuted, is: mesh.ErrCancelled},
		} {
			want.check(t, fail(&meshv1.Failure{Reason: reason, Code: uint32(codes.NotFound), Message: "no"}))
		}
	})
}

// M60: the trace goes down with the request, and so do headers.
func TestTraceReachesTheProgram(t *testing.T) {
	served(t, func(w *world, node, _ *mesh.Mesh) {
		p := w.program(nil, "@model")
		r := w.rogue("db:1")
		r.say(rogueCall(1, "@model", "M", nil, func(q *meshv1.Request) {
			q.TraceTag, q.Headers = "tag", []*meshv1.Header{{Key: "traceparent", Value: []byte("00-1-2-01")}, {Key: "k-bin", Value: []byte{0, 255}}}
			q.OnBehalf = "the king"
		}))
		_, q := p.asked("M")
		if q.GetTraceTag() != "(node-@model-1)tag" || len(q.GetHeaders()) != 2 || string(q.GetHeaders()[1].GetValue()) != "\x00\xff" {
			t.Errorf("%v", q)
		}
		if q.GetOnBehalf() != "" {
			t.Errorf("on behalf of %q, which nobody has verified", q.GetOnBehalf())
		}
	})
}

// M62: a message that would make its eighth hop to the program is refused.
func TestHopToAProgramCounts(t *testing.T) {
	served(t, func(w *world, _, _ *mesh.Mesh) {
		p := w.program(nil, "@model")
		r := w.rogue("db:1")
		hops := func(n uint32) func(*meshv1.Request) { return func(q *meshv1.Request) { q.Hops = n } }
		r.say(rogueCall(1, "@model", "7", nil, hops(7)), rogueCall(2, "@model", "6", nil, hops(6)))
		r.fails(1, meshv1.Reason_REASON_LOOP)
		if _, q := p.asked("6"); q.GetHops() != 7 {
			t.Errorf("%d hops", q.GetHops())
		}
	})
}

// M40, M41: what is too large for the program is refused before it is sent, and
// a reply that is too large, or broken, fails its call alone.
func TestSizesBetweenProgramAndCaller(t *testing.T) {
	served(t, func(w *world, node, caller *mesh.Mesh) {
		p := w.program(func(h *meshv1.Hello) { h.MaxMessageBytes = 100 << 10 }, "@model")
		_, err := caller.Call(w.within(time.Minute), "db@model", "LARGE", make([]byte, 100<<10+1))
		wantError{verdict: mesh.Rejected, is: mesh.ErrTooLarge}.check(t, err)
		done := w.calling(caller, "db@model", "REPLY", nil)
		s, _ := p.asked("REPLY")
		p.say(rogueLargeReply(s, 64<<20+1, partSize))
		wantError{verdict: mesh.HandlerFailed, is: mesh.ErrReplyTooLarge}.check(t, (<-done).err)
		if f := p.hear(); f.GetCancel() == nil || f.GetSession() != s {
			t.Errorf("got %v, want a cancel: it may stop", f)
		}
		done = w.calling(caller, "db@model", "BROKEN", nil)
		s, _ = p.asked("BROKEN")
		p.say(rogueLargeReply(s, 100<<10, partSize), roguePart(s, 5))
		wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken, text: "invalid large reply"}.check(t, (<-done).err)
		if f := p.hear(); f.GetCancel() == nil {
			t.Errorf("got %v", f)
		}
		done = w.calling(caller, "db@model", "STALLS", nil)
		s, _ = p.asked("STALLS")
		p.say(rogueLargeReply(s, 100<<10, partSize))
		wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken, text: "no part for 30s"}.check(t, (<-done).err)
		done = w.calling(caller, "db@model", "FINE", nil)
		for f := p.hear(); f.GetRequest() == nil; f = p.hear() {
			if f.GetCancel() == nil {
				t.Errorf("got %v", f)
			}
			s = f.GetSession()
		}
		p.say(rogueReply(s, []byte("late")), rogueReply(s+1, []byte("fine")))
		w.gets(done, "fine")
	})
}

// M57: pushes that a program does not take stop the reading of the link by which
// they come, and nothing is lost.
func TestPushesToASlowProgram(t *testing.T) {
	served(t, func(w *world, node, _ *mesh.Mesh) {
		caller := w.process("patient", func(o *mesh.Options) { o.SendWait = time.Hour })
		w.reload(caller, mesh.Table{"db": "db:1"})
		p := w.programOn(w.rogueConn("db:1"))
		p.say(rogueHello())
		if f, err := p.next(); err != nil || f.GetHello() == nil {
			t.Fatal(f, err)
		}
		p.beating()
		p.session = 1
		p.say(registerFrame(1, "@model", false))
		synctest.Wait()
		const n, size = 600, 30 << 10
		sent := make(chan error, 1)
		go func() {
			for i := range n {
				if err := caller.Send(w.within(time.Hour), "db@model", "PUSH", []byte(strings.Repeat("x", size+i))); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		time.Sleep(20 * time.Second) // after 30 it were a slow consumer
		select {
		case err := <-sent:
			t.Fatalf("%d bytes of pushes were taken that nobody reads (%v)", n*size, err)
		default:
		}
		p.listen()
		if f := p.hear(); f.GetRegistered() == nil {
			t.Fatal(f)
		}
		for i := range n {
			if _, q := p.asked("PUSH"); len(q.GetPayload()) != size+i {
				t.Fatalf("push %d has %d bytes", i, len(q.GetPayload()))
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if s := node.Stats(); s.PushesRefused+s.PushesUnplaced+s.PushesLostBroken != 0 {
			t.Errorf("pushes were lost: %+v", s)
		}
	}, func(o *mesh.Options) {
		o.Limits.QueueBytes, o.Limits.LinePushBytes = 1<<20, 1<<20
	})
}
