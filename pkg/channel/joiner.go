package channel

import (
	"fmt"
	"time"
)

// joiner collects a large payload from its parts, in the buffers in which they
// arrive. It holds what has arrived, never what was announced, and at most
// twice that (M41).
type joiner struct {
	held  *held
	total uint64
	last  time.Time // when the latest piece arrived
}

// newJoiner begins with the first piece, which the first frame brings.
func newJoiner(f *frame, now time.Time) (*joiner, error) {
	if f.length() != partBytes || f.total <= partBytes {
		return nil, fmt.Errorf("its first frame has %d bytes of %d; it must have %d of more", f.length(), f.total, partBytes)
	}
	j := &joiner{held: f.held, total: f.total, last: now}
	if j.held == nil {
		j.held = newHeld()
		j.held.addBytes(f.payload)
	}
	return j, nil
}

// add appends a part and says whether the payload is whole.
func (j *joiner) add(f *frame, now time.Time) (whole bool, err error) {
	n := f.length()
	have := uint64(j.held.size + n)
	switch {
	case n > partBytes:
		return false, fmt.Errorf("a part has %d bytes; the most is %d", n, partBytes)
	case have > j.total:
		return false, fmt.Errorf("its parts hold more than the %d bytes that it announced", j.total)
	case have < j.total && n < partBytes:
		return false, fmt.Errorf("a part has %d bytes before the last one; it must have %d", n, partBytes)
	case f.held != nil:
		j.held.add(f.held)
	default:
		j.held.addBytes(f.payload)
	}
	if now.After(j.last) { // not the time of a batch in which the reader stopped
		j.last = now
	}
	return have == j.total, nil
}

// weight is what a large message of n bytes counts against UnfinishedBytes.
func weight(n uint64) int64 { return int64(max(n, minUnfinished)) }
