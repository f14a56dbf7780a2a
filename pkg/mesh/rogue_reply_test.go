package mesh_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// spoiltReplies are large replies that break a rule, and what the caller is
// told. The limit is 1 MiB.
var spoiltReplies = []struct {
	name    string
	frames  func(n uint64) []*meshv1.Frame
	verdict mesh.Verdict
	cause   error
	says    string
}{
	{"larger than this side takes", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLargeReply(n, 1<<20+1, partSize), roguePart(n, partSize)}
	}, mesh.HandlerFailed, mesh.ErrReplyTooLarge, "too large: 1048577 bytes"},
	{"announced endless", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLargeReply(n, 1<<64-1, partSize)}
	}, mesh.HandlerFailed, mesh.ErrReplyTooLarge, "too large"},
	{"more bytes than announced", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLargeReply(n, partSize+1, partSize), roguePart(n, 2)}
	}, mesh.MaybeExecuted, mesh.ErrInvalidRequest, "invalid large reply: its parts hold more than the 32769 bytes"},
	{"a part too long", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLargeReply(n, 1<<20, partSize), roguePart(n, partSize+1)}
	}, mesh.MaybeExecuted, mesh.ErrInvalidRequest, "invalid large reply: a part has 32769 bytes"},
	{"a part too short", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLargeReply(n, 1<<20, partSize), roguePart(n, partSize), roguePart(n, 1)}
	}, mesh.MaybeExecuted, mesh.ErrInvalidRequest, "invalid large reply: a part has 1 bytes before the last"},
	{"an empty part", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLargeReply(n, 1<<20, partSize), roguePart(n, 0)}
	}, mesh.MaybeExecuted, mesh.ErrInvalidRequest, "invalid large reply: a part has 0 bytes"},
	{"a first frame too short", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLargeReply(n, 1<<20, partSize-1)}
	}, mesh.MaybeExecuted, mesh.ErrInvalidRequest, "invalid large reply: its first frame has 32767 bytes"},
	{"a total that needs no parts", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLargeReply(n, 10, 10)}
	}, mesh.MaybeExecuted, mesh.ErrInvalidRequest, "invalid large reply: its first frame has 10 bytes of 10"},
	{"two beginnings", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLargeReply(n, 1<<20, partSize), rogueLargeReply(n, 1<<20, partSize)}
	}, mesh.MaybeExecuted, mesh.ErrInvalidRequest, "invalid large reply"},
	{"a failure in its middle", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLargeReply(n, 1<<20, partSize), roguePart(n, partSize), rogueFailure(n, meshv1.Reason_REASON_HANDLER, "broken off")}
	}, mesh.HandlerFailed, nil, "broken off"},
}

// M40, M41, F35: a large reply that breaks a rule fails its call alone; the
// listener is told to stop sending it, and what comes all the same is counted.
func TestSpoiltLargeReplies(t *testing.T) {
	inWorld(t, func(w *world) {
		round := make(chan []func(uint64) []*meshv1.Frame, 1)
		m, l := w.prey(func(e *rogueEnd, _ int) error {
			e.greet()
			for f := e.hear(); f != nil; f = e.hear() {
				n := f.GetSession()
				if f.GetRequest().GetMethod() != "SPOIL" {
					e.say(rogueReply(n, []byte("fine")))
					continue
				}
				e.say((<-round)[0](n)...)
				if f.GetRequest().GetPayload()[0] == 'c' {
					if c := e.hear(); c.GetCancel() == nil || c.GetSession() != n {
						t.Errorf("got %v, want a cancel of %d", c, n)
					}
				}
				e.say(roguePart(n, 1))
			}
			return nil
		}, func(o *mesh.Options) { o.Limits.MessageBytes = 1 << 20 })
		for _, c := range spoiltReplies {
			round <- []func(uint64) []*meshv1.Frame{c.frames}
			payload := "cancel"
			if c.cause == nil {
				payload = "no cancel"
			}
			before := m.Stats().FramesStray
			_, err := m.Call(w.within(time.Minute), "db@sdb", "SPOIL", []byte(payload))
			if mesh.VerdictOf(err) != c.verdict || c.cause != nil && !errors.Is(err, c.cause) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v (%s), want %q", c.name, err, mesh.VerdictOf(err), c.says)
			}
			if got, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil); err != nil || string(got) != "fine" {
				t.Errorf("%s: the next call: %q, %v", c.name, got, err)
			}
			if n := m.Stats().FramesStray - before; n == 0 {
				t.Errorf("%s: the part that came after it was not counted", c.name)
			}
			w.unhurt(m)
		}
		if n := l.count(); n != 1 {
			t.Errorf("%d links, want 1", n)
		}
	})
}

// M40: the maximum holds for replies that need no parts as well.
func TestSmallReplyBeyondASmallMaximum(t *testing.T) {
	inWorld(t, func(w *world) {
		m, _ := w.prey(func(e *rogueEnd, _ int) error {
			e.greet()
			e.hear()
			e.say(rogueReply(1, make([]byte, 1001)))
			return e.serve()
		}, func(o *mesh.Options) { o.Limits.MessageBytes = 1000 })
		_, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
		if mesh.VerdictOf(err) != mesh.HandlerFailed || !errors.Is(err, mesh.ErrReplyTooLarge) {
			t.Errorf("%v (%s)", err, mesh.VerdictOf(err))
		}
		w.unhurt(m)
	})
}

// M41: a listener that begins more large replies than the hello allows fails
// those: handler failed, reply too large. The others arrive.
func TestUnfinishedRepliesBeyondTheHello(t *testing.T) {
	inWorld(t, func(w *world) {
		m, _ := w.prey(func(e *rogueEnd, _ int) error {
			e.greet()
			if e.hello.GetMaxUnfinishedBytes() != 256<<10 {
				t.Errorf("the hello says %d", e.hello.GetMaxUnfinishedBytes())
			}
			first, second := e.hear().GetSession(), e.hear().GetSession()
			e.say(rogueLargeReply(first, 6*partSize, partSize))
			e.say(rogueLargeReply(second, 3*partSize, partSize))
			for range 5 {
				e.say(roguePart(first, partSize))
			}
			return e.serve()
		}, func(o *mesh.Options) { o.Limits.UnfinishedBytes = 256 << 10 })
		type outcome struct {
			got []byte
			err error
		}
		outcomes := [2]chan outcome{make(chan outcome, 1), make(chan outcome, 1)}
		for i := range 2 {
			go func() {
				got, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
				outcomes[i] <- outcome{got, err}
			}()
			synctest.Wait()
		}
		if o := <-outcomes[0]; o.err != nil || len(o.got) != 6*partSize {
			t.Errorf("the first: %d bytes, %v", len(o.got), o.err)
		}
		if o := <-outcomes[1]; mesh.VerdictOf(o.err) != mesh.HandlerFailed || !errors.Is(o.err, mesh.ErrReplyTooLarge) {
			t.Errorf("the second: %v (%s)", o.err, mesh.VerdictOf(o.err))
		}
		w.unhurt(m)
	})
}

// M41: 30 s without a part fail a large reply, whatever else its link carries.
func TestReplyWhosePartsStopComing(t *testing.T) {
	for _, busy := range []bool{false, true} {
		inWorld(t, func(w *world) {
			m, _ := w.prey(func(e *rogueEnd, _ int) error {
				e.hear()
				e.say(rogueHello())
				n := e.hear().GetSession()
				e.say(rogueLargeReply(n, 1<<20, partSize))
				go func() {
					if c := e.hear(); c.GetCancel() == nil || c.GetSession() != n {
						t.Errorf("got %v, want a cancel of %d", c, n)
					}
					e.say(rogueFailure(n, meshv1.Reason_REASON_CANCELLED, "cancelled"))
				}()
				for e.stream.Context().Err() == nil {
					if busy {
						e.say(rogueReply(99, nil)) // anything but a heartbeat
					} else {
						e.say(rogueBeat())
					}
					select {
					case <-time.After(time.Second):
					case <-e.stream.Context().Done():
					}
				}
				return nil
			}, func(o *mesh.Options) { o.DrainTime = -1 })
			began := time.Now()
			_, err := m.Call(w.within(time.Hour), "db@sdb", "GET", nil)
			failsWith(t, "no parts", err, mesh.MaybeExecuted, mesh.ErrInvalidRequest, "invalid large reply: no part for 30s")
			if took := time.Since(began); took < 30*time.Second || took > 35*time.Second {
				t.Errorf("busy %t: it took %s", busy, took)
			}
			w.unhurt(m)
		})
	}
}

// F37: reasons and codes of a later version count as the handler's failure, and
// a text without end is cut.
func TestFailuresOfALaterVersion(t *testing.T) {
	inWorld(t, func(w *world) {
		failures := []*meshv1.Failure{
			{}, {Reason: 99, Code: 5, Message: "later"}, {Reason: meshv1.Reason_REASON_HANDLER, Code: 0, Message: "no code"},
			{Reason: meshv1.Reason_REASON_HANDLER, Code: 1 << 31, Message: strings.Repeat("x", 100<<10)}, {Reason: -1, Code: 17},
		}
		m, _ := w.prey(func(e *rogueEnd, _ int) error {
			e.greet()
			for _, p := range failures {
				e.say(&meshv1.Frame{Session: e.hear().GetSession(), Body: &meshv1.Frame_Failure{Failure: p}})
			}
			return e.serve()
		})
		for i, p := range failures {
			_, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
			want := codes.Unknown
			if p.GetCode() == 5 {
				want = codes.NotFound
			}
			if mesh.VerdictOf(err) != mesh.HandlerFailed || status.Code(err) != want || len(err.Error()) > 1024 || !strings.HasPrefix(p.GetMessage(), err.Error()) {
				t.Errorf("failure %d: %.50v (%s, %s)", i, err, mesh.VerdictOf(err), status.Code(err))
			}
		}
		w.unhurt(m)
	})
}
