package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// forwarder is a node that passes calls on to db, and a program without a stream.
func forwarder(t *testing.T, f func(w *world, near, db *mesh.Mesh, c meshv1.ClusterServiceClient), set ...func(*mesh.Options)) {
	t.Helper()
	inWorld(t, func(w *world) {
		db := w.process("db")
		w.open(db, "db:1")
		w.register(db, "sdb", sayings)
		near := w.process("near", append([]func(*mesh.Options){func(o *mesh.Options) { o.AllowForward = true }}, set...)...)
		w.open(near, "near:1")
		w.register(near, "own", sayings)
		w.reload(near, mesh.Table{"db": "db:1", "down": false})
		f(w, near, db, meshv1.NewClusterServiceClient(w.rogueConn("near:1")))
	})
}

// sayings answers what its method says.
func sayings(ctx context.Context, method string, payload []byte) ([]byte, error) {
	c, _ := mesh.CallerFrom(ctx)
	md, _ := metadata.FromIncomingContext(ctx)
	switch method {
	case "ECHO":
		return payload, nil
	case "WHO":
		return fmt.Appendf(nil, "%s %d %v %v %s", c.Process, c.Hops, md["k"], md["k-bin"], c.Trace.Tag), nil
	case "META":
		_ = grpc.SetHeader(ctx, metadata.Pairs("h", "1", "odd", "a\nb", "x-bin", "\x00"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("t", "2"))
		return nil, status.Error(codes.DataLoss, "lost")
	case "UNTIL":
		<-ctx.Done()
		return nil, ctx.Err()
	case "BIG":
		return make([]byte, 1<<20+1), nil
	case "KEYS":
		var keys []string
		for k := range md {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		return []byte(strings.Join(keys, " ")), nil
	}
	return nil, status.Error(codes.InvalidArgument, "unknown saying")
}

// info is the mesh's own word in a status.
func info(t *testing.T, err error) (reason, executed string) {
	t.Helper()
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok && i.GetDomain() == "mesh" {
			return i.GetReason(), i.GetMetadata()["executed"]
		}
	}
	return "", ""
}

// A program without a stream calls any node by its name, and the node itself,
// through one unary method: payload, metadata, trace, deadline go; reply, headers,
// trailers and the handler's status come back.
func TestUnaryCall(t *testing.T) {
	forwarder(t, func(w *world, _, _ *mesh.Mesh, c meshv1.ClusterServiceClient) {
		ctx := w.within(time.Minute)
		for target, who := range map[string]string{"db@sdb": "near 1", "@own": " 0"} {
			call := func(method string, set ...func(*meshv1.CallRequest)) (*meshv1.CallResponse, error) {
				q := &meshv1.CallRequest{Target: target, Method: method, Payload: []byte("x")}
				for _, f := range set {
					f(q)
				}
				return c.Call(metadata.AppendToOutgoingContext(ctx, "k", "v", "k-bin", "\x00\xff"), q)
			}
			if r, err := call("ECHO"); err != nil || string(r.GetPayload()) != "x" {
				t.Errorf("%s: %v, %v", target, r, err)
			}
			tag := "tag"
			r, err := call("WHO", func(q *meshv1.CallRequest) { q.TraceTag = tag })
			if target == "db@sdb" {
				tag = "(near-db@sdb-2)tag"
			}
			if want := fmt.Sprintf("%s [v] [\x00\xff] %s", who, tag); err != nil || string(r.GetPayload()) != want {
				t.Errorf("%s: %q, %v, want %q", target, r.GetPayload(), err, want)
			}
			if r, err := call("KEYS"); err != nil || string(r.GetPayload()) != "k k-bin" {
				t.Errorf("%s: headers %q, %v", target, r.GetPayload(), err)
			}
			var h, tr metadata.MD
			_, err = c.Call(ctx, &meshv1.CallRequest{Target: target, Method: "META"}, grpc.Header(&h), grpc.Trailer(&tr))
			if reason, _ := info(t, err); status.Code(err) != codes.DataLoss || reason != "" || !slices.Equal(h["h"], []string{"1"}) || h["x-bin"][0] != "\x00" || h["odd"] != nil || !slices.Equal(tr["t"], []string{"2"}) {
				t.Errorf("%s: %v (%s), headers %v, trailers %v", target, err, reason, h, tr)
			}
			short, cancel := context.WithTimeout(ctx, time.Second)
			_, err = c.Call(short, &meshv1.CallRequest{Target: target, Method: "UNTIL"})
			cancel()
			if status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("%s: %v", target, err)
			}
		}
	})
}

// Handle 0 answers a query, and a push is one when it stands in the line.
func TestUnaryQueryAndPush(t *testing.T) {
	forwarder(t, func(w *world, near, db *mesh.Mesh, c meshv1.ClusterServiceClient) {
		ctx := w.within(time.Minute)
		got := make(chan string, 10)
		h := func(_ context.Context, method string, payload []byte) ([]byte, error) {
			got <- method + string(payload)
			return nil, nil
		}
		for target, m := range map[string]*mesh.Mesh{"db": db, "": near} {
			s := w.register(m, "tell", h)
			query := encoded(t, &meshv1.QueryRequest{Name: "@tell"})
			r, err := c.Call(ctx, &meshv1.CallRequest{Target: target + ":0000000000000000", Method: "Query", Payload: query})
			var q meshv1.QueryResponse
			if err != nil || proto.Unmarshal(r.GetPayload(), &q) != nil || mesh.Handle(q.GetHandle()) != s.Handle() {
				t.Fatalf("%q: query: %v, %v", target, &q, err)
			}
			for _, to := range []string{"@tell", s.Handle().String()} {
				if r, err := c.Call(ctx, &meshv1.CallRequest{Target: target + to, Method: "M", Payload: []byte(to), Push: true}); err != nil || len(r.GetPayload()) != 0 {
					t.Errorf("%s%s: %v, %v", target, to, r, err)
				}
				if p := <-got; p != "M"+to {
					t.Errorf("%s%s: got %q", target, to, p)
				}
			}
		}
		_, err := c.Call(ctx, &meshv1.CallRequest{Target: "@nobody", Push: true})
		if reason, executed := info(t, err); reason != "NAME_NOT_FOUND" || executed != "no" {
			t.Errorf("a push to nobody here: %v", err)
		}
	})
}

// M23: what goes wrong is the status that a caller in the mesh sees, with its
// ErrorInfo.
func TestUnaryCallThatFails(t *testing.T) {
	forwarder(t, func(w *world, _, _ *mesh.Mesh, c meshv1.ClusterServiceClient) {
		for _, x := range []struct {
			q        *meshv1.CallRequest
			md       []string
			code     codes.Code
			reason   string
			executed string
		}{
			{q: &meshv1.CallRequest{}, code: codes.InvalidArgument, reason: "INVALID_TARGET", executed: "no"},
			{q: &meshv1.CallRequest{Target: "db"}, code: codes.InvalidArgument, reason: "INVALID_TARGET", executed: "no"},
			{q: &meshv1.CallRequest{Target: "@"}, code: codes.InvalidArgument, reason: "INVALID_TARGET", executed: "no"},
			{q: &meshv1.CallRequest{Target: "@a\n"}, code: codes.InvalidArgument, reason: "INVALID_TARGET", executed: "no"},
			{q: &meshv1.CallRequest{Target: ":12"}, code: codes.InvalidArgument, reason: "INVALID_TARGET", executed: "no"},
			{q: &meshv1.CallRequest{Target: "db@nobody"}, code: codes.NotFound, reason: "NAME_NOT_FOUND", executed: "no"},
			{q: &meshv1.CallRequest{Target: "@nobody"}, code: codes.NotFound, reason: "NAME_NOT_FOUND", executed: "no"},
			{q: &meshv1.CallRequest{Target: ":00000001000000ff"}, code: codes.FailedPrecondition, reason: "STALE_HANDLE", executed: "no"},
			{q: &meshv1.CallRequest{Target: "down@sdb"}, code: codes.Unavailable, reason: "DOWN", executed: "no"},
			{q: &meshv1.CallRequest{Target: "absent@sdb", NoWait: true}, code: codes.Unavailable, reason: "ABSENT", executed: "no"},
			{q: &meshv1.CallRequest{Target: "absent@sdb"}, code: codes.DeadlineExceeded},
			{q: &meshv1.CallRequest{Target: "db@sdb", Method: "?"}, code: codes.InvalidArgument},
			{q: &meshv1.CallRequest{Target: "@own", Method: strings.Repeat("m", 1025)}, code: codes.InvalidArgument, reason: "INVALID_REQUEST", executed: "no"},
			{q: &meshv1.CallRequest{Target: "db@sdb", Method: "BIG"}, code: codes.OutOfRange, reason: "REPLY_TOO_LARGE", executed: "yes"},
			{q: &meshv1.CallRequest{Target: "@own", Method: "BIG"}, code: codes.OutOfRange, reason: "REPLY_TOO_LARGE", executed: "yes"},
			{q: &meshv1.CallRequest{Target: "db@sdb", Method: "ECHO"}, md: []string{"mesh-hops", "7"}, code: codes.FailedPrecondition, reason: "LOOP", executed: "no"},
			{q: &meshv1.CallRequest{Target: "@own", Method: "ECHO"}, md: []string{"mesh-hops", "8"}, code: codes.FailedPrecondition, reason: "LOOP", executed: "no"},
			{q: &meshv1.CallRequest{Target: "db@sdb"}, md: []string{"mesh-hops", "-1"}, code: codes.InvalidArgument, reason: "INVALID_REQUEST", executed: "no"},
			{q: &meshv1.CallRequest{Target: "db@sdb"}, md: []string{"mesh-hops", "1", "mesh-hops", "2"}, code: codes.InvalidArgument, reason: "INVALID_REQUEST", executed: "no"},
			{q: &meshv1.CallRequest{Target: "db@sdb"}, md: []string{"mesh-to", "x@y"}, code: codes.InvalidArgument, reason: "INVALID_REQUEST", executed: "no"},
			{q: &meshv1.CallRequest{Target: "@own", Payload: make([]byte, 300<<10)}, code: codes.ResourceExhausted},
		} {
			ctx := metadata.AppendToOutgoingContext(w.within(time.Minute), x.md...)
			_, err := c.Call(ctx, x.q)
			reason, executed := info(t, err)
			if status.Code(err) != x.code || reason != x.reason || executed != x.executed {
				t.Errorf("%.60v %v: %v (%s, executed %q), want %s %s %q", x.q, x.md, err, reason, executed, x.code, x.reason, x.executed)
			}
		}
	})
}

// Passing on is off unless the process is told; its own services are open.
func TestUnaryCallsAreNotPassedOnUnlessTold(t *testing.T) {
	forwarder(t, func(w *world, _, _ *mesh.Mesh, c meshv1.ClusterServiceClient) {
		_, err := c.Call(w.within(time.Minute), &meshv1.CallRequest{Target: "db@sdb", Method: "ECHO"})
		if reason, executed := info(t, err); status.Code(err) != codes.PermissionDenied || reason != "NOT_PERMITTED" || executed != "no" {
			t.Errorf("%v", err)
		}
		if _, err := c.Call(w.within(time.Minute), &meshv1.CallRequest{Target: "@own", Method: "ECHO"}); err != nil {
			t.Error(err)
		}
	}, func(o *mesh.Options) { o.AllowForward = false })
}

// M56: so many unary calls at a time, and nodes that only strangers name.
func TestUnaryCallsAreBounded(t *testing.T) {
	forwarder(t, func(w *world, near, _ *mesh.Mesh, c meshv1.ClusterServiceClient) {
		ctx, cancel := context.WithCancel(context.Background())
		errs := make(chan error, 2)
		for _, target := range []string{"db@sdb", "@own"} {
			go func() {
				_, err := c.Call(ctx, &meshv1.CallRequest{Target: target, Method: "UNTIL"})
				errs <- err
			}()
		}
		synctest.Wait()
		_, err := c.Call(ctx, &meshv1.CallRequest{Target: "@own", Method: "ECHO"})
		if reason, executed := info(t, err); status.Code(err) != codes.ResourceExhausted || reason != "OVERLOADED" || executed != "no" {
			t.Errorf("%v", err)
		}
		cancel()
		for range 2 {
			if err := <-errs; status.Code(err) != codes.Canceled {
				t.Error(err)
			}
		}
		synctest.Wait()
		if s := near.Stats(); s.Running != 0 || s.ReplyBytes != 0 || s.InFlight != 0 {
			t.Errorf("%d running, %d bytes of replies, %d in flight", s.Running, s.ReplyBytes, s.InFlight)
		}
		for i := range 1100 {
			short, stop := context.WithTimeout(context.Background(), time.Millisecond)
			_, err := c.Call(short, &meshv1.CallRequest{Target: fmt.Sprintf("stranger-%d@sdb", i), Method: "M"})
			stop()
			if waits := i < 1024; waits != (status.Code(err) == codes.DeadlineExceeded) || !waits && status.Code(err) != codes.Unavailable {
				t.Fatalf("stranger %d: %v", i, err)
			}
		}
	}, func(o *mesh.Options) { o.Limits.UnaryCalls = 2 })
}

// M55: calls in flight when the process closes have their answers, or are told
// what is known of them when the drain time is over.
func TestUnaryCallsOfAClosingProcess(t *testing.T) {
	forwarder(t, func(w *world, near, _ *mesh.Mesh, c meshv1.ClusterServiceClient) {
		hold := make(chan struct{})
		w.register(near, "hold", func(context.Context, string, []byte) ([]byte, error) { <-hold; return []byte("late"), nil })
		type answer struct {
			target string
			r      *meshv1.CallResponse
			err    error
		}
		answers := make(chan answer, 3)
		for _, q := range []*meshv1.CallRequest{{Target: "@hold"}, {Target: "@own", Method: "UNTIL"}, {Target: "absent@sdb"}} {
			go func() {
				r, err := c.Call(w.within(time.Hour), q)
				answers <- answer{q.GetTarget(), r, err}
			}()
			synctest.Wait()
		}
		closed := make(chan error, 1)
		go func() { closed <- near.Close(context.Background()) }()
		time.Sleep(time.Second)
		if _, err := c.Call(w.within(time.Minute), &meshv1.CallRequest{Target: "@own", Method: "ECHO"}); status.Code(err) != codes.Unavailable {
			t.Errorf("a new call: %v", err)
		}
		close(hold)
		for range 3 {
			a := <-answers
			reason, executed := info(t, a.err)
			switch {
			case a.target == "@hold" && (a.err != nil || string(a.r.GetPayload()) != "late"):
				t.Errorf("%v, %v", a.r, a.err)
			case a.target == "@own" && (reason != "LINK_BROKEN" || executed != "maybe" || status.Code(a.err) != codes.Aborted):
				t.Errorf("%v (%s, %s)", a.err, reason, executed)
			case a.target == "absent@sdb" && (executed != "no" || status.Code(a.err) != codes.Unavailable):
				t.Errorf("%v (%s, %s)", a.err, reason, executed)
			}
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// A call to a name that a program serves goes the same way.
func TestUnaryCallToAProgram(t *testing.T) {
	served(t, func(w *world, _, _ *mesh.Mesh) {
		p := w.program(nil, "@model")
		c := meshv1.NewClusterServiceClient(w.rogueConn("db:1"))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		ask := func(method string) {
			go func() {
				r, err := c.Call(ctx, &meshv1.CallRequest{Target: "@model", Method: method})
				if err == nil && string(r.GetPayload()) != "yes" {
					err = errors.New(string(r.GetPayload()))
				}
				done <- err
			}()
		}
		ask("M")
		s, _ := p.asked("M")
		p.say(rogueReply(s, []byte("yes")))
		if err := <-done; err != nil {
			t.Error(err)
		}
		ask("CANCELLED")
		s, _ = p.asked("CANCELLED")
		cancel()
		if err := <-done; status.Code(err) != codes.Canceled {
			t.Error(err)
		}
		if f := p.hear(); f.GetCancel() == nil || f.GetSession() != s {
			t.Errorf("got %v", f)
		}
		p.say(rogueReply(s, []byte("late")))
	})
}

// quotes is a schema whose JSON is the payload in quotes.
type quotes struct{}

// Request takes the quotes off.
func (quotes) Request(json string) ([]byte, error) {
	if len(json) < 2 {
		return nil, errors.New("no quotes")
	}
	return []byte(json[1 : len(json)-1]), nil
}

// Reply puts them on.
func (quotes) Reply(p []byte) (string, error) {
	if string(p) == "bad" {
		return "", errors.New("bad bytes")
	}
	return `"` + string(p) + `"`, nil
}

// JSON goes in and comes out where the process finds the schema of the method,
// by asking the target.
func TestUnaryCallWithJSON(t *testing.T) {
	var asked []string
	schema := func(_ context.Context, target grpc.ClientConnInterface, method string) (mesh.Transcoder, error) {
		asked = append(asked, fmt.Sprint(target != nil, " ", method))
		if method == "/s.S/None" {
			return nil, errors.New("no such method")
		}
		return quotes{}, nil
	}
	forwarder(t, func(w *world, near, db *mesh.Mesh, c meshv1.ClusterServiceClient) {
		for _, m := range []*mesh.Mesh{near, db} {
			w.register(m, "json", func(_ context.Context, method string, p []byte) ([]byte, error) { return p, nil })
		}
		for target, want := range map[string]string{"db@json": "true /s.S/M", "@json": "false /s.S/M"} {
			asked = nil
			q := &meshv1.CallRequest{Target: target, Method: "/s.S/M", Json: `"a"`}
			if r, err := c.Call(w.within(time.Minute), q); err != nil || r.GetJson() != `"a"` || r.GetPayload() != nil || !slices.Equal(asked, []string{want}) {
				t.Errorf("%s: %v, %v, asked %q", target, r, err, asked)
			}
			for what, bad := range map[string]*meshv1.CallRequest{
				"both":          {Method: "/s.S/M", Json: `"a"`, Payload: []byte("b")},
				"not a method":  {Method: "M", Json: `"a"`},
				"no quotes":     {Method: "/s.S/M", Json: `a`},
				"no such":       {Method: "/s.S/None", Json: `"a"`},
				"a bad reply":   {Method: "/s.S/M", Json: `"bad"`},
				"not a method/": {Method: "/s.S/", Json: `"a"`},
			} {
				bad.Target = target
				_, err := c.Call(w.within(time.Minute), bad)
				reason, executed := info(t, err)
				if ran := what == "a bad reply"; status.Code(err) != codes.InvalidArgument || reason != "INVALID_REQUEST" || ran != (executed == "yes") {
					t.Errorf("%s, %s: %v (%s, %s)", target, what, err, reason, executed)
				}
			}
			r, err := c.Call(w.within(time.Minute), &meshv1.CallRequest{Target: target, Method: "/s.S/M", Json: `"a"`, Push: true})
			if err != nil || r.GetJson() != "" {
				t.Errorf("push: %v, %v", r, err)
			}
		}
	}, func(o *mesh.Options) { o.Schema = schema })
	forwarder(t, func(w *world, _, _ *mesh.Mesh, c meshv1.ClusterServiceClient) {
		_, err := c.Call(w.within(time.Minute), &meshv1.CallRequest{Target: "db@sdb", Method: "/s.S/M", Json: `"a"`})
		if reason, _ := info(t, err); reason != "INVALID_REQUEST" || !strings.Contains(err.Error(), "schemas") {
			t.Error(err)
		}
	})
}
