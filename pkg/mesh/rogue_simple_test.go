package mesh_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// The shortest correct client of cluster.proto, step by step: it sends one frame
// a message and reads one at a time. M36: what it pushed before it half-closed
// is placed.
func TestShortestCorrectClient(t *testing.T) {
	withVictim(t, func(v *victim) {
		// 1. Open Link. The headers come at once, the hello after ours.
		r := v.rogueOn(v.conn())
		if _, err := r.stream.Header(); err != nil {
			t.Fatal(err)
		}
		r.say(rogueHello())
		// 2. The first frame is the listener's hello.
		if h := r.hear().GetHello(); h.GetVersion() != 1 || h.GetProcess() != "server" {
			t.Fatalf("hello: %v", h)
		}
		// 3. A call is answered by one reply or failure of its session.
		r.answers(1)
		r.say(rogueCall(2, "@nobody", "ECHO", nil))
		r.fails(2, meshv1.Reason_REASON_NAME_NOT_FOUND)
		r.say(rogueCall(3, "@sdb", "LARGE", nil))
		if got := r.replies(1); len(got[3]) != 1<<20 {
			t.Errorf("a large reply: %d bytes", len(got[3]))
		}
		// 4. A heartbeat in each interval keeps the link for as long as wanted,
		// and the listener's arrive.
		before := r.beats.Load()
		for range 60 {
			time.Sleep(2 * time.Second)
			r.say(rogueBeat())
		}
		r.answers(4)
		if n := r.beats.Load() - before; n < 55 {
			t.Errorf("%d heartbeats in 120 s, want one every 2 s", n)
		}
		// 5. Half-close, and read to the end.
		for n := range uint64(10) {
			r.say(rogueCall(5+n, "@sdb", "PUSHED", nil, roguePush))
		}
		if err := r.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if st := r.ended(); st.Code() != codes.OK {
			t.Errorf("the link ended with %v", st)
		}
		synctest.Wait()
		if n := v.ran("PUSHED"); n != 10 {
			t.Errorf("%d pushes ran, want 10", n)
		}
	})
}

// Calls that were made before the half-close are answered before the stream ends.
func TestHalfCloseWaitsForAnswers(t *testing.T) {
	withStubborn(t, func(s *stubborn, r *rogue) {
		r.say(rogueCall(1, "@sdb", "WAIT", []byte("late")), rogueCall(2, "@sdb", "ECHO", []byte("later")))
		if err := r.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, func() { s.let <- struct{}{} })
		if got := r.replies(2); string(got[1]) != "late" || string(got[2]) != "later" {
			t.Errorf("replies: %q and %q", got[1], got[2])
		}
		if f, err := r.next(); !errors.Is(err, io.EOF) {
			t.Errorf("after the last answer: %v, %v", f, err)
		}
	})
}

// M37: a simple client that says nothing is given up after three of its
// intervals and at least 6 s; one that said a longer interval has longer.
func TestSilentClientIsGivenUp(t *testing.T) {
	for interval, want := range map[uint32]time.Duration{0: 6 * time.Second, 100: 6 * time.Second, 5000: 15 * time.Second} {
		withVictim(t, func(v *victim) {
			r := v.rogue(func(h *meshv1.Hello) { h.HeartbeatIntervalMs = interval })
			began := time.Now()
			if st := r.ended(); st.Code() != codes.Unavailable {
				t.Errorf("interval %d: ended with %v", interval, st)
			}
			if took := time.Since(began); took < want || took > want+time.Second {
				t.Errorf("interval %d: ended after %s, want %s", interval, took, want)
			}
		})
	}
}

// M56: what a handler's error says is cut to 1 KiB, at a rune's end, and details
// of more than 3 KiB are dropped, before they leave.
func TestFailureOnTheWireIsBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", func(context.Context, string, []byte) ([]byte, error) {
			st, err := status.New(codes.DataLoss, "x"+strings.Repeat("é", 5000)).WithDetails(&meshv1.PingRequest{Payload: make([]byte, 4000)})
			if err != nil {
				return nil, err
			}
			return nil, st.Err()
		})
		r := w.rogue("db:1")
		r.say(rogueCall(1, "@sdb", "M", nil))
		f := r.fails(1, meshv1.Reason_REASON_HANDLER)
		if f.GetMessage() != "x"+strings.Repeat("é", 511) || len(f.GetDetails()) != 0 || codes.Code(f.GetCode()) != codes.DataLoss {
			t.Errorf("%d bytes of text, %d details, code %d", len(f.GetMessage()), len(f.GetDetails()), f.GetCode())
		}
	})
}
