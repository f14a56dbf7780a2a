package mesh_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M62: whoever passes a message on counts its hops, and a loop ends at 8 with
// FAILED_PRECONDITION, not sent, at the one who would have made the eighth.
func TestForwardedMessagesDoNotGoInALoop(t *testing.T) {
	inWorld(t, func(w *world) {
		var hops []int
		m := w.process("server")
		w.open(m, "db:1")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.register(m, "loop", func(ctx context.Context, method string, payload []byte) ([]byte, error) {
			c, _ := mesh.CallerFrom(ctx)
			hops = append(hops, c.Hops)
			_, err := m.Call(ctx, "db@loop", method, payload, mesh.Forwarded(c.Hops, ""))
			if c.Hops == mesh.MaxHops-1 {
				failsWith(t, "the last", err, mesh.NotSent, mesh.ErrLoop, "the message was passed on 8 times: it goes in a loop")
				if code := status.Code(err); code != codes.FailedPrecondition {
					t.Errorf("code %s", code)
				}
				return []byte("it ends"), nil
			}
			return nil, err
		})
		_, err := m.Call(w.within(time.Minute), "db@loop", "GO", nil)
		if err != nil {
			// Each handler returned what it was told; only the last one made a value.
			t.Error(err)
		}
		for i, n := range hops {
			if n != i {
				t.Errorf("hops %v", hops)
			}
		}
		if len(hops) != mesh.MaxHops {
			t.Errorf("%d handlers ran", len(hops))
		}
	})
}

// M62: a peer that does not count is refused by the next one; 7 hops are taken.
func TestTooManyHopsAreRejected(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		for i, n := range []uint32{7, 8, 9, 1<<32 - 1} {
			session := uint64(i + 1)
			r.say(rogueCall(session, "@sdb", "ECHO", []byte("x"), func(q *meshv1.Request) { q.Hops = n }))
			f := r.hear()
			switch fail := f.GetFailure(); {
			case n < 8 && f.GetReply() == nil:
				t.Errorf("%d hops: %v", n, f)
			case n >= 8 && (fail.GetReason() != meshv1.Reason_REASON_LOOP || codes.Code(fail.GetCode()) != codes.FailedPrecondition):
				t.Errorf("%d hops: %v", n, f)
			}
		}
		if n := v.ran("ECHO"); n != 1 {
			t.Errorf("%d ran", n)
		}
	})
}

// M59: on whose behalf is bounded, and what a peer says of it is not shown.
func TestOnBehalfIsBounded(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		say := func(session uint64, s string) {
			r.say(rogueCall(session, "@sdb", "ECHO", nil, func(q *meshv1.Request) { q.OnBehalf = s }))
		}
		say(1, strings.Repeat("a", 255))
		if f := r.hear(); f.GetReply() == nil {
			t.Errorf("%v", f)
		}
		say(2, strings.Repeat("a", 256))
		r.fails(2, meshv1.Reason_REASON_INVALID_REQUEST)
	})
	inWorld(t, func(w *world) {
		m := w.process("m")
		_, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil, mesh.Forwarded(0, strings.Repeat("a", 256)))
		failsWith(t, "256 bytes", err, mesh.NotSent, mesh.ErrInvalidRequest, "invalid request: on whose behalf: at most 255 bytes of UTF-8")
	})
}
