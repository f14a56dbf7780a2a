package channel

import (
	"fmt"
	"time"
)

// joiner puts a large payload together from its parts. It holds what has
// arrived, never what was announced: its buffer at most doubles (M41).
type joiner struct {
	buf   []byte
	total uint64
	last  time.Time // when the latest piece arrived
}

// newJoiner begins with the first piece, which the first frame brings.
func newJoiner(first []byte, total uint64, now time.Time) (*joiner, error) {
	if len(first) != partBytes || total <= partBytes {
		return nil, fmt.Errorf("its first frame has %d bytes of %d; it must have %d of more", len(first), total, partBytes)
	}
	return &joiner{buf: first, total: total, last: now}, nil
}

// add appends a part and says whether the payload is whole.
func (j *joiner) add(part []byte, now time.Time) (whole bool, err error) {
	have := uint64(len(j.buf) + len(part))
	switch {
	case len(part) > partBytes:
		return false, fmt.Errorf("a part has %d bytes; the most is %d", len(part), partBytes)
	case have > j.total:
		return false, fmt.Errorf("its parts hold more than the %d bytes that it announced", j.total)
	case have < j.total && len(part) < partBytes:
		return false, fmt.Errorf("a part has %d bytes before the last one; it must have %d", len(part), partBytes)
	}
	if need := int(have); need > cap(j.buf) {
		grown := make([]byte, len(j.buf), min(uint64(2*need), j.total))
		copy(grown, j.buf)
		j.buf = grown
	}
	j.buf = append(j.buf, part...)
	if now.After(j.last) { // not the time of a batch in which the reader stopped
		j.last = now
	}
	return have == j.total, nil
}

// weight is what a large message of n bytes counts against UnfinishedBytes.
func weight(n uint64) int64 { return int64(max(n, minUnfinished)) }
