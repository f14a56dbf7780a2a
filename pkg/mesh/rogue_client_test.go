package mesh_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// F39, M15, M58: a link without a hello is ended when the bound of a dial is
// over, whether its peer says nothing, empty messages, or half-closes.
func TestLinkWithoutHelloEnds(t *testing.T) {
	withVictim(t, func(v *victim) {
		for _, empty := range []bool{false, true} {
			began := time.Now()
			r := v.rogueOn(v.conn())
			for i := 0; empty && i < 20; i++ {
				r.say()
			}
			st := r.ended()
			if st.Code() != codes.FailedPrecondition || !strings.Contains(st.Message(), "no hello within 5s") {
				t.Errorf("empty messages %t: %v", empty, st)
			}
			if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
				t.Errorf("empty messages %t: ended after %s, want 5 s", empty, took)
			}
			v.undisturbed()
		}
		r := v.rogueOn(v.conn())
		if err := r.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if st := r.ended(); st.Code() == codes.OK {
			t.Errorf("half-closed without a hello: %v", st)
		}
	})
}

// F39: hellos that break a rule, and those that do not.
func TestHelloIsChecked(t *testing.T) {
	refused := map[string]struct {
		set  func(*meshv1.Hello)
		code codes.Code
		says string
	}{
		"version 0":        {func(h *meshv1.Hello) { h.Version = 0 }, codes.FailedPrecondition, "use 1"},
		"version 2":        {func(h *meshv1.Hello) { h.Version = 2 }, codes.FailedPrecondition, "use 1"},
		"zero incarnation": {func(h *meshv1.Hello) { h.Incarnation = 0 }, codes.InvalidArgument, "incarnation"},
		"no process":       {func(h *meshv1.Hello) { h.Process = "" }, codes.InvalidArgument, "process"},
		"bad process":      {func(h *meshv1.Hello) { h.Process = "a\nb" }, codes.InvalidArgument, "process"},
		"long process":     {func(h *meshv1.Hello) { h.Process = strings.Repeat("a", 256) }, codes.InvalidArgument, "process"},
		"bad node":         {func(h *meshv1.Hello) { h.Node = "a b" }, codes.InvalidArgument, "node"},
		"option as node":   {func(h *meshv1.Hello) { h.Node = "__nowaiting" }, codes.InvalidArgument, "node"},
		"long node":        {func(h *meshv1.Hello) { h.Node = strings.Repeat("a", 256) }, codes.InvalidArgument, "node"},
	}
	withVictim(t, func(v *victim) {
		for name, c := range refused {
			r := v.rogueOn(v.conn())
			r.say(rogueHello(c.set))
			st := r.ended()
			if st.Code() != c.code || !strings.Contains(st.Message(), c.says) {
				t.Errorf("%s: %v, want %s with %q", name, st, c.code, c.says)
			}
			v.undisturbed()
		}
		if n := v.server.Stats().LinksIn; n != 1 {
			t.Errorf("%d links, want that of the honest client alone", n)
		}
	})
}

// F39: what a later version may say is ignored, and what is unset means its
// default.
func TestHelloOfALaterVersionIsTaken(t *testing.T) {
	taken := map[string]func(*meshv1.Hello){
		"unknown features": func(h *meshv1.Hello) { h.Features = []string{"", "streams", "teleport\n"} },
		"unknown fields":   func(h *meshv1.Hello) { h.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 0x01}) },
		"no node":          func(h *meshv1.Hello) { h.Node = "" },
		"another node":     func(h *meshv1.Hello) { h.Node = "alias" }, // M19
		"longest names":    func(h *meshv1.Hello) { h.Process, h.Node = strings.Repeat("a", 255), strings.Repeat("b", 255) },
		"huge numbers": func(h *meshv1.Hello) {
			h.Incarnation, h.HeartbeatIntervalMs, h.MaxBatchBytes, h.MaxCalls = math.MaxUint32, math.MaxUint32, math.MaxUint32, math.MaxUint32
			h.MaxMessageBytes, h.MaxUnfinishedBytes = math.MaxUint64, math.MaxUint64
			h.StreamWindowBytes, h.MaxStreams = math.MaxUint32, math.MaxUint32
		},
		"tiny numbers": func(h *meshv1.Hello) {
			h.HeartbeatIntervalMs, h.MaxBatchBytes, h.MaxCalls = 1, 1, 1
			h.StreamWindowBytes, h.MaxStreams = 1, 1
		},
	}
	withVictim(t, func(v *victim) {
		for name, set := range taken {
			r := v.rogueOn(v.conn())
			r.say(rogueHello(set))
			h := r.hear().GetHello()
			if h.GetVersion() != 1 || h.GetProcess() != "server" || h.GetNode() != "" || h.GetIncarnation() == 0 || !slices.Equal(h.GetFeatures(), []string{"streams"}) {
				t.Errorf("%s: answered by %v", name, h)
			}
			r.answers(1)
		}
	})
}

// The listener's hello tells the bounds that Limits has.
func TestHelloTellsTheBounds(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogueOn(v.conn())
		r.say(rogueHello())
		h := r.hear().GetHello()
		if h.GetMaxBatchBytes() != 256<<10 || h.GetMaxMessageBytes() != 64<<20 || h.GetMaxUnfinishedBytes() != 64<<20 ||
			h.GetMaxCalls() != 16384 || h.GetHeartbeatIntervalMs() != 2000 {
			t.Errorf("defaults: %v", h)
		}
	})
}

// F39: a request before the hello, and a second hello, end the link by a
// protocol error.
func TestHelloComesFirstAndOnce(t *testing.T) {
	withVictim(t, func(v *victim) {
		first := map[string]*meshv1.Frame{
			"request": rogueCall(1, "@sdb", "EARLY", nil), "heartbeat": rogueBeat(), "all zero": {}, "part": roguePart(1, 1),
		}
		for name, f := range first {
			r := v.rogueOn(v.conn())
			r.say(f, rogueHello())
			st := r.ended()
			if st.Code() != codes.InvalidArgument || st.Message() != "protocol error: the first frame is not a hello" {
				t.Errorf("%s before the hello: %v", name, st)
			}
		}
		if n := v.ran("EARLY"); n != 0 {
			t.Errorf("a request before the hello ran %d times", n)
		}
		r := v.rogue()
		r.answers(1)
		r.say(rogueHello())
		if st := r.ended(); st.Code() != codes.InvalidArgument || st.Message() != "protocol error: a second hello" {
			t.Errorf("a second hello: %v", st)
		}
	})
}

// F30, F37, M22: a session that is not above the last one is a protocol error
// that ends the link; the handler of the first ran once, that of the second
// never.
func TestSessionsRise(t *testing.T) {
	for name, again := range map[string][2]uint64{
		"the same": {1, 1}, "below": {5, 4}, "zero": {5, 0}, "below the highest": {math.MaxUint64, math.MaxUint64 - 1}, "the highest twice": {math.MaxUint64, math.MaxUint64},
	} {
		t.Run(name, func(t *testing.T) {
			withVictim(t, func(v *victim) {
				r := v.rogue()
				r.say(rogueCall(again[0], "@sdb", "FIRST", []byte("1")))
				if f := r.hear(); f.GetSession() != again[0] || string(f.GetReply().GetPayload()) != "1" {
					t.Fatalf("the first: %v", f)
				}
				r.say(rogueCall(again[1], "@sdb", "SECOND", nil), rogueCall(math.MaxUint64, "@sdb", "SECOND", nil))
				st := r.ended()
				if st.Code() != codes.InvalidArgument || !strings.HasPrefix(st.Message(), "protocol error: session ") {
					t.Errorf("ended with %v", st)
				}
				synctest.Wait()
				if v.ran("FIRST") != 1 || v.ran("SECOND") != 0 {
					t.Errorf("the first ran %d times, the second %d times", v.ran("FIRST"), v.ran("SECOND"))
				}
			})
		})
	}
}

// F37: the highest session is one like any other, and so are gaps.
func TestSessionsMayLeap(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		for _, session := range []uint64{1, 3, 1 << 31, 1 << 63, math.MaxUint64} {
			r.answers(session)
		}
	})
}

// A link that ends, in order, by a protocol error or a reset, leaves the others that its
// dialler has on the same connection: gRPC clients share connections.
func TestLinksOfOneConnectionAreApart(t *testing.T) {
	withVictim(t, func(v *victim) {
		cc := v.conn()
		open := func() *rogue {
			r := v.rogueOn(cc)
			r.say(rogueHello())
			r.hear()
			return r
		}
		stays, broken, orderly, reset := open(), open(), open(), open()
		stays.beating()
		reset.answers(1)
		reset.cancel()
		broken.say(rogueHello())
		if st := broken.ended(); st.Code() != codes.InvalidArgument {
			t.Errorf("broken: %v", st)
		}
		if err := orderly.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if st := orderly.ended(); st.Code() != codes.OK {
			t.Errorf("orderly: %v", st)
		}
		time.Sleep(10 * time.Second)
		stays.answers(1)
	})
}
