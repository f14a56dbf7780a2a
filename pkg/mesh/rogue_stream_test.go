package mesh_test

import (
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// knowsStreams makes a rogue's hello say so.
func knowsStreams(h *meshv1.Hello) { h.Features = []string{"streams"} }

func openFrame(session uint64, name, method string, set ...func(*meshv1.Request)) *meshv1.Frame {
	return rogueCall(session, name, method, nil, append(set, func(q *meshv1.Request) { q.Stream = true })...)
}

// messageFrame is a message of n bytes, or the first n of total.
func messageFrame(session uint64, n int, total uint64) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Message{Message: &meshv1.StreamMessage{Payload: make([]byte, n), TotalSize: total}}}
}

func halfCloseFrame(session uint64) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_HalfClose{HalfClose: &meshv1.HalfClose{}}}
}

func windowFrame(session, n uint64) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Window{Window: &meshv1.Window{Bytes: n}}}
}

func streamHeadersFrame(session uint64, n int) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_StreamHeaders{StreamHeaders: &meshv1.StreamHeaders{
		Headers: []*meshv1.Header{{Key: "k", Value: make([]byte, n)}},
	}}}
}

// streamVictim serves "@str": IDLE waits for the end of its context and receives
// nothing, every other method receives to the end and then sends "done".
type streamVictim struct {
	*victim
	runs, ends atomic.Int64 // handlers that began and ended
}

func withStreamVictim(t *testing.T, f func(v *streamVictim)) {
	withVictim(t, func(v *victim) {
		sv := &streamVictim{victim: v}
		v.streams(v.server, "str", func(_ any, s grpc.ServerStream) error {
			sv.runs.Add(1)
			defer sv.ends.Add(1)
			if m, _ := grpc.MethodFromServerStream(s); strings.HasSuffix(m, "IDLE") {
				<-s.Context().Done()
				return s.Context().Err()
			}
			var b []byte
			for {
				if err := s.RecvMsg(&b); err != nil {
					return s.SendMsg([]byte("done"))
				}
			}
		})
		f(sv)
		synctest.Wait()
		if sv.runs.Load() != sv.ends.Load() {
			t.Errorf("%d handlers of streams began, %d ended", sv.runs.Load(), sv.ends.Load())
		}
	})
}

// badStreams are streams that break a rule once their handler runs: the frames
// that follow the opening, and what the failure says.
var badStreams = []struct {
	name   string
	method string
	frames func(n uint64) []*meshv1.Frame
	says   string
}{
	{"window of 0", "IDLE", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{windowFrame(n, 0)} }, "a window of 0 bytes"},
	{"window above the hello's", "IDLE", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{windowFrame(n, 1)} }, "a window of 1 bytes, where it lacks 0"},
	{"window of all", "IDLE", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{windowFrame(n, math.MaxUint64)} }, "a window of 18446744073709551615 bytes"},
	{"messages beyond the window", "IDLE", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, 0), messageFrame(n, partSize, 0), messageFrame(n, 0, 0)}
	}, "a message beyond its window of 65536 bytes"},
	{"empty messages beyond the window", "IDLE", func(n uint64) (fs []*meshv1.Frame) {
		for range 1025 {
			fs = append(fs, messageFrame(n, 0, 0))
		}
		return fs
	}, "a message beyond its window of 65536 bytes"},
	{"parts beyond the window", "IDLE", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, 1<<20), roguePart(n, partSize), roguePart(n, partSize)}
	}, "a message beyond its window of 65536 bytes"},
	{"half_close twice", "IDLE", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{halfCloseFrame(n), halfCloseFrame(n)} }, "a second half_close"},
	{"message after half_close", "IDLE", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{halfCloseFrame(n), messageFrame(n, 1, 0)} }, "a message after half_close"},
	{"half_close in a message", "ALL", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, 1<<20), halfCloseFrame(n)}
	}, "half_close in the middle of a message"},
	{"message in a message", "ALL", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, 1<<20), messageFrame(n, 1, 0)}
	}, "a message before the last part of the one before it"},
	{"part of no message", "ALL", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{messageFrame(n, 5, 0), roguePart(n, 5)} }, "a part of no message"},
	{"short first frame", "ALL", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{messageFrame(n, 5, 1<<20)} }, "its first frame has 5 bytes of 1048576"},
	{"total that needs no parts", "ALL", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{messageFrame(n, 5, 5)} }, "its first frame has 5 bytes of 5"},
	{"large without total", "ALL", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{messageFrame(n, partSize+1, 0)} }, "set total_size"},
	{"part beyond the total", "ALL", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, partSize+1), roguePart(n, 2)}
	}, "its parts hold more than the 32769 bytes"},
	{"short part before the last", "ALL", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, 1<<20), roguePart(n, 100)}
	}, "a part has 100 bytes before the last one"},
	{"long part", "ALL", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{messageFrame(n, partSize, 1<<20), roguePart(n, partSize+1)}
	}, "a part has 32769 bytes; the most is 32768"},
}

// F35, M51: a stream that breaks a rule ends its handler's context and is answered
// when that has returned: what it did is told by the reason, the sentence tells
// which rule. The link, and the streams and calls beside, go on.
func TestStreamsThatBreakARule(t *testing.T) {
	withStreamVictim(t, func(v *streamVictim) {
		r := v.rogue(knowsStreams)
		r.beating()
		r.say(openFrame(1, "@str", "ALL"))
		session := uint64(2)
		for _, c := range badStreams {
			r.say(openFrame(session, "@str", c.method))
			synctest.Wait()
			r.say(c.frames(session)...)
			got := r.hear()
			for got.GetWindow() != nil { // the handler was quick
				got = r.hear()
			}
			f := got.GetFailure()
			if got.GetSession() != session || f.GetReason() != meshv1.Reason_REASON_HANDLER {
				t.Errorf("%s: got %v", c.name, got)
			}
			if codes.Code(f.GetCode()) != codes.InvalidArgument || !strings.HasPrefix(f.GetMessage(), "invalid stream: "+c.says) && !strings.Contains(f.GetMessage(), c.says) {
				t.Errorf("%s: %v, want %q in it", c.name, f, c.says)
			}
			r.say(messageFrame(session, 1, 0), halfCloseFrame(session), windowFrame(session, 5)) // what is late is ignored
			r.answers(session + 1)
			session += 2
		}
		r.say(messageFrame(1, 7, 0), halfCloseFrame(1))
		if f := r.hear(); f.GetSession() != 1 || string(f.GetMessage().GetPayload()) != "done" {
			t.Errorf("the stream beside: %v", f)
		}
		if f := r.hear(); f.GetSession() != 1 || f.GetReply() == nil {
			t.Errorf("the stream beside: %v", f)
		}
		synctest.Wait()
		if n := v.server.Stats().FramesStray; n != int64(2*len(badStreams)) {
			t.Errorf("%d stray frames, want a message and a half_close of each", n)
		}
	})
}

// F37, M23: openings that break a rule run no handler.
func TestOpeningsThatBreakARule(t *testing.T) {
	withStreamVictim(t, func(v *streamVictim) {
		r := v.rogue(knowsStreams)
		bad := meshv1.Reason_REASON_INVALID_REQUEST
		for i, c := range []struct {
			name   string
			frame  func(n uint64) *meshv1.Frame
			reason meshv1.Reason
			says   string
		}{
			{"payload", func(n uint64) *meshv1.Frame {
				return openFrame(n, "@str", "ALL", func(q *meshv1.Request) { q.Payload = []byte("x") })
			}, bad, "without payload"},
			{"total size", func(n uint64) *meshv1.Frame {
				return openFrame(n, "@str", "ALL", func(q *meshv1.Request) { q.TotalSize = 1 << 20 })
			}, bad, "without payload"},
			{"no address", func(n uint64) *meshv1.Frame {
				return openFrame(n, "@str", "ALL", func(q *meshv1.Request) { q.Address = nil })
			}, bad, "no address"},
			{"unknown name", func(n uint64) *meshv1.Frame { return openFrame(n, "@nobody", "ALL") }, meshv1.Reason_REASON_NAME_NOT_FOUND, "@nobody"},
			{"a message first", func(n uint64) *meshv1.Frame { return messageFrame(n, 5, 0) }, bad, "no stream of this session was opened"},
			{"half_close first", halfCloseFrame, bad, "no stream of this session was opened"},
			{"a window first", func(n uint64) *meshv1.Frame { return windowFrame(n, 5) }, bad, "no stream of this session was opened"},
		} {
			session := uint64(2*i + 1)
			r.say(c.frame(session), messageFrame(session, 5, 0))
			if f := r.fails(session, c.reason); !strings.Contains(f.GetMessage(), c.says) {
				t.Errorf("%s: %v, want %q in it", c.name, f, c.says)
			}
			r.answers(session + 1)
		}
		r.say(openFrame(101, "@str", "ALL", roguePush), messageFrame(101, 1, 0), streamHeadersFrame(101, 1))
		r.say(rogueCall(102, "@sdb", "UNTIL", nil), messageFrame(102, 1, 0), halfCloseFrame(102), windowFrame(102, 1), rogueCancel(102))
		r.fails(102, meshv1.Reason_REASON_CANCELLED) // frames of streams do not harm a call
		r.answers(103)
		old := v.victim.rogue() // says no feature
		old.say(openFrame(1, "@str", "ALL"))
		if f := old.fails(1, bad); !strings.Contains(f.GetMessage(), `feature "streams"`) {
			t.Error(f)
		}
		synctest.Wait()
		if s := v.server.Stats(); v.runs.Load() != 0 || s.PushesRefused != 1 {
			t.Errorf("%d handlers ran, %d pushes refused", v.runs.Load(), s.PushesRefused)
		}
	})
}

// M51: a method that is no stream takes one message of a stream: none, or a second
// one, is an error of that session alone.
func TestCallsByStreamThatBreakARule(t *testing.T) {
	withStreamVictim(t, func(v *streamVictim) {
		r := v.rogue(knowsStreams)
		r.say(openFrame(1, "@sdb", "NONE"), halfCloseFrame(1))
		if f := r.fails(1, meshv1.Reason_REASON_INVALID_REQUEST); !strings.Contains(f.GetMessage(), "one message, and none came") {
			t.Error(f)
		}
		r.say(openFrame(2, "@sdb", "UNTIL"), messageFrame(2, 1, 0))
		synctest.Wait()
		r.say(messageFrame(2, 1, 0)) // its handler runs
		if f := r.fails(2, meshv1.Reason_REASON_HANDLER); codes.Code(f.GetCode()) != codes.InvalidArgument || !strings.Contains(f.GetMessage(), "it takes one message") {
			t.Error(f)
		}
		r.say(openFrame(3, "@sdb", "LARGE"), messageFrame(3, partSize, 1<<30))
		if f := r.fails(3, meshv1.Reason_REASON_TOO_LARGE); !strings.Contains(f.GetMessage(), "too large: 1073741824 bytes") {
			t.Error(f)
		}
		r.say(openFrame(4, "@sdb", "WAITS")) // nothing comes, and it is cancelled
		synctest.Wait()
		r.say(rogueCancel(4))
		r.fails(4, meshv1.Reason_REASON_CANCELLED)
		r.say(openFrame(5, "@sdb", "ECHO"), messageFrame(5, 3, 0), halfCloseFrame(5))
		if f := r.hear(); f.GetSession() != 5 || len(f.GetMessage().GetPayload()) != 3 {
			t.Error(f)
		}
		if f := r.hear(); f.GetSession() != 5 || f.GetReply() == nil || len(f.GetReply().GetPayload()) != 0 {
			t.Error(f)
		}
		if v.ran("NONE")+v.ran("LARGE")+v.ran("WAITS") != 0 || v.ran("UNTIL") != 1 {
			t.Errorf("what ran: %v", v.victim.runs)
		}
	})
}

// M41: a message whose parts stop is given up after 30 s, where someone waits for
// it; one that nobody receives keeps its window, for as long as that takes.
func TestPartsOfAStreamThatStop(t *testing.T) {
	withStreamVictim(t, func(v *streamVictim) {
		r := v.rogue(knowsStreams)
		r.beating()
		r.say(openFrame(1, "@str", "IDLE"), messageFrame(1, partSize, 1<<20))
		r.say(openFrame(2, "@str", "ALL"), messageFrame(2, partSize, 1<<20))
		began := time.Now()
		if f := r.hear(); f.GetSession() != 2 || f.GetWindow().GetBytes() != partSize+64 {
			t.Errorf("%v, want a window for what was let in", f)
		}
		f := r.fails(2, meshv1.Reason_REASON_HANDLER)
		if took := time.Since(began); took < 30*time.Second || took > 33*time.Second || !strings.Contains(f.GetMessage(), "no part for 30s") {
			t.Errorf("after %s: %v", took, f)
		}
		if n := v.server.Stats().StreamMessages; n != 0 {
			t.Errorf("%d bytes of unfinished messages are held", n)
		}
		time.Sleep(time.Minute)
		r.say(rogueCancel(1))
		r.fails(1, meshv1.Reason_REASON_CANCELLED)
	})
}
