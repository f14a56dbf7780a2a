package mesh_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// rawRequest is the request of rogueCall with its fields as raw bytes: texts
// that no protobuf library would write.
func rawRequest(session uint64, fields ...any) *meshv1.Frame {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		b = protowire.AppendTag(b, protowire.Number(fields[i].(int)), protowire.BytesType)
		b = protowire.AppendString(b, fields[i+1].(string))
	}
	return rogueRaw(session, 3, b)
}

// rawHeader is a header as raw bytes.
func rawHeader(key, value string) string {
	b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), key)
	return string(protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), value))
}

// F37, M56: a request that breaks a rule is refused for its session, with a
// sentence that names the rule; the link lives and no handler runs.
func TestRequestsThatBreakARule(t *testing.T) {
	const bad = meshv1.Reason_REASON_INVALID_REQUEST
	header := func(n int) func(*meshv1.Request) {
		return func(q *meshv1.Request) {
			q.Headers = []*meshv1.Header{{Key: "k", Value: bytes.Repeat([]byte("v"), n-33)}} // each counts 32 more
		}
	}
	cases := []struct {
		name  string
		frame func(session uint64) *meshv1.Frame
		says  string // "" where it is in order
	}{
		{"empty body", func(n uint64) *meshv1.Frame { return &meshv1.Frame{Session: n} }, "no body"},
		{"unknown body", func(n uint64) *meshv1.Frame { return rogueRaw(n, 20, []byte("later")) }, "no body"},
		{"unknown body of garbage", func(n uint64) *meshv1.Frame { return rogueRaw(n, 1000, []byte{0xff, 0xff}) }, "no body"},
		{"no address", func(n uint64) *meshv1.Frame {
			return &meshv1.Frame{Session: n, Body: &meshv1.Frame_Request{Request: &meshv1.Request{Method: "RULE"}}}
		}, "address"},
		{"empty request", func(n uint64) *meshv1.Frame {
			return &meshv1.Frame{Session: n, Body: &meshv1.Frame_Request{Request: &meshv1.Request{}}}
		}, "address"},
		{"method of 1025 bytes", func(n uint64) *meshv1.Frame { return rogueCall(n, "@sdb", strings.Repeat("m", 1025), nil) }, "method"},
		{"method that is not UTF-8", func(n uint64) *meshv1.Frame { return rawRequest(n, 1, "@sdb", 3, "R\xff") }, "UTF-8"},
		{"trace tag that is not UTF-8", func(n uint64) *meshv1.Frame { return rawRequest(n, 1, "@sdb", 3, "RULE", 7, "\xff") }, "UTF-8"},
		{"header key that is not UTF-8", func(n uint64) *meshv1.Frame {
			return rawRequest(n, 1, "@sdb", 3, "RULE", 6, rawHeader("k\xff", "v"))
		}, "UTF-8"},
		{"headers of 8 KiB", func(n uint64) *meshv1.Frame { return rogueCall(n, "@sdb", "RIGHT", nil, header(8<<10)) }, ""},
		{"headers of 8 KiB and 1", func(n uint64) *meshv1.Frame { return rogueCall(n, "@sdb", "RULE", nil, header(8<<10+1)) }, "headers"},
		{"many headers", func(n uint64) *meshv1.Frame {
			return rogueCall(n, "@sdb", "RULE", nil, func(q *meshv1.Request) {
				for i := range 1000 {
					q.Headers = append(q.Headers, &meshv1.Header{Key: fmt.Sprintf("header-%d", i)})
				}
			})
		}, "headers"},
		{"trace tag of 8 KiB and 1", func(n uint64) *meshv1.Frame {
			return rogueCall(n, "@sdb", "RULE", nil, func(q *meshv1.Request) { q.TraceTag = strings.Repeat("t", 8<<10+1) })
		}, "headers"},
		{"payload of 32 KiB", func(n uint64) *meshv1.Frame { return rogueCall(n, "@sdb", "RIGHT", make([]byte, 32<<10)) }, ""},
		{"payload of 32 KiB and 1", func(n uint64) *meshv1.Frame { return rogueCall(n, "@sdb", "RULE", make([]byte, 32<<10+1)) }, "total_size"},
		{"endless deadline", func(n uint64) *meshv1.Frame {
			return rogueCall(n, "@sdb", "RIGHT", nil, func(q *meshv1.Request) { q.TimeLeftUs = 1<<64 - 1 })
		}, ""},
		{"unknown field", func(n uint64) *meshv1.Frame {
			return rogueCall(n, "@sdb", "RIGHT", nil, func(q *meshv1.Request) { q.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 0x01}) })
		}, ""},
	}
	withVictim(t, func(v *victim) {
		r := v.rogue()
		right := 0
		for i, c := range cases {
			session := uint64(2*i + 1)
			r.say(c.frame(session))
			if c.says == "" {
				right++
				if f := r.hear(); f.GetSession() != session || f.GetReply() == nil {
					t.Errorf("%s: got %v, want a reply", c.name, f.GetFailure())
				}
				continue
			}
			f := r.fails(session, bad)
			if codes.Code(f.GetCode()) != codes.InvalidArgument || !strings.HasPrefix(f.GetMessage(), "invalid request: ") || !strings.Contains(f.GetMessage(), c.says) {
				t.Errorf("%s: %v, want %q in it", c.name, f, c.says)
			}
			r.answers(session + 1)
		}
		if v.ran("RULE") != 0 || v.ran("") != 0 || v.ran("RIGHT") != right {
			t.Errorf("ran: %d that break a rule, %d of %d that do not", v.ran("RULE")+v.ran(""), v.ran("RIGHT"), right)
		}
	})
}

// F37: a frame that is all zero, and a body of a later version for a session
// that was used, are answered with a failure or ignored; the link lives.
func TestFrameThatIsAllZero(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		r.answers(1)
		r.say(&meshv1.Frame{})
		r.say(rogueRaw(0, 20, nil))
		r.say(rogueRaw(1, 21, []byte("of a later version")))
		r.say(rogueCall(2, "@sdb", "ECHO", []byte("after")))
		for {
			f := r.hear()
			if f.GetSession() == 2 {
				if string(f.GetReply().GetPayload()) != "after" {
					t.Errorf("session 2: %v", f)
				}
				return
			}
			if f.GetSession() > 1 || f.GetFailure().GetReason() != meshv1.Reason_REASON_INVALID_REQUEST {
				t.Errorf("answered by %v", f)
			}
		}
	})
}

// ruleBreakers are names that no service can have and no message can be for.
var ruleBreakers = []string{
	"@new\nline", "@nul\x00", "@\x7f", "@c1\u0085", "\xff\xfe", "@\xc3\x28", "@" + strings.Repeat("n", 255), "@" + strings.Repeat("n", 64<<10),
	"@", ".", "@\r", "@{\"level\":\"error\"}\n",
}

// F38, M42: names that break the rules are rejected as such at dispatch, in one
// line of text, calls and large calls alike; pushes are counted.
func TestNamesThatBreakTheRules(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		// Only a name without a sign differs from what Register refuses.
		for i, name := range append([]string{"sdb", "/sdb", " @sdb"}, ruleBreakers...) {
			session := uint64(4*i + 1)
			r.say(rawRequest(session, 1, name, 3, "NAME"))
			nameRefused(t, name, r.fails(session, meshv1.Reason_REASON_INVALID_NAME))
			if len(name) < 1000 {
				r.say(rawLarge(session+1, name))
				nameRefused(t, name, r.fails(session+1, meshv1.Reason_REASON_INVALID_NAME))
			}
			before := v.server.Stats().PushesUnknown
			r.say(rawPush(session+2, name))
			r.answers(session + 3)
			if n := v.server.Stats().PushesUnknown - before; n != 1 {
				t.Errorf("%.20q: %d pushes to unknown names counted, want 1", name, n)
			}
		}
		r.say(rogueCall(1000, "@"+strings.Repeat("n", 254), "NAME", nil))
		if f := r.fails(1000, meshv1.Reason_REASON_NAME_NOT_FOUND); codes.Code(f.GetCode()) != codes.NotFound {
			t.Errorf("the longest name: %v", f)
		}
		if n := v.ran("NAME"); n != 0 {
			t.Errorf("%d handlers ran", n)
		}
	})
}

// F37, M42: the empty name is refused, and never taken for handle 0.
func TestEmptyNameIsRefused(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		for i, method := range []string{"NAME", "Names", "Ping"} {
			r.say(rogueCall(uint64(i+1), "", method, nil))
			f := r.hear().GetFailure()
			if why := f.GetReason(); why != meshv1.Reason_REASON_INVALID_NAME && why != meshv1.Reason_REASON_INVALID_REQUEST || codes.Code(f.GetCode()) != codes.InvalidArgument {
				t.Errorf("%s: %v", method, f)
			}
		}
		r.answers(4)
	})
}

// F38: marks that turn the direction of writing are refused, at register and at
// dispatch: a name with one looks like another name.
func TestNamesWithBidiMarks(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		for i, name := range []string{"@a\u200fb", "@a\u202eb", "@a\u2066b", "@a\u061cb"} {
			if err := v.server.Register(name, v.server.NewService(echo)); err == nil {
				t.Errorf("%+q was registered", name)
			}
			r.say(rogueCall(uint64(i+1), name, "NAME", nil))
			nameRefused(t, name, r.fails(uint64(i+1), meshv1.Reason_REASON_INVALID_NAME))
		}
	})
}

func nameRefused(t *testing.T, name string, f *meshv1.Failure) {
	t.Helper()
	if codes.Code(f.GetCode()) != codes.InvalidArgument || !strings.Contains(f.GetMessage(), "invalid name") {
		t.Errorf("%.20q: %v", name, f)
	}
	if strings.ContainsFunc(f.GetMessage(), func(r rune) bool { return !unicode.IsPrint(r) }) || len(f.GetMessage()) > 1024 {
		t.Errorf("%.20q: the message is no short line of text: %q", name, f.GetMessage())
	}
}

func rawPush(session uint64, name string) *meshv1.Frame {
	b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
	return rogueRaw(session, 3, protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), 1))
}

func rawLarge(session uint64, name string) *meshv1.Frame {
	b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
	b = protowire.AppendBytes(protowire.AppendTag(b, 8, protowire.BytesType), make([]byte, 32<<10))
	return rogueRaw(session, 3, protowire.AppendVarint(protowire.AppendTag(b, 9, protowire.VarintType), 1<<20))
}

// M33: what only a listener says, and parts and cancels of sessions that are not
// known, are counted; the link lives.
func TestFramesThatBelongNowhere(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		r.answers(1)
		strays := []*meshv1.Frame{
			{Session: 1, Body: &meshv1.Frame_Reply{Reply: &meshv1.Reply{Payload: []byte("x")}}},
			{Session: 9, Body: &meshv1.Frame_Failure{Failure: &meshv1.Failure{Reason: 99}}},
			{Body: &meshv1.Frame_Goaway{Goaway: &meshv1.Goaway{LastSession: 1 << 63, Message: "a\nb"}}},
			roguePart(1, 32<<10), roguePart(2, 0), roguePart(0, 1),
			rogueCancel(1), rogueCancel(2), rogueCancel(0),
		}
		for i, f := range strays {
			before := v.server.Stats().FramesStray
			r.say(f)
			r.answers(uint64(i + 3))
			if n := v.server.Stats().FramesStray - before; n != 1 {
				t.Errorf("%v: counted %d times, want once", f, n)
			}
		}
	})
}

// F37: bytes that are no protobuf end the link and nothing else; so do fields
// that lie about their length.
func TestGarbageEndsTheLinkAlone(t *testing.T) {
	withVictim(t, func(v *victim) {
		other := v.rogue()
		for name, raw := range map[string][]byte{
			"no protobuf":        {0xff, 0xff, 0xff},
			"a length too long":  {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1},
			"a frame cut short":  {0x0a, 0x05, 0x08},
			"a group":            {0x0b, 0x0c},
			"garbage in a frame": {0x0a, 0x02, 0x1a, 0x05},
			"an endless varint":  bytes.Repeat([]byte{0x80}, 20),
		} {
			r := v.rogue()
			m := &meshv1.LinkRequest{}
			m.ProtoReflect().SetUnknown(raw)
			if err := r.stream.Send(m); err != nil {
				t.Fatal(err)
			}
			if st := r.ended(); st.Code() != codes.Internal {
				t.Errorf("%s: the link ended with %v", name, st)
			}
		}
		other.answers(1)
	})
}

// F33: a message longer than the hello allows ends its link with a status that
// says so, and nothing else.
func TestBatchBeyondTheBoundEndsTheLinkAlone(t *testing.T) {
	withVictim(t, func(v *victim) {
		other, r := v.rogue(), v.rogue()
		var frames []*meshv1.Frame
		for i := range 16 {
			frames = append(frames, rogueCall(uint64(i+1), "@sdb", "BATCH", make([]byte, 32<<10)))
		}
		if n := proto.Size(&meshv1.LinkRequest{Frames: frames}); n < 2*256<<10 {
			t.Fatalf("%d bytes are too few", n)
		}
		r.say(frames...)
		if st := r.ended(); st.Code() != codes.ResourceExhausted {
			t.Errorf("ended with %v, want a status that says what was wrong", st)
		}
		if n := v.ran("BATCH"); n != 0 {
			t.Errorf("%d frames of the batch ran", n)
		}
		other.answers(1)
	})
}
