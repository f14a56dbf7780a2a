package channel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// holdBytes is the payload size from which a payload may stay in the buffers in
// which it arrived until someone wants it in one piece. The copying is then not
// the reader's, and a large payload is copied once.
const holdBytes = 4 << 10

// held is a payload in the buffers in which it arrived.
type held struct {
	views [][]byte
	bufs  mem.BufferSlice
	size  int

	few     [3][]byte // what views begins with
	fewBufs [3]mem.Buffer
}

func newHeld() *held {
	h := new(held)
	h.views, h.bufs = h.few[:0], h.fewBufs[:0]
	return h
}

// add appends what o holds. o is not to be used again.
func (h *held) add(o *held) {
	h.views = append(h.views, o.views...)
	h.bufs = append(h.bufs, o.bufs...)
	h.size += o.size
}

// addBytes appends bytes that are h's alone.
func (h *held) addBytes(b []byte) {
	h.views = append(h.views, b)
	h.size += len(b)
}

// join returns the payload in one piece and gives the buffers back. Whoever
// drops a payload instead leaves them to the garbage collector.
func (h *held) join() []byte {
	b := join(h.views, h.size)
	h.bufs.Free()
	*h = held{}
	return b
}

// politeBytes is how much is copied at a time where other goroutines wait: Go
// preempts nobody for 10 ms, and no copy at all.
const politeBytes = 1 << 20

// join returns n bytes, which views are, in one piece of exactly that size.
func join(views [][]byte, n int) []byte {
	if n <= politeBytes {
		return bytes.Join(views, nil) // does not zero it first
	}
	b := make([]byte, n)
	to, since := b, 0
	for _, v := range views {
		for len(v) > 0 {
			k := copy(to, v[:min(len(v), politeBytes/4)])
			to, v = to[k:], v[k:]
			if since += k; since >= politeBytes/4 {
				since = 0
				runtime.Gosched()
			}
		}
	}
	return b
}

// cursor reads a message that lies in several buffers.
type cursor struct {
	bufs mem.BufferSlice // those after cur
	of   mem.Buffer      // what cur is
	cur  []byte
	pos  int // in cur; a number, so that reading on writes no pointer
	left int // bytes that were not read, those of cur among them
}

var (
	errMalformed  = errors.New("malformed protobuf")
	errManyFrames = fmt.Errorf("more than %d frames in one message", maxBatchFrames)
)

func newCursor(data mem.BufferSlice) cursor { return cursor{bufs: data, left: data.Len()} }

// more goes on to the next buffer where cur is read, and says whether anything
// is left.
func (c *cursor) more() bool {
	for c.pos == len(c.cur) {
		if len(c.bufs) == 0 {
			return false
		}
		c.of, c.bufs = c.bufs[0], c.bufs[1:]
		c.cur, c.pos = c.of.ReadOnlyData(), 0
	}
	return true
}

// here is what is left of cur.
func (c *cursor) here() []byte { return c.cur[c.pos:] }

func (c *cursor) advance(n int) {
	c.pos += n
	c.left -= n
}

func (c *cursor) uvarint() (uint64, error) {
	if c.pos < len(c.cur) && c.cur[c.pos] < 0x80 {
		v := uint64(c.cur[c.pos])
		c.advance(1)
		return v, nil
	}
	return c.longVarint()
}

func (c *cursor) longVarint() (uint64, error) {
	var v uint64
	for shift := uint(0); shift < 70; shift += 7 {
		if !c.more() {
			return 0, io.ErrUnexpectedEOF
		}
		b := c.cur[c.pos]
		c.advance(1)
		if shift == 63 && b > 1 {
			return 0, errMalformed
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, errMalformed
}

// field is one field of a message: a varint's value, or the length of bytes,
// which the cursor stands before.
type field struct {
	num protowire.Number
	typ protowire.Type
	v   uint64
}

func (f field) varint(num protowire.Number) bool {
	return f.num == num && f.typ == protowire.VarintType
}

func (f field) bytes(num protowire.Number) bool { return f.num == num && f.typ == protowire.BytesType }

// field reads a tag, and what follows it up to the bytes of the field itself,
// which are size many.
func (c *cursor) field() (f field, size uint64, err error) {
	tag, err := c.uvarint()
	if err != nil {
		return f, 0, err
	}
	if f.num, f.typ = protowire.DecodeTag(tag); f.num < protowire.MinValidNumber || f.num > protowire.MaxValidNumber {
		return f, 0, errMalformed
	}
	switch f.typ {
	case protowire.VarintType:
		f.v, err = c.uvarint()
	case protowire.BytesType:
		f.v, err = c.uvarint()
		size = f.v
	case protowire.Fixed32Type:
		size = 4
	case protowire.Fixed64Type:
		size = 8
	default: // groups are not used, and nothing else exists
		err = errMalformed
	}
	if err == nil && size > uint64(c.left) {
		err = io.ErrUnexpectedEOF
	}
	return f, size, err
}

// fields calls on for each varint and each bytes field of a message of n bytes;
// what on does not read is passed over, and so are fields of other types. Groups,
// which nothing uses, are malformed.
func (c *cursor) fields(n int, on func(f field) error) error {
	for end := c.left - n; c.left > end; {
		f, size, err := c.field()
		switch {
		case err != nil:
			return err
		case c.left-int(size) < end:
			return io.ErrUnexpectedEOF
		}
		next := c.left - int(size)
		if f.typ == protowire.VarintType || f.typ == protowire.BytesType {
			if err := on(f); err != nil {
				return err
			}
		}
		c.discard(c.left - next)
	}
	return nil
}

func (c *cursor) discard(n int) {
	for n > 0 && c.more() {
		k := min(n, len(c.cur)-c.pos)
		c.advance(k)
		n -= k
	}
}

// peek returns the next n bytes in one piece, to be used before the cursor is.
func (c *cursor) peek(n uint64) []byte {
	if n == 0 {
		return nil
	}
	if c.more(); n <= uint64(len(c.here())) {
		b := c.here()[:n]
		c.advance(int(n))
		return b
	}
	return c.join(int(n))
}

// copy returns the next n bytes as bytes of their own.
func (c *cursor) copy(n uint64) []byte {
	if n == 0 {
		return nil
	}
	if c.more(); n > uint64(len(c.here())) {
		return c.join(int(n))
	}
	b := make([]byte, n)
	copy(b, c.here())
	c.advance(int(n))
	return b
}

func (c *cursor) join(n int) []byte {
	var few [8][]byte
	return bytes.Join(c.views(few[:0], n), nil)
}

func (c *cursor) views(to [][]byte, n int) [][]byte {
	for n > 0 && c.more() {
		k := min(n, len(c.here()))
		to = append(to, c.here()[:k])
		c.advance(k)
		n -= k
	}
	return to
}

// hold returns the next n bytes in the buffers that they are in, or nil where
// those are more than twice as large together: a peer may cut its messages as
// it likes.
func (c *cursor) hold(n uint64) *held {
	if c.more(); n == 0 || len(c.here()) == 0 {
		return nil
	}
	have, room := uint64(len(c.here())), uint64(cap(c.of.ReadOnlyData()))
	spans := 1
	for have < n && spans <= len(c.bufs) {
		b := c.bufs[spans-1].ReadOnlyData()
		have, room = have+uint64(len(b)), room+uint64(cap(b))
		spans++
	}
	if room > 2*n {
		return nil
	}
	h := newHeld()
	h.size = int(n)
	for range spans {
		c.more()
		c.of.Ref()
		h.bufs = append(h.bufs, c.of)
		h.views = c.views(h.views, min(int(n), len(c.here())))
		n -= uint64(len(h.views[len(h.views)-1]))
	}
	return h
}
