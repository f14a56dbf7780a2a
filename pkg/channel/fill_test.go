package channel

import (
	"context"
	"testing"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M13, M24: a large push holds back what goes to its own service, and nothing
// else.
func TestLargePushHoldsBackItsOwnService(t *testing.T) {
	r, o := openRig(t)
	r.large("@a", true, 100) // 1
	r.call()                 // 2, held
	r.send(Message{Name: "@b"})
	r.push() // 4, held
	r.wantSent(o, "1 3 1+ 1+ 1+ 2 4")
}

// M24: a large call holds back nothing.
func TestLargeCallHoldsBackNothing(t *testing.T) {
	r, o := openRig(t)
	r.large("@a", false, 100) // 1
	r.call()
	r.push()
	r.wantSent(o, "1 2 3 1+ 1+ 1+")
}

// M13, M41: what may not begin yet is passed by small ones, and large ones keep
// their order.
func TestSmallOnesPassWhatMayNotBegin(t *testing.T) {
	r, o := openRig(t)
	r.n.limits.LinePushBytes = 4 << 20
	r.large("@a", false, 150) // 1
	r.large("@b", false, 100) // 2 waits for 1
	r.large("@c", false, 40)  // 3 would fit nowhere before 2
	r.call()                  // 4
	r.push()                  // 5
	r.wantSent(o, "1 4 5 1+ 1+ 1+ 1+ 2 3 2+ 3+ 2+ 2+")

	r, o = openRig(t)
	r.large("@a", false, 100) // 1
	r.large("@b", false, 150) // 2 waits for 1
	r.large("@c", false, 40)  // 3 would fit beside 1, and waits for 2
	r.wantSent(o, "1 1+ 1+ 1+ 2 2+ 2+ 2+ 2+ 3 3+")
}

// M13, M24: small ones to its own service do not pass a large push.
func TestBlockedLargePushIsNotPassedByItsOwn(t *testing.T) {
	r, o := openRig(t)
	r.n.limits.LinePushBytes = 4 << 20
	r.large("@a", false, 150)   // 1
	r.large("@b", true, 100)    // 2 waits for 1
	r.send(Message{Name: "@b"}) // 3 waits for 2
	r.send(Message{Name: "@c"}) // 4 passes
	r.send(Message{Handle: 5, Push: true})
	r.wantSent(o, "1 4 5 1+ 1+ 1+ 1+ 2 2+ 2+ 2+ 3")
}

// M24: what a large push holds back keeps its order with what comes after it.
func TestHeldBackKeepsItsOrder(t *testing.T) {
	r, o := openRig(t)
	r.n.limits.LinePushBytes = 4 << 20
	r.large("@a", true, 64)
	r.large("@a", true, 64)
	r.push()
	r.large("@a", true, 64)
	r.fill(o, smallPeer.batch)
	r.push()
	r.wantSent(o, "1+ 2 2+ 3 4 4+ 5")
}

// A large message that is held back, or blocked, may leave.
func TestBlockedMessageMayLeave(t *testing.T) {
	r, o := openRig(t)
	r.n.limits.LinePushBytes = 4 << 20
	r.large("@a", true, 150)
	held, blocked, next := r.call(), r.large("@b", false, 100), r.large("@c", false, 40)
	r.fill(o, smallPeer.batch)
	for _, l := range []*letter{held, blocked, next} {
		if l.place != placeAside {
			t.Fatalf("message %s has place %d", l.Method, l.place)
		}
	}
	r.leave(held, context.Canceled)
	r.leave(blocked, context.Canceled)
	r.want("not sent: message to [db]: context canceled while it waited to be sent", held, blocked)
	r.wantSent(o, "1+ 1+ 1+ 1+ 4 4+")
	if r.n.calls != 0 || r.n.pushes != 0 {
		t.Errorf("%d calls and %d bytes of pushes in an empty line", r.n.calls, r.n.pushes)
	}
}

// M41: a call that leaves, or is answered, frees what its parts would take.
func TestEndedCallStopsItsParts(t *testing.T) {
	for _, leaves := range []bool{true, false} {
		r, o := openRig(t)
		c, d := r.large("@a", false, 190), r.large("@b", false, 100)
		r.fill(o, smallPeer.batch)
		if leaves {
			r.leave(c, context.Canceled)
			r.wantSent(o, "x1 2 2+ 2+ 2+")
		} else {
			r.fails(c, meshv1.Reason_REASON_NAME_NOT_FOUND)
			r.want("rejected: no", c)
			r.wantSent(o, "2 2+ 2+ 2+")
		}
		if o.bulk.begun != 0 {
			t.Errorf("%d bytes unfinished", o.bulk.begun)
		}
		_ = d
	}
}

// M39: in a line of large messages a small one waits for a few parts at most.
func TestSmallOneGoesBetweenParts(t *testing.T) {
	r, o := openRig(t)
	r.large("@a", true, 190)
	frames, _ := r.fill(o, 64<<10)
	if len(frames) == 0 || len(frames) > 2 {
		t.Fatalf("%d frames in the first batch", len(frames))
	}
	r.send(Message{Name: "@b"})
	frames, _ = r.fill(o, 64<<10)
	if frames[0].kind != kindRequest || frames[0].method != "2" {
		t.Errorf("the small one did not go first: %+v", frames[0].kind)
	}
}

// M39: a round has a part of each large message, whatever comes between.
func TestPartsAreInterleaved(t *testing.T) {
	r, o := openRig(t)
	r.n.limits.LinePushBytes = 4 << 20
	for _, name := range []string{"@a", "@b", "@c"} {
		r.large(name, true, 64)
	}
	r.wantSent(o, "1 2 3 1+ 2+ 3+")
}

// M12: calls in flight are the peer's bound; pushes behind a call wait with it.
func TestCallsInFlightAreBounded(t *testing.T) {
	r, o := openRig(t)
	for range 5 {
		r.call()
	}
	r.push()
	r.wantSent(o, "1 2 3 4")
	r.fails(r.letters[3], meshv1.Reason_REASON_HANDLER)
	r.wantSent(o, "5 6")
}

// The room that fillLine asks for is at least what the frame takes.
func TestBoundIsNoLessThanTheFrame(t *testing.T) {
	long := string(make([]byte, 255))
	for _, m := range []Message{
		{}, {Handle: 1 << 63, Method: long, Push: true}, {Name: long, Target: long + long, Tag: "x", Payload: make([]byte, 1<<20)},
		{Name: long, Target: long, Tag: "(x", Headers: []Header{{long, make([]byte, 8000)}, {}, {"a", nil}}},
		{Name: long, Headers: make([]Header, 1000), Payload: make([]byte, partBytes)},
	} {
		c := &call{Message: m, session: 1<<64 - 1}
		f := c.first(long, m.Due)
		f.timeLeft = 1<<64 - 1
		if size := tagged(f.size()); size > c.bound() {
			t.Errorf("a frame of %d bytes has the bound %d", size, c.bound())
		}
	}
}

// M41: a large message begins when its whole size fits, to the byte.
func TestUnfinishedBoundIsExact(t *testing.T) {
	k := bulk[*call]{limit: 192 << 10}
	k.begin(&call{Message: Message{Payload: make([]byte, partBytes+1)}}) // counts as 64 KiB
	for n, want := range map[int]bool{1: true, 128 << 10: true, 128<<10 + 1: false} {
		if k.mayBegin(n) != want {
			t.Errorf("%d more bytes may begin: %v", n, !want)
		}
	}
}
