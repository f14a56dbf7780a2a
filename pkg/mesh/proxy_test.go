package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pingserverv1 "github.com/meshnode/meshnode/examples/proto/pingserver/v1"
	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// stubDB is the example database behind a generated service.
type stubDB struct {
	simpledbv1.UnimplementedSimpleDBServiceServer
	mu    sync.Mutex
	data  map[string]string
	pings []string
}

func (d *stubDB) Get(ctx context.Context, q *simpledbv1.GetRequest) (*simpledbv1.GetResponse, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	_ = grpc.SetHeader(ctx, metadata.Pairs("head", strings.Join(in.Get("ask"), "+"), "raw-bin", "\x00\xff"))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("tail", q.GetKey()))
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.data[q.GetKey()]
	if !ok {
		st, err := status.New(codes.NotFound, "no such key").WithDetails(&errdetails.ResourceInfo{ResourceName: q.GetKey()})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	return &simpledbv1.GetResponse{Value: &v}, nil
}

func (d *stubDB) Set(_ context.Context, q *simpledbv1.SetRequest) (*simpledbv1.SetResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last, ok := d.data[q.GetKey()]
	d.data[q.GetKey()] = q.GetValue()
	if !ok {
		return &simpledbv1.SetResponse{}, nil
	}
	return &simpledbv1.SetResponse{Last: &last}, nil
}

func (d *stubDB) Ping(_ context.Context, q *simpledbv1.PingRequest) (*simpledbv1.PingResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pings = append(d.pings, q.GetText())
	if q.GetText() == "fail" {
		return nil, errors.New("the handler of a push failed")
	}
	return &simpledbv1.PingResponse{}, nil
}

// withStubs runs f with a process that has the database as db@sdb, and a client.
func withStubs(t *testing.T, f func(w *world, server, client *mesh.Mesh, db *stubDB)) {
	t.Helper()
	inWorld(t, func(w *world) {
		server, client, db := w.process("server"), w.process("client"), &stubDB{data: make(map[string]string)}
		w.open(server, "db:1")
		simpledbv1.RegisterSimpleDBServiceServer(w.register(server, "sdb", nil), db)
		w.reload(client, mesh.Table{"db": "db:1"})
		f(w, server, client, db)
	})
}

// M51: unmodified generated stubs over a proxy reach an unmodified generated
// service, with values, errors, codes and details.
func TestStubsOverAProxy(t *testing.T) {
	withStubs(t, func(w *world, _, client *mesh.Mesh, _ *stubDB) {
		db, ctx := simpledbv1.NewSimpleDBServiceClient(client.Proxy("db@sdb")), w.within(time.Second)
		if r, err := db.Set(ctx, &simpledbv1.SetRequest{Key: "a", Value: "1"}); err != nil || r.Last != nil {
			t.Errorf("set: %v, %v", r, err)
		}
		if r, err := db.Set(ctx, &simpledbv1.SetRequest{Key: "a", Value: strings.Repeat("2", 100<<10)}); err != nil || r.GetLast() != "1" {
			t.Errorf("set again: %v, %v", r, err)
		}
		if r, err := db.Get(ctx, &simpledbv1.GetRequest{Key: "a"}); err != nil || len(r.GetValue()) != 100<<10 {
			t.Errorf("get: %d bytes, %v", len(r.GetValue()), err)
		}
		r, err := db.Get(ctx, &simpledbv1.GetRequest{Key: "b"})
		st := status.Convert(err)
		if r != nil || st.Code() != codes.NotFound || st.Message() != "no such key" || mesh.VerdictOf(err) != mesh.HandlerFailed || len(st.Details()) == 0 {
			t.Fatalf("get of nothing: %v, %v", r, err)
		}
		if info, ok := st.Details()[0].(*errdetails.ResourceInfo); !ok || info.GetResourceName() != "b" {
			t.Errorf("details: %v", st.Details())
		}
		_, err = pingserverv1.NewPingServerServiceClient(client.Proxy("db@sdb")).Ping(ctx, &pingserverv1.PingRequest{})
		if status.Code(err) != codes.Unimplemented || mesh.VerdictOf(err) != mesh.Rejected || !errors.Is(err, mesh.ErrUnknownMethod) {
			t.Errorf("another service: %v", err)
		}
	})
}

// M51, M59: grpc.Header and grpc.Trailer receive what the handler has set, of a
// reply and of a failure, as gRPC does.
func TestHeadersAndTrailersOfStubs(t *testing.T) {
	withStubs(t, func(w *world, _, client *mesh.Mesh, db *stubDB) {
		db.data["a"] = "1"
		stub := simpledbv1.NewSimpleDBServiceClient(client.Proxy("db@sdb"))
		for _, key := range []string{"a", "none"} {
			ctx := metadata.AppendToOutgoingContext(w.within(time.Second), "Ask", "x", "ask", "y")
			var head, tail metadata.MD
			_, err := stub.Get(ctx, &simpledbv1.GetRequest{Key: key}, grpc.Header(&head), grpc.Trailer(&tail), mesh.Headers(metadata.Pairs("ask", "z")))
			if (err == nil) != (key == "a") {
				t.Errorf("%s: %v", key, err)
			}
			if got := head.Get("head"); len(got) != 1 || len(got[0]) != 5 || got[0][4] != 'z' || head.Get("raw-bin")[0] != "\x00\xff" {
				t.Errorf("%s: header %v", key, head)
			}
			if got := tail.Get("tail"); len(got) != 1 || got[0] != key {
				t.Errorf("%s: trailer %v", key, tail)
			}
		}
	})
}

// M51, M29: with the option Post a stub is one-way: its reply stays as it is, its
// error is Send's, and what the handler returns stays at the callee.
func TestPostIsOneWay(t *testing.T) {
	withStubs(t, func(w *world, server, client *mesh.Mesh, db *stubDB) {
		stub := simpledbv1.NewSimpleDBServiceClient(client.Proxy("db@sdb"))
		for _, text := range []string{"one", "fail", "two"} {
			if _, err := stub.Ping(w.within(time.Second), &simpledbv1.PingRequest{Text: text}, mesh.Post); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
		synctest.Wait()
		if got := strings.Join(db.pings, " "); len(db.pings) != 3 || server.Stats().PushErrors != 1 {
			t.Errorf("the handler saw %q, %d push errors", got, server.Stats().PushErrors)
		}
		reply := &simpledbv1.SetResponse{Last: new(string)}
		*reply.Last = "as it was"
		err := client.Proxy("db@sdb").Invoke(w.within(time.Second), simpledbv1.SimpleDBService_Set_FullMethodName, &simpledbv1.SetRequest{Key: "k"}, reply, mesh.Post)
		if err != nil || reply.GetLast() != "as it was" {
			t.Errorf("the reply became %v, %v", reply, err)
		}
		_, err = simpledbv1.NewSimpleDBServiceClient(client.Proxy("nowhere@sdb")).Ping(w.within(time.Second), &simpledbv1.PingRequest{}, mesh.Post, mesh.NoWait)
		if !errors.Is(err, mesh.ErrAbsent) || mesh.VerdictOf(err) != mesh.NotSent || status.Code(err) != codes.Unavailable {
			t.Errorf("to an absent node: %v", err)
		}
		if s := client.Stats(); s.InFlight != 0 || s.Dials != 1 {
			t.Errorf("%d in flight, %d dials", s.InFlight, s.Dials)
		}
	})
}

// M51, M23: a stream to a node that does not know streams is not sent, and a call
// of a streaming method is refused; unary methods go on beside.
func TestStreamsAreRefused(t *testing.T) {
	withStubs(t, func(w *world, server, client *mesh.Mesh, _ *stubDB) {
		s := w.register(server, "stream", nil)
		meshv1.RegisterClusterServiceServer(s, meshv1.UnimplementedClusterServiceServer{})
		simpledbv1.RegisterSimpleDBServiceServer(s, &stubDB{data: map[string]string{}})
		w.listenPuppet("127.0.0.1:77", func(p *puppet) { // it says no feature
			for p.next() != nil {
			}
		})
		w.reload(client, mesh.Table{"old": "127.0.0.1:77"})
		for range 2 { // without a link, and with one
			link, err := meshv1.NewClusterServiceClient(client.Proxy("old@stream")).Link(w.within(time.Second))
			if err == nil {
				_, err = link.Recv()
			}
			if status.Code(err) != codes.Unimplemented || mesh.VerdictOf(err) != mesh.NotSent || !errors.Is(err, mesh.ErrNoStreams) {
				t.Errorf("to an old node: %v", err)
			}
		}
		_, err := client.Call(w.within(time.Second), "db@stream", meshv1.ClusterService_Link_FullMethodName, nil)
		if status.Code(err) != codes.Unimplemented || mesh.VerdictOf(err) != mesh.Rejected || !strings.Contains(err.Error(), "stream") {
			t.Errorf("a call: %v", err)
		}
		if _, err := simpledbv1.NewSimpleDBServiceClient(client.Proxy("db@stream")).Set(w.within(time.Second), &simpledbv1.SetRequest{}); err != nil {
			t.Errorf("the unary method beside it: %v", err)
		}
	})
}

// M51: bytes that are no message of the method are an error of one call, there
// and here; services registered twice are a mistake that is told at once.
func TestStubsAndWrongBytes(t *testing.T) {
	withStubs(t, func(w *world, server, client *mesh.Mesh, _ *stubDB) {
		_, err := client.Call(w.within(time.Second), "db@sdb", simpledbv1.SimpleDBService_Get_FullMethodName, []byte{0xff})
		if status.Code(err) != codes.InvalidArgument || mesh.VerdictOf(err) != mesh.Rejected || !errors.Is(err, mesh.ErrInvalidRequest) {
			t.Errorf("a wrong request: %v", err)
		}
		w.register(server, "raw", func(context.Context, string, []byte) ([]byte, error) { return []byte{0xff}, nil })
		_, err = simpledbv1.NewSimpleDBServiceClient(client.Proxy("db@raw")).Get(w.within(time.Second), &simpledbv1.GetRequest{})
		if mesh.VerdictOf(err) != mesh.HandlerFailed || !errors.Is(err, mesh.ErrInvalidRequest) {
			t.Errorf("a wrong reply: %v", err)
		}
		if err := client.Proxy("db@sdb").Invoke(w.within(time.Second), "/x", "no message", nil); mesh.VerdictOf(err) != mesh.NotSent || !errors.Is(err, mesh.ErrInvalidRequest) {
			t.Errorf("no message: %v", err)
		}
		s := server.NewService(echo)
		simpledbv1.RegisterSimpleDBServiceServer(s, &stubDB{})
		defer func() {
			if p := fmt.Sprint(recover()); !strings.Contains(p, "registered already") {
				t.Errorf("registered twice: %s", p)
			}
		}()
		simpledbv1.RegisterSimpleDBServiceServer(s, &stubDB{})
	})
}

// M51: a service may have a plain handler beside generated methods.
func TestStubsBesideAHandler(t *testing.T) {
	withStubs(t, func(w *world, server, client *mesh.Mesh, _ *stubDB) {
		s := w.register(server, "both", tell("plain"))
		simpledbv1.RegisterSimpleDBServiceServer(s, &stubDB{data: map[string]string{"a": "stub"}})
		p := client.Proxy("db@both")
		if r, err := simpledbv1.NewSimpleDBServiceClient(p).Get(w.within(time.Second), &simpledbv1.GetRequest{Key: "a"}); err != nil || r.GetValue() != "stub" {
			t.Errorf("stub: %v, %v", r, err)
		}
		if got, err := p.Call(w.within(time.Second), "GET", nil); err != nil || string(got) != "plain" {
			t.Errorf("plain: %q, %v", got, err)
		}
	})
}

// M50, M18: one proxy serves many goroutines, from before its node exists, over
// down, up and a restart.
func TestOneProxyForEverything(t *testing.T) {
	inWorld(t, func(w *world) {
		client := w.process("client")
		p := client.Proxy("db@sdb")
		let, ran := make(chan struct{}), 0
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				want := fmt.Sprint(i)
				if got, err := p.Call(w.within(time.Hour), "M", []byte(want)); err != nil || string(got) != want {
					t.Errorf("call %d: %q, %v", i, got, err)
				}
			})
		}
		wg.Go(func() {
			if err := p.Send(w.within(time.Hour), "PUSH", nil); err != nil {
				t.Error(err)
			}
		})
		m := w.serve("server", "db:1", "sdb", func(_ context.Context, method string, payload []byte) ([]byte, error) {
			if method == "PUSH" {
				ran++
				close(let)
			}
			return payload, nil
		})
		synctest.Wait()
		w.reload(client, mesh.Table{"db": "db:1"})
		wg.Wait()
		<-let
		w.reload(client, mesh.Table{"db": false})
		if _, err := p.Call(w.within(time.Second), "M", nil); !errors.Is(err, mesh.ErrDown) {
			t.Errorf("down: %v", err)
		}
		w.reload(client, mesh.Table{"db": "db:1"})
		if _, err := p.Call(w.within(time.Second), "M", nil); err != nil {
			t.Errorf("up again: %v", err)
		}
		if err := m.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.serve("server", "db:1", "sdb", echo)
		if _, err := p.Call(w.within(time.Minute), "M", nil); err != nil {
			t.Errorf("restarted: %v", err)
		}
	})
}

// The bounds that gRPC's call options set: the request is refused before it is
// sent, the reply after it came.
func TestSizeOptionsOfCalls(t *testing.T) {
	inWorld(t, func(w *world) {
		ran := 0
		w.serve("server", "db:1", "sdb", func(_ context.Context, _ string, payload []byte) ([]byte, error) { ran++; return payload, nil })
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1"})
		p := client.Proxy("db@sdb")
		if _, err := p.Call(w.within(time.Second), "M", make([]byte, 10), grpc.MaxCallSendMsgSize(10), grpc.MaxCallRecvMsgSize(10)); err != nil {
			t.Errorf("at the bounds: %v", err)
		}
		_, err := p.Call(w.within(time.Second), "M", make([]byte, 11), grpc.MaxCallSendMsgSize(10))
		if mesh.VerdictOf(err) != mesh.NotSent || !errors.Is(err, mesh.ErrTooLarge) || status.Code(err) != codes.ResourceExhausted || ran != 1 {
			t.Errorf("the request: %v, ran %d times", err, ran)
		}
		_, err = p.Call(w.within(time.Second), "M", make([]byte, 11), grpc.MaxCallRecvMsgSize(10))
		if mesh.VerdictOf(err) != mesh.HandlerFailed || !errors.Is(err, mesh.ErrReplyTooLarge) || status.Code(err) != codes.OutOfRange || ran != 2 {
			t.Errorf("the reply: %v, ran %d times", err, ran)
		}
	})
}
