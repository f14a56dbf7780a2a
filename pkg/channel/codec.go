package channel

import (
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// refBytes is the payload size from which a batch references a payload instead
// of copying it.
const refBytes = 1 << 10

// batch is one gRPC message of a link on its way out: frames encoded one after
// the other into pooled buffers, large payloads referenced. The bytes are those
// of a LinkRequest or LinkResponse. A batch is filled once and sent once.
type batch struct {
	limit int // BatchBytes of the receiver
	size  int
	count int // frames
	bufs  mem.BufferSlice
	cur   []byte
	pool  *[]byte // what cur was taken from
	sent  *sent   // counts the buffers; may be nil
}

// sent counts what gRPC was given and has not written to the connection's
// buffer: the batches of a link that are on their way to HTTP/2's windows. It is
// the pool to which their buffers go when they are written.
type sent struct{ buffers atomic.Int32 }

// all says that gRPC has written all that it was given. Then its quota for the
// stream is whole, 64 KiB, and a Send of less returns at once: a large payload
// has a buffer before it, and at most one piece of 32 KiB after the last.
func (s *sent) all() bool { return s.buffers.Load() == 0 }

// Get is mem.BufferPool's.
func (s *sent) Get(n int) *[]byte { return mem.DefaultBufferPool().Get(n) }

// Put is mem.BufferPool's.
func (s *sent) Put(b *[]byte) {
	mem.DefaultBufferPool().Put(b)
	s.buffers.Add(-1)
}

// frameRoom is what a first frame of a large message takes at the most, its
// payload's piece included.
const frameRoom = partBytes + maxHeaderBytes + maxMethodBytes + 3*maxNameBytes + 1024

func (b *batch) empty() bool { return b.size == 0 }

// fits says whether a frame of n bytes may still be added.
func (b *batch) fits(n int) bool { return b.empty() || b.fitMore(1, n) }

// fitMore says whether so many frames, of so many bytes together, fit beside
// what there is.
func (b *batch) fitMore(frames, bytes int) bool {
	return b.size+bytes <= b.limit && b.count+frames <= maxBatchFrames
}

// seal ends the buffer that is being written.
func (b *batch) seal() {
	if b.pool == nil {
		return
	}
	if len(b.cur) == 0 {
		mem.DefaultBufferPool().Put(b.pool)
	} else {
		*b.pool = b.cur
		pool := mem.DefaultBufferPool()
		if b.sent != nil {
			b.sent.buffers.Add(1)
			pool = b.sent
		}
		b.bufs = append(b.bufs, mem.NewBuffer(b.pool, pool))
	}
	b.cur, b.pool = nil, nil
}

// reserve makes room for n more bytes in the buffer that is being written.
func (b *batch) reserve(n int) {
	if cap(b.cur)-len(b.cur) >= n {
		return
	}
	b.seal()
	b.pool = mem.DefaultBufferPool().Get(max(n, 4<<10))
	b.cur = (*b.pool)[:0]
}

// add encodes a frame.
func (b *batch) add(f *frame) {
	n := f.size()
	whole := tagged(n)
	b.size += whole
	b.count++
	ref := len(f.payload) >= refBytes
	if ref {
		whole -= len(f.payload)
	}
	b.reserve(whole)
	b.cur = protowire.AppendVarint(appendTag(b.cur, 1, protowire.BytesType), uint64(n))
	b.cur = f.appendBefore(b.cur)
	if ref {
		b.seal()
		b.bufs = append(b.bufs, mem.SliceBuffer(f.payload))
		b.reserve(whole)
	} else {
		b.cur = append(b.cur, f.payload...)
	}
	b.cur = f.appendAfter(b.cur)
}

// take hands the encoded message over; its buffers are freed by gRPC.
func (b *batch) take() mem.BufferSlice {
	b.seal()
	bufs := b.bufs
	b.bufs = nil
	return bufs
}

// linkCodec carries batch and inbox by hand, and everything else that is spoken
// on the same connection by gRPC's own protobuf codec, under the same name.
type linkCodec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 {
	return linkCodec{encoding.GetCodecV2(proto.Name)}
}

func (c linkCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(*batch); ok {
		return b.take(), nil
	}
	return c.CodecV2.Marshal(v)
}

func (c linkCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if in, ok := v.(*inbox); ok {
		return in.decode(data)
	}
	return c.CodecV2.Unmarshal(data, v)
}
