package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

func isCause(err, cause error) bool { return errors.Is(err, cause) }

// F39, F19, M15: a listener whose answer to the hello is none, is wrong, or
// comes too late is a failed connect that says why, within the bound of a dial.
func TestListenerThatDoesNotGreet(t *testing.T) {
	hello := func(set func(*meshv1.Hello)) func(*rogueEnd) error {
		return func(e *rogueEnd) error { e.greet(set); return e.serve() }
	}
	cases := map[string]struct {
		script func(*rogueEnd) error
		says   string
	}{
		"nothing":        {func(e *rogueEnd) error { <-e.stream.Context().Done(); return nil }, "no answer within 5s"},
		"empty messages": {func(e *rogueEnd) error { e.say(); e.say(); <-e.stream.Context().Done(); return nil }, "no answer within 5s"},
		"end":            {func(*rogueEnd) error { return nil }, "the node ended the link before its hello"},
		"refusal":        {func(*rogueEnd) error { return status.Error(codes.PermissionDenied, "not you") }, "not you"},
		"many lines":     {func(*rogueEnd) error { return status.Error(codes.Unavailable, "a\nb") }, `"a\nb"`},
		"a reply":        {func(e *rogueEnd) error { e.say(rogueReply(1, nil)); return e.serve() }, "protocol error: the first frame is not a hello"},
		"a heartbeat":    {func(e *rogueEnd) error { e.say(rogueBeat()); return e.serve() }, "protocol error: the first frame is not a hello"},
		"all zero":       {func(e *rogueEnd) error { e.say(&meshv1.Frame{}); return e.serve() }, "protocol error: the first frame is not a hello"},
		"version 2":      {hello(func(h *meshv1.Hello) { h.Version = 2 }), "protocol error: protocol version 2 is not spoken here; use 1"},
		"incarnation 0":  {hello(func(h *meshv1.Hello) { h.Incarnation = 0 }), "protocol error: hello.incarnation is 0; choose a random one at start"},
		"no process":     {hello(func(h *meshv1.Hello) { h.Process = "" }), "protocol error: hello.process: a process name has 1 to 255 bytes; this one has 0"},
		"bad process":    {hello(func(h *meshv1.Hello) { h.Process = "a b" }), "protocol error: hello.process: a process name has letters, digits, '_', '-' and '.'; ' ' is none of them"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				m, _ := w.prey(func(e *rogueEnd, _ int) error { return c.script(e) })
				began := time.Now()
				_, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
				failsWith(t, name, err, mesh.NotSent, mesh.ErrConnect, "connect [db] (db:1): "+c.says)
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("it took %s", took)
				}
				w.unhurt(m)
			})
		})
	}
}

// The dialler says nothing but its hello before it has the listener's, and its
// hello tells who it is, where it wants to go, and its bounds.
func TestDiallerSpeaksAfterTheHello(t *testing.T) {
	inWorld(t, func(w *world) {
		m, _ := w.prey(func(e *rogueEnd, _ int) error {
			got := make(chan *meshv1.LinkRequest, 10)
			go func() {
				for {
					q, err := e.stream.Recv()
					if err != nil {
						return
					}
					got <- q
				}
			}()
			time.Sleep(4 * time.Second)
			if n := len(got); n != 1 {
				t.Errorf("%d messages before the listener's hello, want 1", n)
			}
			fs := (<-got).GetFrames()
			h := fs[0].GetHello()
			if len(fs) != 1 || h.GetVersion() != 1 || h.GetProcess() != "prey" || h.GetNode() != "db" || h.GetIncarnation() == 0 || h.GetMaxBatchBytes() != 256<<10 || h.GetMaxMessageBytes() != 64<<20 {
				t.Errorf("hello: %v", fs)
			}
			e.say(rogueHello())
			f := (<-got).GetFrames()[0]
			e.say(rogueReply(f.GetSession(), []byte("hi")))
			<-e.stream.Context().Done()
			return nil
		})
		got, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
		if err != nil || string(got) != "hi" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// F31, M33, M21: replies twice, for sessions that are not known, parts without a
// reply, and what only a dialler says, are counted; calls and link go on.
func TestStrayFramesFromAListener(t *testing.T) {
	inWorld(t, func(w *world) {
		m, l := w.prey(func(e *rogueEnd, _ int) error {
			e.greet(func(h *meshv1.Hello) { h.Features = []string{"later"} })
			for f := e.hear(); f != nil; f = e.hear() {
				n := f.GetSession()
				e.say(
					roguePart(n, 10), // there is no reply yet
					rogueReply(n+1, []byte("of the future")),
					rogueReply(0, nil), rogueReply(math.MaxUint64, nil),
					rogueFailure(n+1, 99, "of the future"),
					rogueCall(n, "@sdb", "GET", nil), rogueCancel(n),
					&meshv1.Frame{}, rogueRaw(n, 20, []byte("later")),
					rogueReply(n, []byte("first")),
					rogueReply(n, []byte("second")), rogueFailure(n, meshv1.Reason_REASON_PANIC, "third"),
				)
			}
			return nil
		})
		for i := range 3 {
			got, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
			if err != nil || string(got) != "first" {
				t.Errorf("call %d: %q, %v", i, got, err)
			}
			synctest.Wait()
			if n := m.Stats().FramesStray; n != int64(11*(i+1)) {
				t.Errorf("%d stray frames after %d calls, want 11 for each", n, i+1)
			}
		}
		w.unhurt(m)
		if n := l.count(); n != 1 {
			t.Errorf("%d links, want 1", n)
		}
	})
}

// F31: a reply that comes after its caller has left is counted as late, and ends
// nobody else's call; the cancel names the session.
func TestReplyAfterCancel(t *testing.T) {
	inWorld(t, func(w *world) {
		m, _ := w.prey(func(e *rogueEnd, _ int) error {
			e.greet()
			first := e.hear()
			if c := e.hear(); c.GetCancel() == nil || c.GetSession() != first.GetSession() {
				t.Errorf("got %v, want a cancel of session %d", c, first.GetSession())
			}
			second := e.hear()
			e.say(rogueReply(first.GetSession(), []byte("late")))
			e.say(rogueReply(first.GetSession(), []byte("later")))
			e.say(rogueReply(second.GetSession(), []byte("in time")))
			return e.serve()
		})
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		_, err := m.Call(ctx, "db@sdb", "GET", nil)
		failsWith(t, "cancelled", err, mesh.MaybeExecuted, context.Canceled, "message to [db]: context canceled after it was sent")
		if n := m.Stats().InFlight; n != 1 {
			t.Errorf("%d calls in flight: the place of a cancelled call is free only when it was answered", n)
		}
		got, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
		if err != nil || string(got) != "in time" {
			t.Errorf("%q, %v", got, err)
		}
		w.unhurt(m)
		if s := m.Stats(); s.RepliesLate != 1 || s.FramesStray != 1 {
			t.Errorf("%d late and %d stray, want one of each", s.RepliesLate, s.FramesStray)
		}
	})
}

// M34, F39: what breaks the protocol downwards ends the link, its calls in
// flight fail once as maybe executed, and the next call dials again.
func TestListenerThatBreaksTheProtocol(t *testing.T) {
	cases := map[string]struct {
		spoil func(e *rogueEnd) error
		says  string
	}{
		"a second hello": {func(e *rogueEnd) error { e.say(rogueHello()); return e.serve() }, "protocol error: a second hello"},
		"garbage": {func(e *rogueEnd) error {
			m := &meshv1.LinkResponse{}
			m.ProtoReflect().SetUnknown([]byte{0x0a, 0xff, 0xff, 0x01})
			_ = e.stream.Send(m)
			return e.serve()
		}, "grpc: "},
		"a batch too long": {func(e *rogueEnd) error {
			var fs []*meshv1.Frame
			for range 20 {
				fs = append(fs, rogueReply(99, make([]byte, 32<<10)))
			}
			e.say(fs...)
			return e.serve()
		}, "larger than max"},
		"end":            {func(*rogueEnd) error { return nil }, "the node ended the link"},
		"refusal":        {func(*rogueEnd) error { return status.Error(codes.InvalidArgument, "protocol error: yours") }, "protocol error: yours"},
		"a bare failure": {func(*rogueEnd) error { return fmt.Errorf("a\nb") }, `"a\nb"`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				m, l := w.prey(func(e *rogueEnd, link int) error {
					e.greet()
					if link > 1 {
						return e.serve()
					}
					e.hear()
					return c.spoil(e)
				})
				_, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
				if mesh.VerdictOf(err) != mesh.MaybeExecuted || !errors.Is(err, mesh.ErrLinkBroken) ||
					!strings.HasPrefix(err.Error(), "link to [db] broke: ") || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v (%s), want that the link broke: %s", err, mesh.VerdictOf(err), c.says)
				}
				w.unhurt(m)
				if got, err := m.Call(w.within(time.Minute), "db@sdb", "GET", []byte("again")); err != nil || string(got) != "again" || l.count() != 2 {
					t.Errorf("the next call: %q, %v, on link %d", got, err, l.count())
				}
			})
		})
	}
}
