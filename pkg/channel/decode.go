package channel

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// inbox receives one gRPC message of a link as its frames. It is reused from
// message to message by the link's reader; the payloads are not.
type inbox struct {
	frames []frame
	few    []frame           // what frames is while few of them come
	many   *framePool        // where a long list comes from; may be nil
	whole  int               // the length of the frame that is being read
	names  map[string]string // texts that come again and again, kept once
}

// maxKnownTexts bounds inbox.names; past it the map starts anew.
const maxKnownTexts = 256

// maxHeaders is how many headers can be within maxHeaderBytes.
const maxHeaders = maxHeaderBytes / headerOverhead

// keptFrames is how long a list of frames a link keeps while nothing comes.
const keptFrames = 64

// framePool lends long lists of frames to links that have a batch in hand.
type framePool struct{ p sync.Pool }

func (p *framePool) get() []frame {
	if p != nil {
		if l, ok := p.p.Get().(*[]frame); ok {
			return *l
		}
	}
	return make([]frame, 0, maxBatchFrames)
}

func (p *framePool) put(l []frame) {
	if p != nil && cap(l) == maxBatchFrames { // whole ones only: next relies on it
		l = l[:0]
		p.p.Put(&l)
	}
}

// reset forgets the frames of the last message.
func (in *inbox) reset() {
	clear(in.frames)
	if cap(in.frames) > keptFrames {
		in.many.put(in.frames)
		in.frames = in.few
	}
	in.frames = in.frames[:0]
}

// next makes room for one more frame.
func (in *inbox) next() *frame {
	if n := len(in.frames); n == cap(in.frames) && n >= keptFrames/2 && n <= keptFrames {
		in.few = in.frames[:0]
		in.frames = append(in.many.get(), in.frames...)
		clear(in.few[:n])
	}
	in.frames = append(in.frames, frame{})
	return &in.frames[len(in.frames)-1]
}

// shift forgets the first frame, in place: the list may be a lent one.
func (in *inbox) shift() {
	n := copy(in.frames, in.frames[1:])
	clear(in.frames[n:])
	in.frames = in.frames[:n]
}

// text returns b as a string, without allocating for one that was seen before.
func (in *inbox) text(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := in.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(b) <= maxNameBytes {
		if in.names == nil || len(in.names) >= maxKnownTexts {
			in.names = make(map[string]string)
		}
		in.names[s] = s
	}
	return s
}

// decode replaces the frames by those in data. Payloads are copied out: they
// belong to whoever receives them, and keep nothing of the batch alive (M17).
func (in *inbox) decode(data mem.BufferSlice) error {
	in.reset()
	c := cursor{bufs: data}
	for !c.empty() {
		tag, err := c.uvarint()
		if err != nil {
			return err
		}
		if tag != 1<<3|uint64(protowire.BytesType) {
			if err := c.skip(tag); err != nil {
				return err
			}
			continue
		}
		n, err := c.uvarint()
		if err != nil {
			return err
		}
		b, own, err := c.take(n)
		if err != nil {
			return err
		}
		if len(in.frames) >= maxBatchFrames {
			return errManyFrames
		}
		in.whole = len(b)
		if err := in.frame(in.next(), b, own); err != nil {
			return err
		}
	}
	return nil
}

// fields calls on for each field of a message: v for varints, b for bytes.
// Fields of other wire types are skipped, as protobuf skips what it does not
// know.
func fields(b []byte, on func(num protowire.Number, t protowire.Type, v uint64, b []byte) error) error {
	for len(b) > 0 {
		num, t, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var v uint64
		var body []byte
		switch t {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			body, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, t, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := on(num, t, v, body); err != nil {
			return err
		}
	}
	return nil
}

// frame parses one frame. own says that b was allocated for this frame alone.
func (in *inbox) frame(f *frame, b []byte, own bool) error {
	err := fields(b, func(num protowire.Number, t protowire.Type, v uint64, body []byte) error {
		if num == 1 && t == protowire.VarintType {
			f.session = v
			return nil
		}
		if t != protowire.BytesType || num < protowire.Number(kindHello) || num > protowire.Number(kindHeartbeat) {
			return nil
		}
		if k := kind(num); f.kind != k {
			f.reset(k)
		}
		switch f.kind {
		case kindRequest:
			return in.request(f, body, own)
		case kindReply:
			return in.reply(f, body, own)
		case kindPart, kindHeartbeat:
			return in.small(f, body, own)
		default:
			return decodeRare(f, body)
		}
	})
	if f.byName && f.name == "" && f.bad == "" {
		f.bad = "the name is empty" // only now: a later address may replace one
	}
	f.byName = false
	return err
}

func (in *inbox) request(f *frame, b []byte, own bool) error {
	return fields(b, func(num protowire.Number, t protowire.Type, v uint64, b []byte) error {
		switch {
		case num == 1 && t == protowire.BytesType:
			f.addressed, f.byName, f.name, f.handle = true, true, in.text(b), 0
		case num == 2 && t == protowire.VarintType:
			f.addressed, f.byName, f.name, f.handle = true, false, "", v
		case num == 3 && t == protowire.BytesType:
			f.method = in.text(b)
			f.utf8Rule("the method", f.method)
		case num == 4 && t == protowire.VarintType:
			f.push = v != 0
		case num == 5 && t == protowire.VarintType:
			f.timeLeft = v
		case num == 6 && t == protowire.BytesType:
			return in.header(f, &f.headers, b)
		case num == 7 && t == protowire.BytesType:
			f.tag = string(b)
			f.utf8Rule("the trace tag", f.tag)
		case num == 8 && t == protowire.BytesType:
			f.payload = keep(b, in.whole, own)
		case num == 9 && t == protowire.VarintType:
			f.total = v
		}
		return nil
	})
}

func (in *inbox) reply(f *frame, b []byte, own bool) error {
	return fields(b, func(num protowire.Number, t protowire.Type, v uint64, b []byte) error {
		switch {
		case num == 1 && t == protowire.BytesType:
			f.payload = keep(b, in.whole, own)
		case num == 2 && t == protowire.VarintType:
			f.total = v
		case num == 3 && t == protowire.BytesType:
			return in.header(f, &f.headers, b)
		case num == 4 && t == protowire.BytesType:
			return in.header(f, &f.trailers, b)
		}
		return nil
	})
}

func (in *inbox) small(f *frame, b []byte, own bool) error {
	return fields(b, func(num protowire.Number, t protowire.Type, v uint64, b []byte) error {
		switch {
		case f.kind == kindPart && num == 1 && t == protowire.BytesType:
			f.payload = keep(b, in.whole, own)
		case f.kind == kindHeartbeat && num == 1 && t == protowire.VarintType:
			f.stopped = v != 0
		}
		return nil
	})
}

func (in *inbox) header(f *frame, hs *[]Header, b []byte) error {
	var h Header
	err := fields(b, func(num protowire.Number, t protowire.Type, v uint64, b []byte) error {
		switch {
		case num == 1 && t == protowire.BytesType:
			h.Key = in.text(b)
			f.utf8Rule("a header's key", h.Key)
		case num == 2 && t == protowire.BytesType:
			h.Value = append([]byte(nil), b...)
		}
		return nil
	})
	if len(*hs) >= maxHeaders {
		f.bad = "it has too many headers"
		return err
	}
	*hs = append(*hs, h)
	return err
}

func decodeRare(f *frame, b []byte) error {
	merge := proto.UnmarshalOptions{Merge: true}
	switch f.kind {
	case kindHello:
		if f.hello == nil {
			f.hello = new(meshv1.Hello)
		}
		return merge.Unmarshal(b, f.hello)
	case kindFailure:
		if f.failure == nil {
			f.failure = new(meshv1.Failure)
		}
		return merge.Unmarshal(b, f.failure)
	case kindGoaway:
		if f.goaway == nil {
			f.goaway = new(meshv1.Goaway)
		}
		return merge.Unmarshal(b, f.goaway)
	default: // cancel: nothing in it matters
		return fields(b, func(protowire.Number, protowire.Type, uint64, []byte) error { return nil })
	}
}

// keep returns bytes that the receiver may hold for good: b itself where it is
// most of what was allocated for its frame alone, else a copy.
func keep(b []byte, whole int, own bool) []byte {
	if len(b) == 0 {
		return nil
	}
	if own && len(b) >= whole-whole/4 {
		return b[:len(b):len(b)]
	}
	return append(make([]byte, 0, len(b)), b...)
}

// cursor reads a message that lies in several buffers.
type cursor struct {
	bufs mem.BufferSlice
	cur  []byte
}

var (
	errMalformed  = errors.New("malformed protobuf")
	errManyFrames = fmt.Errorf("more than %d frames in one message", maxBatchFrames)
)

func (c *cursor) empty() bool {
	for len(c.cur) == 0 {
		if len(c.bufs) == 0 {
			return true
		}
		c.cur, c.bufs = c.bufs[0].ReadOnlyData(), c.bufs[1:]
	}
	return false
}

func (c *cursor) uvarint() (uint64, error) {
	var v uint64
	for shift := uint(0); shift < 70; shift += 7 {
		if c.empty() {
			return 0, io.ErrUnexpectedEOF
		}
		b := c.cur[0]
		c.cur = c.cur[1:]
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

// left is how many bytes have not been read.
func (c *cursor) left() int {
	return len(c.cur) + c.bufs.Len()
}

// take returns the next n bytes, copied together (own) where they lie in more
// than one buffer.
func (c *cursor) take(n uint64) (b []byte, own bool, err error) {
	if n <= uint64(len(c.cur)) {
		b, c.cur = c.cur[:n:n], c.cur[n:]
		return b, false, nil
	}
	if n > uint64(c.left()) {
		return nil, false, io.ErrUnexpectedEOF
	}
	b = make([]byte, 0, n)
	for uint64(len(b)) < n && !c.empty() {
		k := min(int(n)-len(b), len(c.cur))
		b = append(b, c.cur[:k]...)
		c.cur = c.cur[k:]
	}
	return b, true, nil
}

// skip passes over an unknown field of the message.
func (c *cursor) skip(tag uint64) error {
	num, t := protowire.DecodeTag(tag)
	if num < protowire.MinValidNumber || tag>>3 > uint64(protowire.MaxValidNumber) {
		return errMalformed
	}
	n := uint64(0)
	switch t {
	case protowire.VarintType:
		_, err := c.uvarint()
		return err
	case protowire.BytesType:
		var err error
		if n, err = c.uvarint(); err != nil {
			return err
		}
	case protowire.Fixed32Type:
		n = 4
	case protowire.Fixed64Type:
		n = 8
	default: // groups are not used, and nothing else exists
		return errMalformed
	}
	_, _, err := c.take(n)
	return err
}
