package mesh_test

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// toHandle makes a call one to a handle.
func toHandle(h uint64) func(*meshv1.Request) {
	return func(q *meshv1.Request) { q.Address = &meshv1.Request_Handle{Handle: h} }
}

// ask calls a method of handle 0.
func (r *rogue) ask(session uint64, method string, payload []byte) *meshv1.Frame {
	r.Helper()
	r.say(rogueCall(session, "", method, payload, toHandle(0)))
	f := r.hear()
	if f.GetSession() != session {
		r.Fatalf("got %v, want the answer of %d", f, session)
	}
	return f
}

func encoded(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decoded(t *testing.T, f *meshv1.Frame, into proto.Message) {
	t.Helper()
	if f.GetReply() == nil {
		t.Fatalf("got %v, want a reply", f)
	}
	if err := proto.Unmarshal(f.GetReply().GetPayload(), into); err != nil {
		t.Fatal(err)
	}
}

// M49, M46: handle 0 answers Query, Names and Ping to any client that speaks the
// protocol; what it does not know is refused.
func TestProcessAnswersForItself(t *testing.T) {
	withVictim(t, func(v *victim) {
		local := v.register(v.server, ".launcher", echo, mesh.Concurrent(1))
		r := v.rogue()
		var q meshv1.QueryResponse
		decoded(t, r.ask(1, "Query", encoded(t, &meshv1.QueryRequest{Name: ".launcher"})), &q)
		if q.GetHandle() != uint64(local.Handle()) {
			t.Errorf("Query: %v, want %s", &q, local.Handle())
		}
		r.say(rogueCall(2, "", "ECHO", []byte("by handle"), toHandle(q.GetHandle())))
		if f := r.hear(); string(f.GetReply().GetPayload()) != "by handle" {
			t.Errorf("a call to the handle: %v", f)
		}
		var ns meshv1.NamesResponse
		decoded(t, r.ask(3, "Names", nil), &ns)
		var names []string
		for _, n := range ns.GetNames() {
			names = append(names, n.GetName())
		}
		if !slices.Equal(names, []string{".launcher", "@sdb"}) || ns.GetNames()[0].GetHandle() != q.GetHandle() {
			t.Errorf("Names: %v", &ns)
		}
		var p meshv1.PingResponse
		decoded(t, r.ask(4, "Ping", encoded(t, &meshv1.PingRequest{Payload: []byte("\x00x")})), &p)
		if string(p.GetPayload()) != "\x00x" || p.GetProcess() != "server" || p.GetIncarnation() != uint32(q.GetHandle()>>32) {
			t.Errorf("Ping: %v", &p)
		}
		for i, c := range []struct {
			method  string
			payload []byte
			reason  meshv1.Reason
			code    codes.Code
		}{
			{"Query", encoded(t, &meshv1.QueryRequest{Name: "@nobody"}), meshv1.Reason_REASON_NAME_NOT_FOUND, codes.NotFound},
			{"Query", encoded(t, &meshv1.QueryRequest{Name: "@a\nb"}), meshv1.Reason_REASON_INVALID_NAME, codes.InvalidArgument},
			{"Query", nil, meshv1.Reason_REASON_INVALID_NAME, codes.InvalidArgument},
			{"Query", []byte{0x0a, 1, 0xff}, meshv1.Reason_REASON_INVALID_REQUEST, codes.InvalidArgument},
			{"Ping", []byte{0xff}, meshv1.Reason_REASON_INVALID_REQUEST, codes.InvalidArgument},
			{"query", nil, meshv1.Reason_REASON_UNKNOWN_METHOD, codes.Unimplemented},
			{"", nil, meshv1.Reason_REASON_UNKNOWN_METHOD, codes.Unimplemented},
		} {
			f := r.ask(uint64(10+i), c.method, c.payload).GetFailure()
			if f.GetReason() != c.reason || codes.Code(f.GetCode()) != c.code {
				t.Errorf("%s of %q: %v, want %s", c.method, c.payload, f, c.reason)
			}
		}
		v.server.Unregister(".launcher")
	})
}

// M47: handles that were never given are stale, those of this process's
// incarnation too.
func TestHandlesThatWereNeverGiven(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		var q meshv1.QueryResponse
		decoded(t, r.ask(1, "Query", encoded(t, &meshv1.QueryRequest{Name: "@sdb"})), &q)
		for i, h := range []uint64{1, 1 << 32, q.GetHandle() + 1, q.GetHandle() ^ 1<<32, q.GetHandle() &^ (1<<32 - 1), 1<<64 - 1} {
			n := uint64(i + 2)
			r.say(rogueCall(n, "", "ECHO", nil, toHandle(h)))
			if f := r.fails(n, meshv1.Reason_REASON_STALE_HANDLE); codes.Code(f.GetCode()) != codes.FailedPrecondition {
				t.Errorf("%x: %v", h, f)
			}
		}
	})
}

// M58: what asks handle 0 beside a call does not wait for it, and many may.
func TestProcessAnswersManyAtOnce(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		const n = 2000
		fs := make([]*meshv1.Frame, n)
		for i := range fs {
			fs[i] = rogueCall(uint64(i+1), "", "Ping", nil, toHandle(0))
		}
		r.say(fs...)
		seen := make(map[uint64]bool)
		for range n {
			f := r.hear()
			if f.GetReply() == nil || seen[f.GetSession()] {
				t.Fatalf("got %v", f)
			}
			seen[f.GetSession()] = true
		}
	})
}
