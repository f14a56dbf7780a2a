package channel

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// cutUp gives data as buffers of the given size.
func cutUp(data []byte, size int) (bufs mem.BufferSlice) {
	for at := 0; at < len(data); at += size {
		bufs = append(bufs, mem.SliceBuffer(data[at:min(at+size, len(data))]))
	}
	return bufs
}

// streamFrames is each frame of a stream, and what a peer may get wrong in it.
func streamFrames(tb testing.TB) (all [][]byte) {
	hs := []*meshv1.Header{{Key: "key", Value: []byte("value")}, {Key: "", Value: nil}}
	for _, f := range []*meshv1.Frame{
		{Session: 1, Body: &meshv1.Frame_Request{Request: &meshv1.Request{Address: &meshv1.Request_Name{Name: "@a"}, Method: "/a.B/C", Stream: true}}},
		{Session: 1, Body: &meshv1.Frame_Request{Request: &meshv1.Request{Stream: true, Push: true, Payload: []byte("x"), TotalSize: 1 << 40}}},
		{Session: 1, Body: &meshv1.Frame_Message{Message: &meshv1.StreamMessage{}}},
		{Session: 1, Body: &meshv1.Frame_Message{Message: &meshv1.StreamMessage{Payload: make([]byte, refBytes+1), TotalSize: math.MaxUint64}}},
		{Session: 1, Body: &meshv1.Frame_HalfClose{HalfClose: &meshv1.HalfClose{}}},
		{Session: 1, Body: &meshv1.Frame_Window{Window: &meshv1.Window{}}},
		{Session: math.MaxUint64, Body: &meshv1.Frame_Window{Window: &meshv1.Window{Bytes: math.MaxUint64}}},
		{Session: 1, Body: &meshv1.Frame_StreamHeaders{StreamHeaders: &meshv1.StreamHeaders{}}},
		{Session: 1, Body: &meshv1.Frame_StreamHeaders{StreamHeaders: &meshv1.StreamHeaders{Headers: hs}}},
		{Body: &meshv1.Frame_Hello{Hello: &meshv1.Hello{Features: []string{featureStreams}, StreamWindowBytes: math.MaxUint32, MaxStreams: math.MaxUint32}}},
	} {
		data, err := proto.Marshal(&meshv1.LinkRequest{Frames: []*meshv1.Frame{f}})
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}

// FuzzDecode holds the decoder against protobuf's (F37). It may be milder
// about texts, which are then noted, and is stricter about groups.
func FuzzDecode(f *testing.F) {
	for _, data := range odd {
		f.Add([]byte(data), 3)
	}
	for _, data := range malformed {
		f.Add([]byte(data), 1)
	}
	f.Add([]byte(wire{}.bytes(1, wire{}.bytes(3, wire{}.text(1, "\xff").text(3, "\xff")))), 100)
	f.Add([]byte(wire{0x0b, 0x0c}), 100)
	for _, data := range streamFrames(f) {
		f.Add(data, 7)
	}
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		var in inbox
		err := in.decode(cutUp(bytes.Clone(data), min(max(size, 1), 1<<20)))
		var p meshv1.LinkRequest
		perr := proto.Unmarshal(data, &p)
		if err != nil {
			if perr == nil && !hasGroup(data) {
				t.Fatalf("%v, and protobuf reads it", err)
			}
			return
		}
		if perr != nil {
			if !strings.Contains(perr.Error(), "UTF-8") {
				t.Fatalf("protobuf: %v", perr)
			}
			return
		}
		if len(in.frames) != len(p.GetFrames()) {
			t.Fatalf("%d frames, protobuf reads %d", len(in.frames), len(p.GetFrames()))
		}
		for i := range in.frames {
			got, want := &in.frames[i], toFrame(p.GetFrames()[i])
			if d := difference(got, &want); d != "" {
				t.Fatal(d)
			}
			if (got.bad != "") != isEmptyName(p.GetFrames()[i]) {
				t.Fatalf("bad is %q", got.bad)
			}
		}
		again(t, in.frames)
	})
}

func isEmptyName(f *meshv1.Frame) bool {
	n, ok := f.GetRequest().GetAddress().(*meshv1.Request_Name)
	return ok && n.Name == ""
}

// hasGroup says that there may be a group in data: its tag has wire type 3.
func hasGroup(data []byte) bool {
	return slices.ContainsFunc(data, func(b byte) bool { return b&7 == 3 })
}

// again writes the frames and reads them back.
func again(t *testing.T, frames []frame) {
	b := &batch{limit: 1 << 30}
	for i := range frames {
		if frames[i].bad == "" {
			b.add(&frames[i])
		}
	}
	size := b.size
	data := b.take()
	var in inbox
	if err := in.decode(data); err != nil || data.Len() != size {
		t.Fatalf("what was written cannot be read: %v; %d bytes, counted as %d", err, data.Len(), size)
	}
	i := 0
	for j := range frames {
		if frames[j].bad != "" {
			continue
		}
		if d := difference(&in.frames[i], &frames[j]); d != "" {
			t.Fatal(d)
		}
		i++
	}
}

// FuzzDecodeText: a text that protobuf would refuse is noted, wherever it is.
func FuzzDecodeText(f *testing.F) {
	f.Add("method", "tag", "key")
	f.Add("\xff", "tag", "key")
	f.Add("", "\xc3", "")
	f.Add("m", "", "\xed\xa0\x80")
	f.Fuzz(func(t *testing.T, method, tag, key string) {
		var in inbox
		body := wire{}.text(1, "@a").text(3, method).bytes(6, wire{}.text(1, key)).text(7, tag)
		if err := in.decode(one(wire{}.bytes(1, wire{}.bytes(3, body)))); err != nil {
			t.Fatal(err)
		}
		fr := &in.frames[0]
		valid := utf8.ValidString(method) && utf8.ValidString(tag) && utf8.ValidString(key)
		if (fr.bad == "") != valid || fr.method != method || fr.tag != tag || fr.headers[0].Key != key {
			t.Fatalf("bad is %q, the texts are valid: %v", fr.bad, valid)
		}
	})
}

// FuzzJoiner: whatever sizes the parts have, it is whole with exactly what was
// announced, or an error; it never holds more than twice what arrived (M41).
func FuzzJoiner(f *testing.F) {
	f.Add(uint64(32769), uint16(32768), []byte{1, 0})
	f.Add(uint64(65536), uint16(32768), []byte{0, 128})
	f.Add(uint64(98304), uint16(32768), []byte{0, 128, 0, 128})
	f.Add(uint64(1<<63), uint16(32768), []byte{0, 128, 1, 128})
	f.Add(uint64(5), uint16(5), []byte{})
	f.Fuzz(func(t *testing.T, total uint64, first uint16, sizes []byte) {
		j, err := newJoiner(piece(make([]byte, first), total), time.Time{})
		if err != nil {
			if first == partBytes && total > partBytes {
				t.Fatal(err)
			}
			return
		}
		have := uint64(first)
		for ; len(sizes) > 1; sizes = sizes[2:] {
			n := uint64(sizes[0]) | uint64(sizes[1])<<8
			whole, err := j.add(piece(make([]byte, n), 0), time.Time{})
			wrong := n > partBytes || have+n > total || have+n < total && n != partBytes
			if wrong != (err != nil) {
				t.Fatalf("a part of %d at %d of %d: %v", n, have, total, err)
			}
			if err != nil {
				return
			}
			have += n
			if whole != (have == total) || uint64(j.held.size) != have || uint64(capacity(j.held)) > 2*have {
				t.Fatalf("whole: %v, %d bytes, %d held; %d of %d have arrived", whole, j.held.size, capacity(j.held), have, total)
			}
			if whole {
				return
			}
		}
	})
}

// FuzzFrameSequence gives a node with calls in flight whatever a listener may
// send. Nothing panics, every call has one outcome at the end, and the node
// goes on (F30 to F37).
func FuzzFrameSequence(f *testing.F) {
	reply := func(session uint64, n, total int) wire {
		return wire{}.number(1, session).bytes(4, wire{}.bytes(1, make([]byte, n)).number(2, uint64(total)))
	}
	part := func(session uint64, n int) wire {
		return wire{}.number(1, session).bytes(6, wire{}.bytes(1, make([]byte, n)))
	}
	failure := func(session, reason uint64) wire {
		return wire{}.number(1, session).bytes(5, wire{}.number(1, reason).number(2, 99).text(3, "x\ny"))
	}
	goaway := func(last uint64) wire { return wire{}.bytes(8, wire{}.number(1, last)) }
	f.Add([]byte(wire{}.bytes(1, reply(2, 1, 0)).bytes(1, reply(2, 1, 0)).bytes(1, failure(3, 8)).bytes(1, goaway(3))))
	f.Add([]byte(wire{}.bytes(1, reply(2, partBytes, 40000)).bytes(1, part(2, 40000-partBytes)).bytes(1, part(2, 1))))
	f.Add([]byte(wire{}.bytes(1, reply(2, partBytes, 40000)).bytes(1, reply(2, partBytes, 40000)).bytes(1, goaway(0)).bytes(1, goaway(9))))
	f.Add([]byte(wire{}.bytes(1, goaway(1<<64-1)).bytes(1, failure(2, 8)).bytes(1, failure(3, 8)).bytes(1, failure(4, 2))))
	f.Add([]byte(wire{}.bytes(1, part(0, 0)).bytes(1, wire{}.bytes(9, wire{}.number(1, 1))).bytes(1, nil).bytes(1, wire{}.bytes(5, nil))))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in inbox
		if in.decode(one(data)) != nil {
			return
		}
		r, o := openRig(t)
		calls := []*letter{r.call(), r.large("@a", false, 100), r.call()}
		r.large("@b", true, 100)
		r.fill(o, smallPeer.batch)
		for i := range in.frames {
			switch fr := &in.frames[i]; fr.kind {
			case kindReply, kindFailure, kindPart:
				r.n.received(o, fr, r.now)
			case kindGoaway:
				r.goaway(o, fr.goaway.GetLastSession())
			}
			r.pass(time.Second)
			r.n.watch(o, r.now)
			r.collect()
			if r.awake[o] && r.ended[o] == nil {
				r.fill(o, smallPeer.batch)
			}
		}
		r.lost(o, errReset)
		if r.pass(time.Hour); r.running {
			r.sent(r.connected(smallPeer))
		}
		r.n.shut(r.now)
		r.n.finish()
		r.collect()
		for _, l := range calls {
			if len(l.got) != 1 {
				t.Fatalf("message %s has %d outcomes", l.Method, len(l.got))
			}
		}
		if r.n.calls != 0 || r.n.pushes != 0 {
			t.Fatalf("the line counts %d calls and %d bytes", r.n.calls, r.n.pushes)
		}
	})
}
