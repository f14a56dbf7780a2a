package channel

import (
	"sync"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// inbox receives one gRPC message of a link as its frames. It is reused from
// message to message by the link's reader; the payloads are not.
type inbox struct {
	frames []frame
	few    []frame           // what frames is while few of them come
	many   *framePool        // where a long list comes from; may be nil
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

// decode replaces the frames by those in data. What is small is copied out: it
// belongs to whoever receives it, and keeps nothing of the batch alive (M17).
func (in *inbox) decode(data mem.BufferSlice) error {
	in.reset()
	c := newCursor(data)
	return c.fields(c.left, func(f field) error {
		if !f.bytes(1) {
			return nil
		}
		if len(in.frames) >= maxBatchFrames {
			return errManyFrames
		}
		return in.frame(in.next(), &c, int(f.v))
	})
}

// frame parses one frame, of n bytes.
func (in *inbox) frame(f *frame, c *cursor, n int) error {
	err := c.fields(n, func(x field) error {
		if x.varint(1) {
			f.session = x.v
			return nil
		}
		switch {
		case x.typ != protowire.BytesType:
			return nil
		case !known(x.num):
			return nil
		}
		if k := kind(x.num); f.kind != k {
			f.reset(k)
		}
		switch f.kind {
		case kindRequest:
			return in.request(f, c, int(x.v))
		case kindReply:
			return in.reply(f, c, int(x.v))
		case kindPart, kindHeartbeat, kindMessage, kindWindow, kindStreamHeaders:
			return in.small(f, c, int(x.v))
		default:
			return decodeRare(f, c.peek(x.v))
		}
	})
	if f.byName && f.name == "" && f.bad == "" {
		f.bad = "the name is empty" // only now: a later address may replace one
	}
	f.byName = false
	return err
}

// known says that a field number is that of a body.
func known(n protowire.Number) bool {
	return n >= protowire.Number(kindHello) && n <= protowire.Number(kindRegistered) ||
		n >= protowire.Number(kindMessage) && n <= protowire.Number(kindStreamHeaders)
}

func (in *inbox) request(f *frame, c *cursor, n int) error {
	return c.fields(n, func(x field) error {
		switch {
		case x.bytes(1):
			f.addressed, f.byName, f.name, f.handle = true, true, in.text(c.peek(x.v)), 0
		case x.varint(2):
			f.addressed, f.byName, f.name, f.handle = true, false, "", x.v
		case x.bytes(3):
			f.method = in.text(c.peek(x.v))
			f.utf8Rule("the method", f.method)
		case x.varint(4):
			f.push = x.v != 0
		case x.varint(5):
			f.timeLeft = x.v
		case x.bytes(6):
			return in.header(f, &f.headers, c, int(x.v))
		case x.bytes(7):
			f.tag = string(c.peek(x.v))
			f.utf8Rule("the trace tag", f.tag)
		case x.bytes(8):
			f.take(c, x.v)
		case x.varint(9):
			f.total = x.v
		case x.varint(10):
			f.hops = uint32(x.v) // as protobuf cuts it
		case x.bytes(11):
			f.onBehalf = in.text(c.peek(x.v))
			f.utf8Rule("on_behalf", f.onBehalf)
		case x.varint(12):
			f.stream = x.v != 0
		}
		return nil
	})
}

func (in *inbox) reply(f *frame, c *cursor, n int) error {
	return c.fields(n, func(x field) error {
		switch {
		case x.bytes(1):
			f.take(c, x.v)
		case x.varint(2):
			f.total = x.v
		case x.bytes(3):
			return in.header(f, &f.headers, c, int(x.v))
		case x.bytes(4):
			return in.header(f, &f.trailers, c, int(x.v))
		}
		return nil
	})
}

func (in *inbox) small(f *frame, c *cursor, n int) error {
	return c.fields(n, func(x field) error {
		switch {
		case (f.kind == kindPart || f.kind == kindMessage) && x.bytes(1):
			f.take(c, x.v)
		case f.kind == kindMessage && x.varint(2), f.kind == kindWindow && x.varint(1):
			f.total = x.v
		case f.kind == kindStreamHeaders && x.bytes(1):
			return in.header(f, &f.headers, c, int(x.v))
		case f.kind == kindHeartbeat && x.varint(1):
			f.stopped = x.v != 0
		}
		return nil
	})
}

// take reads the payload.
func (f *frame) take(c *cursor, n uint64) {
	f.payload, f.held = nil, nil
	if n >= holdBytes {
		f.held = c.hold(n)
	}
	if f.held == nil {
		f.payload = c.copy(n)
	}
}

func (in *inbox) header(f *frame, hs *[]Header, c *cursor, n int) error {
	var h Header
	err := c.fields(n, func(x field) error {
		switch {
		case x.bytes(1):
			h.Key = in.text(c.peek(x.v))
			f.utf8Rule("a header's key", h.Key)
		case x.bytes(2):
			h.Value = c.copy(x.v)
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
	switch f.kind {
	case kindHello:
		return merge(b, &f.hello)
	case kindFailure:
		return merge(b, &f.failure)
	case kindGoaway:
		return merge(b, &f.goaway)
	case kindRegister:
		return merge(b, &f.register)
	case kindUnregister:
		return merge(b, &f.unregister)
	case kindRegistered:
		return merge(b, &f.registered)
	default: // cancel, half_close: nothing in it matters
		c := newCursor(mem.BufferSlice{mem.SliceBuffer(b)})
		return c.fields(c.left, func(field) error { return nil })
	}
}

// merge decodes a body into what an earlier one of the same frame has left.
func merge[M any, P interface {
	*M
	proto.Message
}](b []byte, into *P) error {
	if *into == nil {
		*into = new(M)
	}
	return proto.UnmarshalOptions{Merge: true}.Unmarshal(b, *into)
}
