package mesh_test

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// opened opens a stream of method to target and fails the test where that fails.
func (w *world) opened(m *mesh.Mesh, target, method string, opts ...grpc.CallOption) grpc.ClientStream {
	w.Helper()
	s, err := m.Proxy(target).NewStream(w.within(time.Hour), bidi, method, opts...)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// drain receives to the end of a stream: how many messages came, and the error.
func drain(s grpc.ClientStream) (n int, err error) {
	var b []byte
	for {
		if err := s.RecvMsg(&b); err != nil {
			return n, err
		}
		n++
	}
}

// badAnswers are what a listener may say to a stream and must not: the frames,
// how many messages of them are received, and what the caller is told.
var badAnswers = []struct {
	name   string
	frames func(n uint64) []*meshv1.Frame
	says   string
	ended  bool // it was an outcome: no cancel is needed
}{
	{"window of 0", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{windowFrame(n, 0)} }, "invalid stream: a window of 0 bytes", false},
	{"window above the hello's", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{windowFrame(n, 1)} }, "invalid stream: a window of 1 bytes", false},
	{"window of all", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{windowFrame(n, math.MaxUint64)} }, "invalid stream: a window of", false},
	{"headers twice", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{streamHeadersFrame(n, 1), streamHeadersFrame(n, 1)}
	}, "invalid stream: stream_headers twice, or after a message", false},
	{"headers after a message", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, 1, 0), streamHeadersFrame(n, 1)}
	}, "invalid stream: stream_headers twice, or after a message", false},
	{"long headers", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{streamHeadersFrame(n, 8<<10)} }, "invalid stream: its headers are longer than 8192 bytes", false},
	{"messages beyond the window", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, 0), messageFrame(n, partSize, 0), messageFrame(n, 0, 0)}
	}, "invalid stream: a message beyond its window of 65536 bytes", false},
	{"message in a message", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, 1<<20), messageFrame(n, 1, 0)}
	}, "invalid stream: a message before the last part of the one before it", false},
	{"part of no message", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{roguePart(n, 1)} }, "invalid stream: a part of no message", false},
	{"short part before the last", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, 1<<20), roguePart(n, 5)}
	}, "invalid stream: a part has 5 bytes before the last one", false},
	{"large without total", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{messageFrame(n, partSize+1, 0)} }, "invalid stream: a payload of more than 32768 bytes", false},
	{"reply with a payload", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{rogueReply(n, []byte("x"))} }, "invalid stream: its reply has a payload", true},
	{"large reply", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{rogueLargeReply(n, 1<<20, partSize)} }, "invalid stream: its reply has a payload", true},
	{"reply in a message", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, 1<<20), rogueReply(n, nil)}
	}, "invalid stream: its reply came in the middle of a message", true},
}

// F35, M51, M23: a listener that breaks a rule of a stream fails that stream alone:
// maybe executed, with the rule; it is told to stop. The link lives.
func TestStreamsWhoseAnswersBreakARule(t *testing.T) {
	inWorld(t, func(w *world) {
		heard := make(chan *meshv1.Frame, 100)
		m, l := w.prey(func(e *rogueEnd, _ int) error {
			e.greet(knowsStreams)
			for f := e.hear(); f != nil; f = e.hear() {
				switch q := f.GetRequest(); {
				case q.GetStream():
					for _, c := range badAnswers {
						if c.name == q.GetMethod() {
							e.say(c.frames(f.GetSession())...)
						}
					}
				case q != nil:
					e.say(rogueReply(f.GetSession(), []byte("beside")))
				case f.GetCancel() != nil:
					heard <- f
					e.say(messageFrame(f.GetSession(), 1, 0), windowFrame(f.GetSession(), 5)) // crossed the cancel
					e.say(rogueFailure(f.GetSession(), meshv1.Reason_REASON_CANCELLED, "cancelled"))
				}
			}
			return nil
		})
		for _, c := range badAnswers {
			s := w.opened(m, "db@str", c.name)
			synctest.Wait() // all has arrived before anything is received
			n, err := drain(s)
			if n != 0 && !c.ended || mesh.VerdictOf(err) != mesh.MaybeExecuted || !errors.Is(err, mesh.ErrInvalidRequest) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %d messages, %v; want %q in it", c.name, n, err, c.says)
			}
			if err := s.SendMsg([]byte("x")); !errors.Is(err, io.EOF) {
				t.Errorf("%s: sending after that: %v", c.name, err)
			}
			synctest.Wait()
			if !c.ended && (len(heard) != 1 || (<-heard).GetCancel() == nil) {
				t.Errorf("%s: no cancel came", c.name)
			}
			if got, err := m.Call(w.within(time.Minute), "db@str", "BESIDE", nil); err != nil || string(got) != "beside" {
				t.Errorf("after %s: %q, %v", c.name, got, err)
			}
		}
		w.unhurt(m)
		if n := l.count(); n != 1 {
			t.Errorf("%d links, want 1", n)
		}
	})
}

// F31, M33: what comes for a stream that has ended, or that never was, is counted;
// half_close, which only callers say, too.
func TestStrayFramesOfStreams(t *testing.T) {
	inWorld(t, func(w *world) {
		m, _ := w.prey(func(e *rogueEnd, _ int) error {
			e.greet(knowsStreams)
			for f := e.hear(); f != nil; f = e.hear() {
				if n := f.GetSession(); f.GetRequest().GetStream() {
					e.say(messageFrame(n, 3, 0), rogueReply(n, nil), messageFrame(n, 1, 0), streamHeadersFrame(n, 1), halfCloseFrame(n),
						rogueReply(n, nil), roguePart(n, 1), windowFrame(n, 1), messageFrame(n+9, 1, 0))
				}
			}
			return nil
		})
		n, err := drain(w.opened(m, "db@str", "M"))
		synctest.Wait()
		if s := m.Stats(); n != 1 || !errors.Is(err, io.EOF) || s.FramesStray != 6 {
			t.Errorf("%d messages, %v, %d strays", n, err, s.FramesStray)
		}
		w.unhurt(m)
	})
}

// M40: a message larger than the caller takes fails its stream: handler failed,
// reply too large.
func TestMessageThatIsTooLargeForTheCaller(t *testing.T) {
	inWorld(t, func(w *world) {
		m, _ := w.prey(func(e *rogueEnd, _ int) error {
			e.greet(knowsStreams)
			for f := e.hear(); f != nil; f = e.hear() {
				if f.GetRequest() != nil {
					e.say(messageFrame(f.GetSession(), partSize, 40000))
				} else if f.GetCancel() != nil {
					e.say(rogueFailure(f.GetSession(), meshv1.Reason_REASON_CANCELLED, "cancelled"))
				}
			}
			return nil
		}, limited(mesh.Limits{MessageBytes: 60000}))
		_, err := drain(w.opened(m, "db@str", "M", grpc.MaxCallRecvMsgSize(39999)))
		if mesh.VerdictOf(err) != mesh.HandlerFailed || !errors.Is(err, mesh.ErrReplyTooLarge) || status.Code(err) != codes.OutOfRange {
			t.Error(err)
		}
		w.unhurt(m)
	})
}

// A peer with a window of one byte takes message by message; one whose window is
// the greatest there is takes no more memory for that.
func TestSmallestAndGreatestWindow(t *testing.T) {
	for _, window := range []uint32{1, math.MaxUint32} {
		inWorld(t, func(w *world) {
			got := make(chan int, 100)
			m, _ := w.prey(func(e *rogueEnd, _ int) error {
				e.greet(knowsStreams, func(h *meshv1.Hello) { h.StreamWindowBytes = window })
				for f := e.hear(); f != nil; f = e.hear() {
					n := f.GetSession()
					switch {
					case f.GetMessage() != nil:
						got <- len(f.GetMessage().GetPayload())
						if window == 1 {
							synctest.Wait()
							if len(got) != 1 {
								t.Errorf("%d messages at once", len(got))
							}
							<-got
							e.say(windowFrame(n, uint64(len(f.GetMessage().GetPayload())+64)))
						}
					case f.GetHalfClose() != nil:
						e.say(rogueReply(n, nil))
					}
				}
				return nil
			})
			s := w.opened(m, "db@str", "M")
			for range 20 {
				if err := s.SendMsg(make([]byte, 10000)); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if n, err := drain(s); n != 0 || !errors.Is(err, io.EOF) {
				t.Error(n, err)
			}
			if window != 1 && len(got) != 20 {
				t.Errorf("%d messages came, want 20", len(got))
			}
			w.unhurt(m)
		})
	}
}
