package channel

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// kind is a frame's body, by its field number in mesh.v1.Frame.
type kind uint8

const (
	kindNone       kind = 0 // unset, or unknown to this version
	kindHello      kind = 2
	kindRequest    kind = 3
	kindReply      kind = 4
	kindFailure    kind = 5
	kindPart       kind = 6
	kindCancel     kind = 7
	kindGoaway     kind = 8
	kindHeartbeat  kind = 9
	kindRegister   kind = 10
	kindUnregister kind = 11
	kindRegistered kind = 12

	kindMessage       kind = 16
	kindHalfClose     kind = 17
	kindWindow        kind = 18
	kindStreamHeaders kind = 19
)

// frame is mesh.v1.Frame in the form that the hot path wants: flat, reused
// from batch to batch, with the payload referenced. The bodies that are rare
// stay generated messages.
type frame struct {
	session uint64
	kind    kind
	bad     string // why the frame, though readable, breaks a rule

	// request
	addressed bool
	byName    bool   // while it is decoded: the address is a name
	name      string // with its sign; "" where it is for a handle
	handle    uint64
	method    string
	push      bool
	stream    bool
	timeLeft  uint64 // microseconds
	tag       string
	hops      uint32
	onBehalf  string

	// request, reply and message; payload also of a part, headers also of a
	// stream's headers
	payload  []byte
	held     *held  // what arrived, instead of payload
	total    uint64 // of a window: what it adds
	headers  []Header
	trailers []Header

	stopped bool // heartbeat

	hello      *meshv1.Hello
	failure    *meshv1.Failure
	goaway     *meshv1.Goaway
	register   *meshv1.Register
	unregister *meshv1.Unregister
	registered *meshv1.Registered
}

// rare is the body that is encoded by protobuf itself, or nil.
func (f *frame) rare() proto.Message {
	switch f.kind {
	case kindHello:
		return f.hello
	case kindFailure:
		return f.failure
	case kindGoaway:
		return f.goaway
	case kindRegister:
		return f.register
	case kindUnregister:
		return f.unregister
	case kindRegistered:
		return f.registered
	default:
		return nil
	}
}

func tagged(n int) int         { return 1 + protowire.SizeBytes(n) } // of a field number below 16
func sizeVarint(v uint64) int  { return 1 + protowire.SizeVarint(v) }
func sizeString(s string) int  { return sizeBytes(len(s)) }
func sizeHeader(h *Header) int { return sizeString(h.Key) + sizeBytes(len(h.Value)) }

func sizeBytes(n int) int {
	if n == 0 {
		return 0
	}
	return tagged(n)
}

func sizeHeaders(hs []Header) (n int) {
	for i := range hs {
		n += tagged(sizeHeader(&hs[i]))
	}
	return n
}

func sizeNonZero(v uint64) int {
	if v == 0 {
		return 0
	}
	return sizeVarint(v)
}

// bodySize is the length of the body's encoding, without its tag and length.
func (f *frame) bodySize() int {
	switch f.kind {
	case kindRequest:
		n := 0
		switch {
		case f.name != "":
			n = tagged(len(f.name))
		case f.addressed:
			n = sizeVarint(f.handle)
		}
		if f.push {
			n += 2
		}
		if f.stream {
			n += 2
		}
		return n + sizeString(f.method) + sizeNonZero(f.timeLeft) + sizeHeaders(f.headers) +
			sizeString(f.tag) + sizeBytes(len(f.payload)) + sizeNonZero(f.total) + sizeNonZero(uint64(f.hops)) + sizeString(f.onBehalf)
	case kindReply:
		return sizeBytes(len(f.payload)) + sizeNonZero(f.total) + sizeHeaders(f.headers) + sizeHeaders(f.trailers)
	case kindPart, kindMessage:
		return sizeBytes(len(f.payload)) + sizeNonZero(f.total)
	case kindWindow:
		return sizeNonZero(f.total)
	case kindStreamHeaders:
		return sizeHeaders(f.headers)
	case kindHeartbeat:
		if f.stopped {
			return 2
		}
		return 0
	default:
		if m := f.rare(); m != nil {
			return proto.Size(m)
		}
		return 0
	}
}

// size is the length of the frame's encoding, without the tag and length that
// the batch puts before it.
func (f *frame) size() int {
	n := sizeNonZero(f.session)
	if f.kind != kindNone {
		n += tagged(f.bodySize())
	}
	if f.kind >= kindMessage {
		n++ // the tag has two bytes
	}
	return n
}

func appendTag(b []byte, field protowire.Number, t protowire.Type) []byte {
	return append(b, byte(field)<<3|byte(t))
}

func appendNonZero(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(appendTag(b, field, protowire.VarintType), v)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(appendTag(b, field, protowire.BytesType), s)
}

func appendHeaders(b []byte, field protowire.Number, hs []Header) []byte {
	for i := range hs {
		h := &hs[i]
		b = protowire.AppendVarint(appendTag(b, field, protowire.BytesType), uint64(sizeHeader(h)))
		b = appendString(b, 1, h.Key)
		if len(h.Value) > 0 {
			b = protowire.AppendBytes(appendTag(b, 2, protowire.BytesType), h.Value)
		}
	}
	return b
}

// appendBefore writes the frame up to its payload's bytes, appendAfter what
// follows them. Fields stand in the order in which Go's protobuf writes them:
// by number, those of a oneof last.
func (f *frame) appendBefore(b []byte) []byte {
	b = appendNonZero(b, 1, f.session)
	if f.kind == kindNone {
		return b
	}
	b = protowire.AppendTag(b, protowire.Number(f.kind), protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(f.bodySize()))
	payload := protowire.Number(1)
	switch f.kind {
	case kindRequest:
		b = appendString(b, 3, f.method)
		if f.push {
			b = append(appendTag(b, 4, protowire.VarintType), 1)
		}
		b = appendNonZero(b, 5, f.timeLeft)
		b = appendHeaders(b, 6, f.headers)
		b = appendString(b, 7, f.tag)
		payload = 8
	case kindReply, kindPart, kindMessage:
	case kindWindow:
		b = appendNonZero(b, 1, f.total)
	case kindStreamHeaders:
		b = appendHeaders(b, 1, f.headers)
	case kindHeartbeat:
		if f.stopped {
			b = append(appendTag(b, 1, protowire.VarintType), 1)
		}
	default:
		if m := f.rare(); m != nil {
			// Marshalling these messages fails on invalid UTF-8 only, which
			// whoever made them has removed.
			b, _ = proto.MarshalOptions{}.MarshalAppend(b, m)
		}
	}
	if len(f.payload) > 0 {
		b = appendTag(b, payload, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(f.payload)))
	}
	return b
}

func (f *frame) appendAfter(b []byte) []byte {
	switch f.kind {
	case kindRequest:
		b = appendNonZero(b, 9, f.total)
		b = appendNonZero(b, 10, uint64(f.hops))
		b = appendString(b, 11, f.onBehalf)
		if f.stream {
			b = append(appendTag(b, 12, protowire.VarintType), 1)
		}
		switch {
		case f.name != "":
			b = appendString(b, 1, f.name)
		case f.addressed:
			b = protowire.AppendVarint(appendTag(b, 2, protowire.VarintType), f.handle)
		}
	case kindMessage:
		b = appendNonZero(b, 2, f.total)
	case kindReply:
		b = appendNonZero(b, 2, f.total)
		b = appendHeaders(b, 3, f.headers)
		b = appendHeaders(b, 4, f.trailers)
	}
	return b
}

// length of the payload.
func (f *frame) length() int {
	if f.held != nil {
		return f.held.size
	}
	return len(f.payload)
}

// reset clears the body, as a second one of another kind in a frame does.
func (f *frame) reset(k kind) {
	*f = frame{session: f.session, kind: k}
}

// utf8Rule notes a text that no protobuf string may hold.
func (f *frame) utf8Rule(field, s string) {
	if f.bad == "" && !utf8.ValidString(s) {
		f.bad = field + " is not valid UTF-8"
	}
}
