package mesh_test

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

const partSize = 32 << 10

// rogueLarge is the first frame of a large call: n bytes of total.
func rogueLarge(session, total uint64, n int, set ...func(*meshv1.Request)) *meshv1.Frame {
	set = append([]func(*meshv1.Request){func(q *meshv1.Request) { q.TotalSize = total }}, set...)
	return rogueCall(session, "@sdb", "ECHO", make([]byte, n), set...)
}

func roguePush(q *meshv1.Request) { q.Push = true }

// invalidLarges are large requests that break a rule: their frames, and what
// the failure says.
var invalidLarges = []struct {
	name   string
	frames func(n uint64) []*meshv1.Frame
	says   string
}{
	{"a first frame too short", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{rogueLarge(n, 40000, 100)} }, "100 bytes of 40000"},
	{"a first frame too long", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{rogueLarge(n, 40000, partSize+1)} }, "32769 bytes of 40000"},
	{"an empty first frame", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{rogueLarge(n, 1<<20, 0)} }, "0 bytes of"},
	{"a total that needs no parts", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{rogueLarge(n, partSize, partSize)} }, "of 32768"},
	{"a total of one", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{rogueLarge(n, 1, 1)} }, "of 1"},
	{"a total below the first frame", func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{rogueLarge(n, 5, partSize)} }, "of 5"},
	{"too many bytes", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLarge(n, partSize+10, partSize), roguePart(n, 11)}
	}, "more than the 32778 bytes"},
	{"too many bytes by a whole part", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLarge(n, 2*partSize-1, partSize), roguePart(n, partSize)}
	}, "more than the 65535 bytes"},
	{"a part too long", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLarge(n, 1<<20, partSize), roguePart(n, partSize), roguePart(n, partSize+1)}
	}, "a part has 32769 bytes"},
	{"a part too short before the last", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLarge(n, 1<<20, partSize), roguePart(n, partSize-1)}
	}, "a part has 32767 bytes before the last"},
	{"an empty part", func(n uint64) []*meshv1.Frame {
		return []*meshv1.Frame{rogueLarge(n, 1<<20, partSize), roguePart(n, 0)}
	}, "a part has 0 bytes"},
}

// M41, F35: a large request that breaks a rule fails its session alone, and at
// once; the parts that come after it are counted; a push is counted too.
func TestInvalidLargeRequests(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		for i, c := range invalidLarges {
			n := uint64(3*i + 1)
			r.say(c.frames(n)...)
			f := r.fails(n, meshv1.Reason_REASON_INVALID_REQUEST)
			if codes.Code(f.GetCode()) != codes.InvalidArgument || !strings.HasPrefix(f.GetMessage(), "invalid large request: ") || !strings.Contains(f.GetMessage(), c.says) {
				t.Errorf("%s: %v, want %q in it", c.name, f, c.says)
			}
			before := v.server.Stats()
			push := c.frames(n + 1)
			roguePush(push[0].GetRequest())
			r.say(append(push, roguePart(n, partSize), roguePart(n+1, partSize))...)
			r.answers(n + 2)
			after := v.server.Stats()
			if refused, stray := after.PushesRefused-before.PushesRefused, after.FramesStray-before.FramesStray; refused != 1 || stray != 2 {
				t.Errorf("%s: %d pushes and %d parts counted, want 1 and 2", c.name, refused, stray)
			}
			if after.UnfinishedBytes != 0 {
				t.Errorf("%s: %d bytes are still unfinished", c.name, after.UnfinishedBytes)
			}
		}
	})
}

// M39, M40, F36: parts of two sessions interleave, other frames go between, and
// what was sent comes back byte for byte, up to the maximum.
func TestLargeRequestsInterleave(t *testing.T) {
	const limit = 300000
	withVictim(t, func(v *victim) {
		r := v.rogue(func(h *meshv1.Hello) { h.MaxMessageBytes = 1 << 20 })
		texts := map[uint64][]byte{1: make([]byte, limit), 2: make([]byte, partSize+1)}
		rest := make(map[uint64][]byte)
		for n, b := range texts {
			for i := range b {
				b[i] = byte(uint64(i)*n + uint64(i)>>8)
			}
		}
		for _, n := range []uint64{1, 2} {
			r.say(rogueCall(n, "@sdb", "ECHO", texts[n][:partSize], func(q *meshv1.Request) { q.TotalSize = uint64(len(texts[n])) }))
			rest[n] = texts[n][partSize:]
		}
		small := uint64(3)
		for len(rest[1])+len(rest[2]) > 0 {
			for _, n := range []uint64{1, 2} {
				if k := min(partSize, len(rest[n])); k > 0 && (n == 1 || len(rest[1]) < limit/2) {
					r.say(&meshv1.Frame{Session: n, Body: &meshv1.Frame_Part{Part: &meshv1.Part{Payload: rest[n][:k]}}})
					rest[n] = rest[n][k:]
				}
			}
			if len(rest[2]) > 0 {
				r.answers(small)
				small++
			}
		}
		for n, got := range r.replies(2) {
			if !bytes.Equal(got, texts[n]) {
				t.Errorf("session %d: %d bytes came back, and not those that were sent", n, len(got))
			}
		}
	}, func(o *mesh.Options) { o.Limits.MessageBytes = limit })
}

// replies reads whole replies, large ones too, by session.
func (r *rogue) replies(n int) map[uint64][]byte {
	r.Helper()
	got, total := make(map[uint64][]byte), make(map[uint64]uint64)
	for done := 0; done < n; {
		f := r.hear()
		s := f.GetSession()
		switch {
		case f.GetReply() != nil:
			got[s], total[s] = f.GetReply().GetPayload(), f.GetReply().GetTotalSize()
			if total[s] == 0 {
				total[s] = uint64(len(got[s]))
			}
		case f.GetPart() != nil:
			got[s] = append(got[s], f.GetPart().GetPayload()...)
		default:
			r.Fatalf("got %v, want a reply", f)
		}
		if uint64(len(got[s])) == total[s] {
			done++
		}
	}
	return got
}

// M40: one byte more than the maximum is refused by its first frame, for its
// session only, whatever the maximum is.
func TestRequestsBeyondTheMaximum(t *testing.T) {
	for _, limit := range []int64{64 << 20, 100000, 1000} {
		withVictim(t, func(v *victim) {
			r := v.rogueOn(v.conn())
			r.say(rogueHello())
			if got := r.hear().GetHello().GetMaxMessageBytes(); got != uint64(limit) {
				t.Errorf("the hello says %d, want %d", got, limit)
			}
			tooLarge := []*meshv1.Frame{rogueLarge(1, uint64(limit)+1, int(min(limit+1, partSize))), rogueLarge(2, 4<<30, partSize), rogueLarge(3, 1<<64-1, partSize)}
			if limit < partSize {
				tooLarge[0].GetRequest().TotalSize = 0
			}
			for _, f := range tooLarge {
				r.say(f)
				got := r.fails(f.GetSession(), meshv1.Reason_REASON_TOO_LARGE)
				if codes.Code(got.GetCode()) != codes.ResourceExhausted || !strings.HasPrefix(got.GetMessage(), "too large") {
					t.Errorf("limit %d: %v", limit, got)
				}
			}
			r.say(roguePart(2, partSize))
			r.answers(4)
		}, func(o *mesh.Options) { o.Limits.MessageBytes = limit })
	}
}

// M41, F34: what is announced is not allocated, and 30 s without a part fail the
// request and free what it held, though the link is busy with other calls.
func TestAnnouncedBytesAreNotHeld(t *testing.T) {
	const announced, count = 4 << 30, 200
	withVictim(t, func(v *victim) {
		r := v.rogue()
		heap := heapAfterGC()
		for n := range uint64(count) {
			r.say(rogueLarge(n+1, announced, partSize))
		}
		r.say(roguePart(1, partSize), roguePart(2, partSize), roguePart(3, partSize))
		r.answers(count + 1)
		synctest.Wait()
		if got := v.server.Stats().UnfinishedBytes; got != count*announced {
			t.Fatalf("%d bytes are unfinished, want %d", got, int64(count*announced))
		}
		if held := heapAfterGC() - heap; held > 2*count*partSize {
			t.Errorf("%d bytes are held for %d that arrived", held, count*partSize)
		}
	}, func(o *mesh.Options) {
		o.Limits.MessageBytes, o.Limits.UnfinishedBytes, o.Limits.UnfinishedRequests = 8<<30, 1<<50, 1<<50
	})
}

func heapAfterGC() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// M41, F35: 30 s without a part fail a large request, whatever else its link
// carries meanwhile; one whose parts come slowly is none of that.
func TestPartsThatStopComing(t *testing.T) {
	for _, busy := range []bool{false, true} {
		withVictim(t, func(v *victim) {
			r := v.rogue()
			r.say(rogueLarge(1, 1<<20, partSize), rogueLarge(2, 2*partSize+1, partSize), rogueLarge(3, 1<<20, partSize, roguePush))
			began, session := time.Now(), uint64(3)
			for time.Since(began) < 40*time.Second {
				time.Sleep(time.Second)
				if busy {
					session++
					r.say(rogueCall(session, "@sdb", "ECHO", nil))
				} else {
					r.say(rogueBeat())
				}
				if time.Since(began) == 20*time.Second {
					r.say(roguePart(2, partSize))
				}
			}
			for {
				f := r.hear()
				if f.GetFailure() == nil && busy && f.GetSession() < session {
					continue
				}
				if f.GetSession() != 1 || f.GetFailure().GetReason() != meshv1.Reason_REASON_INVALID_REQUEST || f.GetFailure().GetMessage() != "invalid large request: no part for 30s" {
					t.Errorf("busy %t: got %v", busy, f)
				}
				break
			}
			if got := v.server.Stats(); got.PushesRefused != 1 || got.UnfinishedBytes != 2*partSize+1 {
				t.Errorf("busy %t: %d pushes refused, %d bytes unfinished", busy, got.PushesRefused, got.UnfinishedBytes)
			}
			r.say(roguePart(2, 1))
		})
	}
}

// M41: a peer that begins more than its hello allows is refused for that
// session; each message counts as at least 64 KiB; what has ended makes room.
func TestUnfinishedBytesBeyondTheHello(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogueOn(v.conn())
		r.say(rogueHello())
		if got := r.hear().GetHello().GetMaxUnfinishedBytes(); got != 256<<10 {
			t.Fatalf("the hello says %d", got)
		}
		r.say(rogueLarge(1, 150<<10, partSize), rogueLarge(2, partSize+1, partSize))
		r.say(rogueLarge(3, partSize+1, partSize)) // 150 and twice 64 are more than 256
		if f := r.fails(3, meshv1.Reason_REASON_OVERLOADED); codes.Code(f.GetCode()) != codes.ResourceExhausted || !strings.HasPrefix(f.GetMessage(), "overloaded") {
			t.Errorf("refused with %v", f)
		}
		r.say(rogueLarge(4, partSize+1, partSize, roguePush))
		r.answers(5)
		if n := v.server.Stats().PushesRefused; n != 1 {
			t.Errorf("%d pushes refused, want 1", n)
		}
		r.say(roguePart(2, 1))
		r.replies(1)
		r.say(rogueLarge(6, 100<<10, partSize), rogueLarge(7, 200<<10, partSize))
		r.fails(7, meshv1.Reason_REASON_OVERLOADED)
		if n := v.server.Stats().UnfinishedBytes; n != 250<<10 {
			t.Errorf("%d bytes unfinished, want %d", n, 250<<10)
		}
	}, func(o *mesh.Options) { o.Limits.UnfinishedBytes = 256 << 10 })
}

// M41, M56: the bound of the whole process refuses requests of any link, and
// what dies with a link makes room for the others.
func TestUnfinishedRequestsOfTheProcess(t *testing.T) {
	withVictim(t, func(v *victim) {
		a, b := v.rogue(), v.rogue()
		a.say(rogueLarge(1, 250<<10, partSize))
		a.answers(2)
		b.say(rogueLarge(1, 100<<10, partSize))
		if f := b.fails(1, meshv1.Reason_REASON_OVERLOADED); codes.Code(f.GetCode()) != codes.ResourceExhausted {
			t.Errorf("refused with %v", f)
		}
		b.say(rogueLarge(2, 50<<10, partSize)) // counts 64 KiB
		b.fails(2, meshv1.Reason_REASON_OVERLOADED)
		_ = a.cc.Close()
		time.Sleep(time.Second)
		if n := v.server.Stats().UnfinishedBytes; n != 0 {
			t.Errorf("%d bytes unfinished after their link", n)
		}
		b.say(rogueLarge(3, 300<<10, partSize))
		b.answers(4)
		if n := v.server.Stats().UnfinishedBytes; n != 300<<10 {
			t.Errorf("%d bytes unfinished, want %d", n, 300<<10)
		}
	}, func(o *mesh.Options) { o.Limits.UnfinishedRequests = 300 << 10 })
}
