package channel

import (
	"testing"

	"google.golang.org/grpc/mem"
)

func tinyFrames(n int, first uint64) mem.BufferSlice {
	b := &batch{limit: 1 << 20}
	for i := range n {
		b.add(&frame{session: first + uint64(i), kind: kindCancel})
	}
	return b.take()
}

// M22: a list of frames that is lent to one link is read by no other, whatever
// a peer sends: here a hello with many frames behind it, then as many as a
// message may have.
func TestLentListsAreNotShared(t *testing.T) {
	var pool framePool
	rogue := &inbox{many: &pool}
	decode := func(in *inbox, n int, first uint64) {
		if err := in.decode(tinyFrames(n, first)); err != nil {
			t.Fatal(err)
		}
	}
	decode(rogue, 41, 1)
	rogue.shift()
	decode(rogue, maxBatchFrames, 1)
	rogue.reset()
	rogue.reset()
	a, b := &inbox{many: &pool}, &inbox{many: &pool}
	decode(a, 100, 1000)
	decode(b, 100, 5000)
	decode(rogue, 100, 9000)
	if a.frames[0].session != 1000 || b.frames[0].session != 5000 || rogue.frames[0].session != 9000 {
		t.Fatalf("the links read sessions %d, %d and %d", a.frames[0].session, b.frames[0].session, rogue.frames[0].session)
	}
}
