package channel

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// The codec by hand is held against the generated messages, both ways.

// pieces draws data cut into several buffers, as gRPC delivers a message.
func pieces(t *rapid.T, data []byte) (bufs mem.BufferSlice) {
	for len(data) > 0 {
		n := min(len(data), rapid.SampledFrom([]int{1, 2, 3, 7, 100, 16384, 1 << 20}).Draw(t, "piece"))
		if len(data) > 20*n { // so that it comes to an end
			n = len(data) / 4
		}
		bufs = append(bufs, mem.SliceBuffer(slices.Clone(data[:n])))
		data = data[n:]
	}
	return bufs
}

func one(data []byte) mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer(data)} }

var (
	anyText  = rapid.OneOf(rapid.Just(""), rapid.StringN(0, 40, -1), rapid.StringN(200, 300, -1))
	anyBytes = rapid.Custom(func(t *rapid.T) []byte {
		n := rapid.OneOf(rapid.IntRange(0, 30), rapid.SampledFrom([]int{127, 128, refBytes - 1, refBytes, 16383, 16384, partBytes})).Draw(t, "n")
		return bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 1, 8).Draw(t, "bytes"), n)[:n]
	})
	anyNumber  = rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(1, 300), rapid.Uint64())
	anyHeaders = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *meshv1.Header {
		return &meshv1.Header{Key: anyText.Draw(t, "key"), Value: anyBytes.Draw(t, "value")}
	}), 0, 4)
	anyFrame = rapid.Custom(func(t *rapid.T) *meshv1.Frame {
		f := &meshv1.Frame{Session: anyNumber.Draw(t, "session")}
		switch kind(rapid.SampledFrom([]int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19}).Draw(t, "kind")) {
		case kindHello:
			f.Body = &meshv1.Frame_Hello{Hello: &meshv1.Hello{
				Version: 1, Process: anyText.Draw(t, "process"), Node: anyText.Draw(t, "node"), Incarnation: rapid.Uint32().Draw(t, "incarnation"),
				Features: rapid.SliceOfN(anyText, 0, 3).Draw(t, "features"), HeartbeatIntervalMs: rapid.Uint32().Draw(t, "ms"), MaxMessageBytes: anyNumber.Draw(t, "max"),
				StreamWindowBytes: rapid.Uint32().Draw(t, "window"), MaxStreams: rapid.Uint32().Draw(t, "streams"),
			}}
		case kindRequest:
			r := &meshv1.Request{
				Method: anyText.Draw(t, "method"), Push: rapid.Bool().Draw(t, "push"), TimeLeftUs: anyNumber.Draw(t, "left"), Headers: anyHeaders.Draw(t, "headers"),
				TraceTag: anyText.Draw(t, "tag"), Payload: anyBytes.Draw(t, "payload"), TotalSize: anyNumber.Draw(t, "total"),
				Hops: rapid.Uint32().Draw(t, "hops"), OnBehalf: anyText.Draw(t, "on behalf"),
				Stream: rapid.Bool().Draw(t, "stream"),
			}
			switch rapid.IntRange(0, 2).Draw(t, "address") {
			case 1:
				r.Address = &meshv1.Request_Name{Name: anyText.Draw(t, "name") + "@"}
			case 2:
				r.Address = &meshv1.Request_Handle{Handle: anyNumber.Draw(t, "handle")}
			}
			f.Body = &meshv1.Frame_Request{Request: r}
		case kindReply:
			f.Body = &meshv1.Frame_Reply{Reply: &meshv1.Reply{
				Payload: anyBytes.Draw(t, "payload"), TotalSize: anyNumber.Draw(t, "total"), Headers: anyHeaders.Draw(t, "headers"), Trailers: anyHeaders.Draw(t, "trailers"),
			}}
		case kindFailure:
			f.Body = &meshv1.Frame_Failure{Failure: &meshv1.Failure{
				Reason: meshv1.Reason(rapid.IntRange(0, 99).Draw(t, "reason")), Code: rapid.Uint32().Draw(t, "code"), Message: anyText.Draw(t, "text"),
				Details: []*anypb.Any{{TypeUrl: anyText.Draw(t, "type"), Value: anyBytes.Draw(t, "value")}}, Trailers: anyHeaders.Draw(t, "trailers"),
			}}
		case kindPart:
			f.Body = &meshv1.Frame_Part{Part: &meshv1.Part{Payload: anyBytes.Draw(t, "payload")}}
		case kindCancel:
			f.Body = &meshv1.Frame_Cancel{Cancel: &meshv1.Cancel{}}
		case kindGoaway:
			f.Body = &meshv1.Frame_Goaway{Goaway: &meshv1.Goaway{LastSession: anyNumber.Draw(t, "last"), Message: anyText.Draw(t, "text")}}
		case kindHeartbeat:
			f.Body = &meshv1.Frame_Heartbeat{Heartbeat: &meshv1.Heartbeat{ReadingStopped: rapid.Bool().Draw(t, "stopped")}}
		case kindRegister:
			f.Body = &meshv1.Frame_Register{Register: &meshv1.Register{Name: anyText.Draw(t, "name"), Shared: rapid.Bool().Draw(t, "shared")}}
		case kindUnregister:
			f.Body = &meshv1.Frame_Unregister{Unregister: &meshv1.Unregister{Name: anyText.Draw(t, "name")}}
		case kindRegistered:
			f.Body = &meshv1.Frame_Registered{Registered: &meshv1.Registered{Handle: anyNumber.Draw(t, "handle")}}
		case kindMessage:
			f.Body = &meshv1.Frame_Message{Message: &meshv1.StreamMessage{Payload: anyBytes.Draw(t, "payload"), TotalSize: anyNumber.Draw(t, "total")}}
		case kindHalfClose:
			f.Body = &meshv1.Frame_HalfClose{HalfClose: &meshv1.HalfClose{}}
		case kindWindow:
			f.Body = &meshv1.Frame_Window{Window: &meshv1.Window{Bytes: anyNumber.Draw(t, "bytes")}}
		case kindStreamHeaders:
			f.Body = &meshv1.Frame_StreamHeaders{StreamHeaders: &meshv1.StreamHeaders{Headers: anyHeaders.Draw(t, "headers")}}
		}
		return f
	})
)

// toFrame is the frame that the generated message means.
func toFrame(p *meshv1.Frame) frame {
	f := frame{session: p.GetSession()}
	switch b := p.GetBody().(type) {
	case *meshv1.Frame_Hello:
		f.kind, f.hello = kindHello, b.Hello
	case *meshv1.Frame_Request:
		r := b.Request
		f.kind, f.addressed, f.name, f.handle = kindRequest, r.GetAddress() != nil, r.GetName(), r.GetHandle()
		f.method, f.push, f.timeLeft, f.tag = r.GetMethod(), r.GetPush(), r.GetTimeLeftUs(), r.GetTraceTag()
		f.stream = r.GetStream()
		f.payload, f.total, f.headers = r.GetPayload(), r.GetTotalSize(), headersFromWire(r.GetHeaders())
		f.hops, f.onBehalf = r.GetHops(), r.GetOnBehalf()
	case *meshv1.Frame_Reply:
		r := b.Reply
		f.kind, f.payload, f.total = kindReply, r.GetPayload(), r.GetTotalSize()
		f.headers, f.trailers = headersFromWire(r.GetHeaders()), headersFromWire(r.GetTrailers())
	case *meshv1.Frame_Failure:
		f.kind, f.failure = kindFailure, b.Failure
	case *meshv1.Frame_Part:
		f.kind, f.payload = kindPart, b.Part.GetPayload()
	case *meshv1.Frame_Cancel:
		f.kind = kindCancel
	case *meshv1.Frame_Goaway:
		f.kind, f.goaway = kindGoaway, b.Goaway
	case *meshv1.Frame_Heartbeat:
		f.kind, f.stopped = kindHeartbeat, b.Heartbeat.GetReadingStopped()
	case *meshv1.Frame_Register:
		f.kind, f.register = kindRegister, b.Register
	case *meshv1.Frame_Unregister:
		f.kind, f.unregister = kindUnregister, b.Unregister
	case *meshv1.Frame_Registered:
		f.kind, f.registered = kindRegistered, b.Registered
	case *meshv1.Frame_Message:
		f.kind, f.payload, f.total = kindMessage, b.Message.GetPayload(), b.Message.GetTotalSize()
	case *meshv1.Frame_HalfClose:
		f.kind = kindHalfClose
	case *meshv1.Frame_Window:
		f.kind, f.total = kindWindow, b.Window.GetBytes()
	case *meshv1.Frame_StreamHeaders:
		f.kind, f.headers = kindStreamHeaders, headersFromWire(b.StreamHeaders.GetHeaders())
	}
	return f
}

// difference says in what two frames differ, "" in nothing.
func difference(a, b *frame) string {
	for _, f := range []*frame{a, b} {
		if f.held != nil {
			f.payload, f.held = f.held.join(), nil
		}
	}
	text := func(f *frame) string {
		c := *f
		c.payload, c.hello, c.failure, c.goaway, c.bad = nil, nil, nil, nil, ""
		c.register, c.unregister, c.registered = nil, nil, nil
		c.headers, c.trailers = nil, nil
		return fmt.Sprintf("%+v %d bytes, headers %v, trailers %v", c, len(f.payload), f.headers, f.trailers)
	}
	same := func(a, b []Header) bool {
		return slices.EqualFunc(a, b, func(a, b Header) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) })
	}
	rare := func(f *frame) proto.Message {
		if m := f.rare(); m != nil {
			return m
		}
		return &meshv1.Cancel{}
	}
	if text(a) != text(b) || !bytes.Equal(a.payload, b.payload) || !same(a.headers, b.headers) || !same(a.trailers, b.trailers) || !proto.Equal(rare(a), rare(b)) {
		return fmt.Sprintf("%s\nand\n%s", text(a), text(b))
	}
	return ""
}

// Both ways, byte for byte: what is written by hand is what proto.Marshal
// writes, and what proto.Marshal writes is read by hand, however it is cut.
func TestCodecIsProtobuf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := rapid.SliceOfN(anyFrame, 0, 5).Draw(t, "frames")
		var want []byte
		var err error
		if rapid.Bool().Draw(t, "up") {
			want, err = proto.Marshal(&meshv1.LinkRequest{Frames: fs})
		} else {
			want, err = proto.Marshal(&meshv1.LinkResponse{Frames: fs})
		}
		if err != nil {
			t.Fatal(err)
		}
		b := &batch{limit: 1 << 20}
		for _, p := range fs {
			f := toFrame(p)
			b.add(&f)
		}
		size := b.size
		data, err := newCodec().Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := data.Materialize(); !bytes.Equal(got, want) {
			t.Fatalf("by hand\n%x\nby protobuf\n%x", got, want)
		}
		if size != len(want) {
			t.Fatalf("counted as %d, not %d", size, len(want))
		}
		var in inbox
		if err := newCodec().Unmarshal(pieces(t, want), &in); err != nil {
			t.Fatal(err)
		}
		if len(in.frames) != len(fs) {
			t.Fatalf("%d frames of %d", len(in.frames), len(fs))
		}
		for i, p := range fs {
			f := toFrame(p)
			if d := difference(&in.frames[i], &f); d != "" {
				t.Fatal(d)
			}
		}
	})
}

// Anything else on the same server goes through gRPC's own codec.
func TestCodecPassesOthersOn(t *testing.T) {
	c := newCodec()
	data, err := c.Marshal(&meshv1.QueryRequest{Name: "@a"})
	if err != nil || c.Name() != "proto" {
		t.Fatal(err, c.Name())
	}
	var q meshv1.QueryRequest
	if err := c.Unmarshal(data, &q); err != nil || q.GetName() != "@a" {
		t.Fatal(err, &q)
	}
}

// wire builds protobuf by hand: field numbers and what is in them.
type wire []byte

func (w wire) number(field protowire.Number, v uint64) wire {
	return protowire.AppendVarint(protowire.AppendTag(w, field, protowire.VarintType), v)
}

func (w wire) bytes(field protowire.Number, b []byte) wire {
	return protowire.AppendBytes(protowire.AppendTag(w, field, protowire.BytesType), b)
}

func (w wire) text(field protowire.Number, s string) wire { return w.bytes(field, []byte(s)) }

// odd is valid protobuf that no encoder of today writes.
var odd = map[string]wire{
	"nothing":                nil,
	"an empty frame":         wire{}.bytes(1, nil),
	"unknown fields around":  wire{}.number(2, 5).text(7, "x").bytes(1, wire{}.number(99, 1).bytes(3, wire{}.text(50, "z").text(1, "@a").number(16, 3)).text(20, "y")).number(3, 1),
	"fixed-size unknowns":    wire(protowire.AppendFixed64(protowire.AppendTag(wire{}.bytes(1, wire(protowire.AppendFixed32(protowire.AppendTag(nil, 30, protowire.Fixed32Type), 7)).number(1, 9)), 8, protowire.Fixed64Type), 1)),
	"the last body wins":     wire{}.bytes(1, wire{}.bytes(3, wire{}.text(1, "@a")).bytes(7, nil).bytes(4, wire{}.text(1, "reply"))),
	"the same body merges":   wire{}.bytes(1, wire{}.bytes(3, wire{}.text(1, "@a").text(3, "m").text(8, "long payload").bytes(6, wire{}.text(1, "k"))).number(1, 3).bytes(3, wire{}.number(2, 9).text(8, "p").number(4, 1).bytes(6, wire{}.text(1, "l")))),
	"rare bodies merge":      wire{}.bytes(1, wire{}.bytes(5, wire{}.number(1, 3).text(3, "a")).bytes(5, wire{}.number(2, 4))).bytes(1, wire{}.bytes(2, wire{}.number(1, 1)).bytes(2, wire{}.text(2, "p"))),
	"a part again":           wire{}.bytes(1, wire{}.bytes(6, wire{}.text(1, "a")).bytes(6, wire{}.text(1, "")).bytes(9, wire{}.number(1, 2))),
	"fields backwards":       wire{}.bytes(1, wire{}.bytes(3, wire{}.number(9, 7).text(8, "p").text(7, "t").bytes(6, wire{}.text(2, "v").text(1, "k")).number(5, 5).number(4, 1).text(3, "m").number(2, 1)).number(1, 4)),
	"wrong wire types":       wire{}.number(1, 5).bytes(1, wire{}.text(1, "x").number(3, 4).bytes(3, wire{}.number(1, 1).text(2, "x").number(8, 8).text(4, "x"))),
	"zeros that are written": wire{}.bytes(1, wire{}.number(1, 0).bytes(3, wire{}.number(2, 0).text(3, "").number(4, 0).number(5, 0).bytes(6, nil).text(7, "").text(8, "").number(9, 0))),
	"long varints":           append(wire{0x8a, 0x80, 0x00}, wire{0x84, 0x80, 0x00, 0x88, 0x80, 0x00, 0x05}[0:3]...).pad(),
	"unknown kinds":          wire{}.bytes(1, wire{}.number(1, 5).bytes(20, wire{}.number(1, 1))).bytes(1, wire{}.number(1, 6).bytes(1000, nil)),
	"the greatest session":   wire{}.bytes(1, wire{}.number(1, 1<<64-1).bytes(6, nil)),
	"name, then handle":      wire{}.bytes(1, wire{}.bytes(3, wire{}.text(1, "").number(2, 5))),
	"a message, then parts":  wire{}.bytes(1, wire{}.bytes(16, wire{}.text(1, "m").number(2, 70000)).number(1, 3)).bytes(1, wire{}.bytes(6, wire{}.text(1, "p")).bytes(16, wire{}.number(2, 1).text(1, "n"))),
	"half-closes":            wire{}.bytes(1, wire{}.bytes(17, wire{}.number(1, 1).text(2, "x"))).bytes(1, wire{}.bytes(17, nil).bytes(18, nil)),
	"windows merge":          wire{}.bytes(1, wire{}.bytes(18, wire{}.number(1, 5).text(1, "x")).bytes(18, wire{}.number(2, 9)).bytes(18, wire{}.number(1, 1<<63))),
	"stream headers merge":   wire{}.bytes(1, wire{}.bytes(19, wire{}.bytes(1, wire{}.text(1, "k").text(2, "v"))).bytes(19, wire{}.number(1, 3).bytes(1, nil))),
	"a stream that is none":  wire{}.bytes(1, wire{}.bytes(3, wire{}.number(12, 1).number(12, 0).text(12, "x").text(1, "@a"))),
	"a long tag of a body":   wire{}.bytes(1, append(wire{0x92, 0x81, 0x00}, 0x02, 0x08, 0x05)),
	"an empty name, a name":  wire{}.bytes(1, wire{}.bytes(3, wire{}.text(1, "").text(1, "@a"))),
}

// pad gives a frame of four bytes to a length that was written in three.
func (w wire) pad() wire { return append(w, 0x08, 0x85, 0x80, 0x00) }

// F37: fields in any order, unknown ones, oneofs that come again: as protobuf
// reads them.
func TestDecodeReadsWhatProtobufReads(t *testing.T) {
	for name, data := range odd {
		var p meshv1.LinkRequest
		if err := proto.Unmarshal(data, &p); err != nil {
			t.Fatalf("%s: protobuf: %v", name, err)
		}
		for _, cut := range []int{1, 2, 3, len(data)} {
			var bufs mem.BufferSlice
			for at := 0; at < len(data); at += cut {
				bufs = append(bufs, mem.SliceBuffer(data[at:min(at+cut, len(data))]))
			}
			var in inbox
			if err := in.decode(bufs); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if len(in.frames) != len(p.GetFrames()) {
				t.Fatalf("%s: %d frames of %d", name, len(in.frames), len(p.GetFrames()))
			}
			for i := range in.frames {
				want := toFrame(p.GetFrames()[i])
				if d := difference(&in.frames[i], &want); d != "" {
					t.Errorf("%s: %s", name, d)
				}
			}
		}
	}
}

// What a frame says last counts, for its faults too.
func TestReplacedEmptyNameIsNoFault(t *testing.T) {
	for _, name := range []string{"name, then handle", "an empty name, a name"} {
		var in inbox
		if err := in.decode(one(odd[name])); err != nil || in.frames[0].bad != "" {
			t.Errorf("%s: %v, bad: %q", name, err, in.frames[0].bad)
		}
	}
}

var malformed = map[string]wire{
	"a cut tag":               {0x8a},
	"a cut length":            {0x0a, 0x80},
	"a cut frame":             {0x0a, 0x05, 0x08},
	"a length beyond all":     {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
	"a varint of 11 bytes":    {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01},
	"a varint above 64 bits":  {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02},
	"field 0":                 {0x02, 0x00},
	"field 0 in a frame":      wire{}.bytes(1, wire{0x02, 0x00}),
	"a field above 2^29":      protowire.AppendVarint(nil, 1<<32|2),
	"wire type 7":             {0x17, 0x00},
	"a lone end of a group":   {0x14},
	"a cut fixed32":           {0x15, 1, 2, 3},
	"a cut fixed64":           {0x11, 1, 2, 3, 4, 5, 6, 7},
	"a cut unknown":           {0x12, 0x05, 1},
	"a cut request":           wire{}.bytes(1, wire{}.bytes(3, wire{0x42, 0x05, 1})),
	"a cut header":            wire{}.bytes(1, wire{}.bytes(3, wire{}.bytes(6, wire{0x0a, 0x05}))),
	"a cut reply":             wire{}.bytes(1, wire{}.bytes(4, wire{0x10})),
	"a cut part":              wire{}.bytes(1, wire{}.bytes(6, wire{0x0a, 0x7f})),
	"a cut cancel":            wire{}.bytes(1, wire{}.bytes(7, wire{0x0a})),
	"a cut message":           wire{}.bytes(1, wire{}.bytes(16, wire{0x0a, 0x7f})),
	"a cut half-close":        wire{}.bytes(1, wire{}.bytes(17, wire{0x0a})),
	"a cut window":            wire{}.bytes(1, wire{}.bytes(18, wire{0x08})),
	"cut stream headers":      wire{}.bytes(1, wire{}.bytes(19, wire{0x0a, 0x03, 0x0a})),
	"a cut hello":             wire{}.bytes(1, wire{}.bytes(2, wire{0x0a, 0x7f})),
	"a body that is replaced": wire{}.bytes(1, wire{}.bytes(3, wire{0x08}).bytes(7, nil)),
	"an unclosed group":       wire{}.bytes(1, wire{0xc3, 0x02}),
}

// F37: malformed input is an error, never a panic.
func TestDecodeRefusesWhatIsMalformed(t *testing.T) {
	for name, data := range malformed {
		if proto.Unmarshal(data, new(meshv1.LinkRequest)) == nil {
			t.Errorf("%s: protobuf takes it", name)
		}
		var single mem.BufferSlice
		for i := range data {
			single = append(single, mem.SliceBuffer(data[i:i+1]))
		}
		for _, bufs := range []mem.BufferSlice{one(data), single} {
			if err := new(inbox).decode(bufs); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	}
}

// Groups, which protobuf passes over, are refused: nothing here has them.
func TestDecodeRefusesGroups(t *testing.T) {
	group := wire(protowire.AppendTag(protowire.AppendTag(nil, 40, protowire.StartGroupType), 40, protowire.EndGroupType))
	for _, data := range []wire{group, wire{}.bytes(1, group), wire{}.bytes(1, wire{}.bytes(3, group))} {
		if err := new(inbox).decode(one(data)); !errors.Is(err, errMalformed) {
			t.Errorf("%v: %v", data, err)
		}
	}
}

// Texts that are no UTF-8 are the fault of their frame alone.
func TestDecodeNotesInvalidText(t *testing.T) {
	for want, body := range map[string]wire{
		"the name is empty":                 wire{}.text(1, ""),
		"the method is not valid UTF-8":     wire{}.text(1, "@a").text(3, "\xff"),
		"the trace tag is not valid UTF-8":  wire{}.text(7, "(\xc3"),
		"a header's key is not valid UTF-8": wire{}.bytes(6, wire{}.text(1, "\xed\xa0\x80")),
		"":                                  wire{}.bytes(6, wire{}.text(1, "k").text(2, "\xff")).text(8, "\xff"),
	} {
		var in inbox
		if err := in.decode(one(wire{}.bytes(1, wire{}.bytes(3, body)))); err != nil || in.frames[0].bad != want {
			t.Errorf("bad is %q (%v), want %q", in.frames[0].bad, err, want)
		}
	}
}

// M17: what was decoded is its receiver's own, whatever becomes of the batch.
func TestDecodedBytesAreOwned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := rapid.SliceOfN(anyFrame, 1, 4).Draw(t, "frames")
		data, err := proto.Marshal(&meshv1.LinkRequest{Frames: fs})
		if err != nil {
			t.Fatal(err)
		}
		bufs := pooled(pieces(t, data))
		var in inbox
		if err := in.decode(bufs); err != nil {
			t.Fatal(err)
		}
		bufs.Free()
		for i := range in.frames {
			f := &in.frames[i]
			_ = append(f.payload, "xxxxxxxx"...) // no neighbour is within reach
			for _, h := range f.headers {
				_ = append(h.Value, "xxxx"...)
			}
		}
		frames := slices.Clone(in.frames)
		if err := in.decode(pieces(t, data)); err != nil { // the next batch
			t.Fatal(err)
		}
		for i, p := range fs {
			f := toFrame(p)
			if d := difference(&frames[i], &f); d != "" {
				t.Fatal(d)
			}
		}
	})
}

// kept is how many bytes of heap the payload of each of many messages keeps.
func kept(t *testing.T, data []byte, cut int) int {
	t.Helper()
	var before, after runtime.MemStats
	const n = 100
	type payload struct {
		bytes []byte
		held  *held
	}
	payloads := make([]payload, 0, n)
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range n {
		var bufs mem.BufferSlice
		for at := 0; at < len(data); at += cut {
			bufs = append(bufs, mem.SliceBuffer(data[at:min(at+cut, len(data))]))
		}
		var in inbox
		if err := in.decode(bufs); err != nil {
			t.Fatal(err)
		}
		payloads = append(payloads, payload{in.frames[0].payload, in.frames[0].held})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(payloads)
	return int(int64(after.HeapAlloc)-int64(before.HeapAlloc)) / n
}

// M17, M56: keeping a small payload keeps nothing else of the batch, whatever
// a peer puts around it.
func TestSmallPayloadDoesNotKeepTheBatch(t *testing.T) {
	small := make([]byte, 100)
	huge := make([]byte, 200<<10)
	for name, data := range map[string]wire{
		"beside other frames":     wire{}.bytes(1, wire{}.bytes(6, wire{}.bytes(1, small))).bytes(1, wire{}.bytes(6, wire{}.bytes(1, huge))),
		"beside a long tag":       wire{}.bytes(1, wire{}.bytes(3, wire{}.bytes(8, small).bytes(7, huge))),
		"beside an unknown field": wire{}.bytes(1, wire{}.bytes(6, wire{}.bytes(1, small)).bytes(99, huge)),
		"after a body before it":  wire{}.bytes(1, wire{}.bytes(6, wire{}.bytes(1, huge)).bytes(6, wire{}.bytes(1, small))),
	} {
		for _, cut := range []int{16 << 10, 1 << 20} {
			if n := kept(t, data, cut); n > 4<<10 {
				t.Errorf("%s, in buffers of %d: 100 bytes of payload keep %d", name, cut, n)
			}
		}
	}
}

// A payload of refBytes is not copied on its way out.
func TestLargePayloadIsReferenced(t *testing.T) {
	payload := make([]byte, refBytes)
	b := &batch{limit: 1 << 20}
	b.add(&frame{session: 1, kind: kindPart, payload: payload})
	found := false
	for _, buf := range b.take() {
		found = found || len(buf.ReadOnlyData()) > 0 && &buf.ReadOnlyData()[0] == &payload[0]
	}
	if !found {
		t.Error("the payload was copied")
	}
}

// The texts that come again and again are bounded too.
func TestKnownTextsAreBounded(t *testing.T) {
	var in inbox
	for i := range 3 * maxKnownTexts {
		in.text(fmt.Appendf(nil, "@%d", i))
		in.text([]byte(strings.Repeat("x", maxNameBytes+1+i)))
	}
	if len(in.names) > maxKnownTexts {
		t.Errorf("%d texts are known", len(in.names))
	}
}

// canned is a stream on which the given messages arrive.
type canned [][]byte

func (*canned) SendMsg(any) error { return nil }

func (c *canned) RecvMsg(v any) error {
	data := (*c)[0]
	*c = (*c)[1:]
	return newCodec().Unmarshal(one(data), v)
}

// M56: many tiny frames are no lever: a message has a bound of them, and their
// list is not kept.
func TestManyFramesAreNoLever(t *testing.T) {
	tiny := wire{}.bytes(1, nil)
	l := &link{stream: &canned{bytes.Repeat(tiny, maxBatchFrames), tiny, bytes.Repeat(tiny, maxBatchFrames+1)}}
	var in inbox
	for range 2 {
		if err := l.receive(&in); err != nil {
			t.Fatal(err)
		}
	}
	if n := cap(in.frames); n > keptFrames {
		t.Errorf("room for %d frames is kept", n)
	}
	if err := l.receive(&in); !errors.Is(err, errManyFrames) {
		t.Errorf("%d frames in one message: %v", maxBatchFrames+1, err)
	}
}

// Whatever texts a handler puts into a failure, the batch can be read.
func TestFailureWithInvalidTextCanBeRead(t *testing.T) {
	for name, f := range map[string]*Failure{
		"message": {Message: "\xff\xfe"},
		"header":  {Headers: []Header{{"k\xff", nil}}},
		"trailer": {Trailers: []Header{{"k\xff", nil}}, Message: "x"},
		"detail":  {Details: []*anypb.Any{{TypeUrl: "\xff", Value: []byte("x")}}},
	} {
		b := &batch{limit: 1 << 20}
		b.add(&frame{session: 1, kind: kindFailure, failure: f.wire()})
		b.add(&frame{session: 2, kind: kindHeartbeat})
		data := b.take().Materialize()
		var p meshv1.LinkResponse
		if err := proto.Unmarshal(data, &p); err != nil || len(p.GetFrames()) != 2 {
			t.Errorf("%s: %v, %d frames", name, err, len(p.GetFrames()))
		}
		if err := new(inbox).decode(one(data)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
