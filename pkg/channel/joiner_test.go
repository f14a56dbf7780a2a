package channel

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/mem"
	"pgregory.net/rapid"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M41: the sizes of the parts, and what is said where one is wrong.
func TestJoinerRefusesWrongParts(t *testing.T) {
	const part = partBytes
	for _, c := range []struct {
		name  string
		total uint64
		sizes []int // the first one is that of the first frame
		want  string
	}{
		{"exact", part + 1, []int{part, 1}, ""},
		{"two whole parts", 2 * part, []int{part, part}, ""},
		{"one more than two", 2*part + 1, []int{part, part, 1}, ""},
		{"a short first frame", 2 * part, []int{part - 1}, "its first frame has 32767 bytes of 65536; it must have 32768 of more"},
		{"a long first frame", 3 * part, []int{part + 1}, "its first frame has 32769 bytes of 98304; it must have 32768 of more"},
		{"no first frame", 2 * part, []int{0}, "its first frame has 0 bytes of 65536; it must have 32768 of more"},
		{"a total of one part", part, []int{part}, "its first frame has 32768 bytes of 32768; it must have 32768 of more"},
		{"a total of nothing", 0, []int{part}, "its first frame has 32768 bytes of 0; it must have 32768 of more"},
		{"too many bytes", part + 10, []int{part, 11}, "its parts hold more than the 32778 bytes that it announced"},
		{"a whole part too many", part + 10, []int{part, part}, "its parts hold more than the 32778 bytes that it announced"},
		{"a long part", 3 * part, []int{part, part + 1}, "a part has 32769 bytes; the most is 32768"},
		{"a short part before the last", 3 * part, []int{part, part - 1}, "a part has 32767 bytes before the last one; it must have 32768"},
		{"an empty part", 3 * part, []int{part, 0}, "a part has 0 bytes before the last one; it must have 32768"},
		{"a short part at the end", 2 * part, []int{part, part - 1}, "a part has 32767 bytes before the last one; it must have 32768"},
		{"the greatest total", 1<<64 - 1, []int{part, part, part - 1}, "a part has 32767 bytes before the last one; it must have 32768"},
	} {
		got, whole := "", false
		j, err := newJoiner(piece(make([]byte, c.sizes[0]), c.total), time.Time{})
		for _, n := range c.sizes[1:] {
			if whole {
				t.Errorf("%s: whole too early", c.name)
			}
			if err == nil {
				whole, err = j.add(piece(make([]byte, n), 0), time.Time{})
			}
		}
		if err != nil {
			got = err.Error()
		}
		if got != c.want || whole != (c.want == "") {
			t.Errorf("%s: %q, whole: %v", c.name, got, whole)
		}
	}
}

// piece is a frame with a payload of its own.
func piece(payload []byte, total uint64) *frame { return &frame{payload: payload, total: total} }

// arrived is f after a way through the codec, in buffers as gRPC has them. These
// are written over when they were given back.
func arrived(t *rapid.T, f *frame) *frame {
	b := &batch{limit: 1 << 30}
	b.add(f)
	sent := b.take()
	data := sent.Materialize()
	sent.Free()
	bufs := pooled(cutUp(data, rapid.SampledFrom([]int{1, 100, 5000, 16384, 16384, 16384}).Draw(t, "buffer")))
	var in inbox
	if err := in.decode(bufs); err != nil {
		t.Fatal(err)
	}
	bufs.Free()
	return &in.frames[0]
}

// pooled is bufs in buffers of 16 KiB, which are written over when they were
// given back.
func pooled(bufs mem.BufferSlice) (out mem.BufferSlice) {
	for _, from := range bufs {
		b := make([]byte, max(from.Len(), 16<<10))
		b = b[:copy(b, from.ReadOnlyData())]
		out = append(out, mem.NewBuffer(&b, spoiler{}))
	}
	return out
}

// spoiler is a buffer pool that writes over what comes back.
type spoiler struct{ mem.NopBufferPool }

func (spoiler) Put(b *[]byte) { clear((*b)[:cap(*b)]) }

// capacity is how much memory a payload holds.
func capacity(h *held) (n int) {
	for _, b := range h.bufs {
		n += cap(b.ReadOnlyData())
	}
	if n == 0 {
		for _, v := range h.views {
			n += cap(v)
		}
	}
	return n
}

// M40: every size comes out byte for byte, whatever becomes of the buffers in
// which the parts came.
func TestJoinerIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.SampledFrom([]int{32769, 65536, 65537, 98304}), rapid.IntRange(partBytes+1, 1<<20)).Draw(t, "size")
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(i * 7 >> 3)
		}
		now := time.Time{}
		j, err := newJoiner(arrived(t, &frame{kind: kindRequest, payload: payload[:partBytes], total: uint64(n)}), now)
		if err != nil {
			t.Fatal(err)
		}
		for at := partBytes; at < n; at += partBytes {
			now = now.Add(time.Second)
			part := payload[at:min(at+partBytes, n)]
			whole, err := j.add(arrived(t, &frame{kind: kindPart, payload: part}), now)
			if err != nil || whole != (at+partBytes >= n) {
				t.Fatalf("at %d of %d: whole %v, %v", at, n, whole, err)
			}
			if have := at + len(part); capacity(j.held) > 2*have || j.last != now {
				t.Fatalf("%d bytes are held for %d (M41)", capacity(j.held), have)
			}
		}
		if !bytes.Equal(j.held.join(), payload) {
			t.Fatal("it is not what was sent")
		}
	})
}

// M41, F34: what is held is what has arrived, never what was announced.
func TestJoinerHoldsWhatHasArrived(t *testing.T) {
	first := piece(make([]byte, partBytes), 4<<30)
	if n := testing.AllocsPerRun(10, func() { _, _ = newJoiner(first, time.Time{}) }); n > 2 {
		t.Errorf("%v allocations for an announcement", n)
	}
	j, err := newJoiner(first, time.Time{})
	if err != nil || capacity(j.held) >= 64<<10 {
		t.Fatalf("%v; %d bytes are held after the first frame", err, capacity(j.held))
	}
	if _, err := j.add(first, time.Time{}); err != nil || capacity(j.held) > 4*partBytes {
		t.Errorf("%v; %d bytes are held for %d", err, capacity(j.held), 2*partBytes)
	}
}

// M41: an unfinished message counts as at least 64 KiB.
func TestWeight(t *testing.T) {
	for n, want := range map[uint64]int64{0: 65536, 32769: 65536, 65536: 65536, 65537: 65537, 1 << 40: 1 << 40} {
		if got := weight(n); got != want {
			t.Errorf("weight(%d) = %d, want %d", n, got, want)
		}
	}
}

// M40, M41: a large reply that breaks a rule fails its call alone, and its
// sender is told that nobody waits for the rest.
func TestWrongLargeReplyFailsItsCallAlone(t *testing.T) {
	part := func(n int) frame { return frame{kind: kindPart, payload: make([]byte, n)} }
	first := func(n int, total uint64) frame { return frame{kind: kindReply, payload: make([]byte, n), total: total} }
	const prefix = "maybe executed: invalid large reply: "
	for name, c := range map[string]struct {
		frames []frame
		want   string
	}{
		"short first":  {[]frame{first(5, 1<<20)}, prefix + "its first frame has 5 bytes of 1048576; it must have 32768 of more"},
		"too large":    {[]frame{first(partBytes, 1<<20+1)}, "handler failed: reply too large: 1048577 bytes; this process takes 1048576 now"},
		"two at once":  {[]frame{first(partBytes, 1<<20), first(partBytes, 1<<20)}, prefix + "it has two beginnings"},
		"small second": {[]frame{first(partBytes, 1<<20), {kind: kindReply, payload: []byte("x")}}, prefix + "it has two beginnings"},
		"too many":     {[]frame{first(partBytes, partBytes+1), part(2)}, prefix + "its parts hold more than the 32769 bytes that it announced"},
		"short part":   {[]frame{first(partBytes, 1<<20), part(partBytes), part(1)}, prefix + "a part has 1 bytes before the last one; it must have 32768"},
		"long part":    {[]frame{first(partBytes, 1<<20), part(partBytes + 1)}, prefix + "a part has 32769 bytes; the most is 32768"},
	} {
		r, o := openRig(t)
		l, other := r.call(), r.call()
		r.wantSent(o, "1 2")
		for i := range c.frames {
			r.want("-", l)
			r.received(l, &c.frames[i])
		}
		if r.want(c.want, l); t.Failed() {
			t.Fatal(name)
		}
		r.wantSent(o, "x1")
		f := part(1)
		f.session = l.session
		if r.n.received(o, &f, r.now) {
			t.Errorf("%s: a part after the end is not stray (M33)", name)
		}
		r.reply(other)
		r.want("ok", other)
	}
}

// M40: a large reply comes as it was sent, with its headers and trailers.
func TestLargeReplyIsJoined(t *testing.T) {
	r, o := openRig(t)
	l := r.call()
	r.wantSent(o, "1")
	payload := bytes.Repeat([]byte("0123456"), 10001)
	r.received(l, &frame{
		kind: kindReply, payload: bytes.Clone(payload[:partBytes]), total: uint64(len(payload)),
		headers: []Header{{"h", []byte("1")}}, trailers: []Header{{"t", []byte("2")}},
	})
	r.received(l, &frame{kind: kindPart, payload: payload[partBytes : 2*partBytes]})
	r.want("-", l)
	r.received(l, &frame{kind: kindPart, payload: payload[2*partBytes:]})
	r.want("ok", l)
	reply := l.got[0].reply
	reply.Payload = l.got[0].held.join()
	if !bytes.Equal(reply.Payload, payload) || len(reply.Headers) != 1 || len(reply.Trailers) != 1 {
		t.Errorf("%d bytes of %d, headers %v, trailers %v", len(reply.Payload), len(payload), reply.Headers, reply.Trailers)
	}
	if !o.idle() {
		t.Error("the link is not idle")
	}
}

// M58: a failure breaks off a large reply that has begun.
func TestFailureBreaksOffALargeReply(t *testing.T) {
	r, o := openRig(t)
	l := r.call()
	r.wantSent(o, "1")
	r.received(l, &frame{kind: kindReply, payload: make([]byte, partBytes), total: 1 << 20})
	r.fails(l, meshv1.Reason_REASON_HANDLER)
	r.want("handler failed: no", l)
	r.wantSent(o, "")
}

// M41: 30 s without a part fail the call; its place is free with the answer.
func TestStalledLargeReplyFails(t *testing.T) {
	r, o := openRig(t)
	l := r.call()
	r.wantSent(o, "1")
	r.received(l, &frame{kind: kindReply, payload: make([]byte, partBytes), total: 1 << 20})
	r.pass(29 * time.Second)
	r.received(l, &frame{kind: kindPart, payload: make([]byte, partBytes)})
	r.pass(29 * time.Second)
	r.n.watch(o, r.now)
	r.collect()
	r.want("-", l)
	r.pass(time.Second)
	r.n.watch(o, r.now)
	r.collect()
	r.want("maybe executed: invalid large reply: no part for 30s", l)
	r.wantSent(o, "x1")
	if len(o.flights) != 1 {
		t.Error("its place is free before the listener has answered (M58)")
	}
	r.pass(time.Minute)
	r.n.watch(o, r.now)
	r.wantSent(o, "")
	r.fails(l, meshv1.Reason_REASON_CANCELLED)
	if !o.idle() {
		t.Error("the link is not idle")
	}
}

// A joiner's texts hold numbers only, so that nothing of a peer's gets into a
// log by them.
func TestJoinerTextsAreShort(t *testing.T) {
	_, err := newJoiner(&frame{total: 1<<64 - 1}, time.Time{})
	if err == nil || len(err.Error()) > 200 || strings.ContainsAny(err.Error(), "\n\r") {
		t.Error(err)
	}
}
