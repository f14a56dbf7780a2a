package gateway_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/pkg/gateway"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// database tells what it was asked, and answers with headers and trailers.
type database struct {
	simpledbv1.UnimplementedSimpleDBServiceServer
	seen  metadata.MD
	due   time.Duration // left of the deadline
	trace mesh.Trace
	pings []string
	ended chan error // why a SLOW get ended
}

func (d *database) Get(ctx context.Context, q *simpledbv1.GetRequest) (*simpledbv1.GetResponse, error) {
	d.seen, _ = metadata.FromIncomingContext(ctx)
	d.trace = mesh.TraceFrom(ctx)
	if due, ok := ctx.Deadline(); ok {
		d.due = time.Until(due)
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs("head", "h", "head-bin", "\x00\xff"))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("tail", "t"))
	switch key := q.GetKey(); key {
	case "SLOW":
		<-ctx.Done()
		d.ended <- ctx.Err()
		return nil, ctx.Err()
	case "NONE":
		st, err := status.New(codes.NotFound, "no such key").WithDetails(&errdetails.ResourceInfo{ResourceName: key})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	default:
		value := "value of " + key
		return &simpledbv1.GetResponse{Value: &value}, nil
	}
}

func (d *database) Ping(_ context.Context, q *simpledbv1.PingRequest) (*simpledbv1.PingResponse, error) {
	d.pings = append(d.pings, q.GetText())
	return &simpledbv1.PingResponse{}, nil
}

// withDatabase runs f with a client of a gateway, behind which is db@sdb.
func withDatabase(t *testing.T, o gateway.Options, f func(w *world, db *database, stub simpledbv1.SimpleDBServiceClient, cc *grpc.ClientConn)) {
	t.Helper()
	inWorld(t, func(w *world) {
		table := mesh.Table{"db": "db:1", "gone": "gone:1", "down": false}
		server, db := w.process("server", table), &database{ended: make(chan error, 1)}
		s := server.NewService(nil)
		simpledbv1.RegisterSimpleDBServiceServer(s, db)
		if err := server.Register("sdb", s); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Open("db"); err != nil {
			t.Fatal(err)
		}
		w.gateway(w.process("gate", table), "gate:1", o)
		cc := w.channel("gate:1")
		f(w, db, simpledbv1.NewSimpleDBServiceClient(cc), cc)
	})
}

// infoOf is the mesh's ErrorInfo in an error, or nil.
func infoOf(err error) *errdetails.ErrorInfo {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == "mesh" {
			return info
		}
	}
	return nil
}

// An ordinary stub with one line of metadata calls a service of the mesh: reply,
// headers, trailers, deadline and metadata pass; the gateway's own go no further.
func TestStubThroughTheGateway(t *testing.T) {
	withDatabase(t, gateway.Options{}, func(w *world, db *database, stub simpledbv1.SimpleDBServiceClient, _ *grpc.ClientConn) {
		for range 2 { // the second time the kind of the method is known
			var head, tail metadata.MD
			ctx := w.within(5*time.Second, "mesh-to", "db@sdb", "mesh-trace", "tag", "ask", "x", "ask", "y", "raw-bin", "\x00\x01")
			r, err := stub.Get(ctx, &simpledbv1.GetRequest{Key: "a"}, grpc.Header(&head), grpc.Trailer(&tail))
			if err != nil || r.GetValue() != "value of a" {
				t.Fatalf("get: %v, %v", r, err)
			}
			if got := head.Get("head-bin"); len(got) != 1 || got[0] != "\x00\xff" || len(head.Get("head")) != 1 || len(tail.Get("tail")) != 1 {
				t.Errorf("header %v, trailer %v", head, tail)
			}
			if got := strings.Join(db.seen.Get("ask"), "+"); got != "x+y" || db.seen.Get("raw-bin")[0] != "\x00\x01" {
				t.Errorf("metadata at the handler: %v", db.seen)
			}
			if db.due <= 4*time.Second || db.due > 5*time.Second {
				t.Errorf("the handler had %v left", db.due)
			}
			if db.trace.Tag != "(gate-db@sdb-1)tag" && db.trace.Tag != "(gate-db@sdb-2)tag" {
				t.Errorf("trace %q", db.trace.Tag)
			}
		}
		for key := range db.seen {
			if strings.HasPrefix(key, "mesh-") || key == "user-agent" || key == "content-type" {
				t.Errorf("%s reached the handler: %v", key, db.seen)
			}
		}
	})
}

// A status that the handler made passes with its details, and is none of the
// mesh's; headers and trailers of a failure pass too.
func TestStatusThroughTheGateway(t *testing.T) {
	withDatabase(t, gateway.Options{}, func(w *world, _ *database, stub simpledbv1.SimpleDBServiceClient, _ *grpc.ClientConn) {
		var tail metadata.MD
		_, err := stub.Get(w.within(time.Second, "mesh-to", "db@sdb"), &simpledbv1.GetRequest{Key: "NONE"}, grpc.Trailer(&tail))
		st := status.Convert(err)
		if st.Code() != codes.NotFound || st.Message() != "no such key" || infoOf(err) != nil || len(st.Details()) != 1 {
			t.Fatalf("%v, details %v", err, st.Details())
		}
		if info, ok := st.Details()[0].(*errdetails.ResourceInfo); !ok || info.GetResourceName() != "NONE" || len(tail.Get("tail")) != 1 {
			t.Errorf("details %v, trailer %v", st.Details(), tail)
		}
	})
}

// A client that cancels, and one whose deadline is over, end the handler.
func TestCancelAndDeadlineThroughTheGateway(t *testing.T) {
	withDatabase(t, gateway.Options{}, func(w *world, db *database, stub simpledbv1.SimpleDBServiceClient, _ *grpc.ClientConn) {
		ctx, cancel := context.WithCancel(w.within(time.Hour, "mesh-to", "db@sdb"))
		time.AfterFunc(time.Second, cancel)
		if _, err := stub.Get(ctx, &simpledbv1.GetRequest{Key: "SLOW"}); status.Code(err) != codes.Canceled {
			t.Errorf("cancelled: %v", err)
		}
		if err := <-db.ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the handler ended with %v", err)
		}
		if _, err := stub.Get(w.within(time.Second, "mesh-to", "db@sdb"), &simpledbv1.GetRequest{Key: "SLOW"}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("too late: %v", err)
		}
		<-db.ended
	})
}

// mesh-post makes a call one-way: the empty reply comes while the handler has
// not run; what is wrong with sending is told.
func TestPostThroughTheGateway(t *testing.T) {
	withDatabase(t, gateway.Options{}, func(w *world, db *database, stub simpledbv1.SimpleDBServiceClient, _ *grpc.ClientConn) {
		if _, err := stub.Ping(w.within(time.Second, "mesh-to", "db@sdb", "mesh-post", "1"), &simpledbv1.PingRequest{Text: "hello"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(db.pings) != 1 || db.pings[0] != "hello" {
			t.Errorf("the handler saw %v", db.pings)
		}
		_, err := stub.Ping(w.within(time.Second, "mesh-to", "down@sdb", "mesh-post", "true"), &simpledbv1.PingRequest{})
		if status.Code(err) != codes.Unavailable || infoOf(err).GetReason() != "DOWN" {
			t.Errorf("to a node that is down: %v", err)
		}
	})
}

// A route makes mesh-to unnecessary; mesh-to wins over it.
func TestRoutes(t *testing.T) {
	routes := map[string]string{"simpledb.v1.SimpleDBService": "db@sdb"}
	withDatabase(t, gateway.Options{Routes: routes}, func(w *world, _ *database, stub simpledbv1.SimpleDBServiceClient, _ *grpc.ClientConn) {
		if r, err := stub.Get(w.within(time.Second), &simpledbv1.GetRequest{Key: "a"}); err != nil || r.GetValue() != "value of a" {
			t.Errorf("by route: %v, %v", r, err)
		}
		if _, err := stub.Get(w.within(time.Second, "mesh-to", "db@other"), &simpledbv1.GetRequest{}); status.Code(err) != codes.NotFound {
			t.Errorf("by mesh-to: %v", err)
		}
	})
}

// Routes that cannot be right are told at once, all of them.
func TestWrongRoutes(t *testing.T) {
	inWorld(t, func(w *world) {
		_, err := gateway.Listen(w.process("gate", nil), "gate:1", gateway.Options{Routes: map[string]string{"a.B": "db", "": "db@sdb", "c.D/Get": "db@sdb"}})
		if err == nil || !errors.Is(err, mesh.ErrInvalidTarget) || strings.Count(err.Error(), "route") < 3 {
			t.Errorf("%v", err)
		}
	})
}

// Calls without a target find the gateway's own health; with one, the target's.
func TestHealthOfTheGateway(t *testing.T) {
	withDatabase(t, gateway.Options{}, func(w *world, _ *database, _ simpledbv1.SimpleDBServiceClient, cc *grpc.ClientConn) {
		health := healthpb.NewHealthClient(cc)
		if r, err := health.Check(w.within(time.Second), &healthpb.HealthCheckRequest{}); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("check: %v, %v", r, err)
		}
		watch, err := health.Watch(w.within(time.Second), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := watch.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("watch: %v, %v", r, err)
		}
		if _, err := health.Check(w.within(time.Second, "mesh-to", "db@sdb"), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unimplemented || infoOf(err) == nil {
			t.Errorf("the target's: %v", err)
		}
		if err := cc.Invoke(w.within(time.Second), "/grpc.health.v1.Health/Nothing", &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{}); infoOf(err).GetReason() != "INVALID_TARGET" {
			t.Errorf("no such method: %v", err)
		}
	})
}

// A client that compresses is understood.
func TestCompressedCalls(t *testing.T) {
	withDatabase(t, gateway.Options{}, func(w *world, _ *database, stub simpledbv1.SimpleDBServiceClient, _ *grpc.ClientConn) {
		key := strings.Repeat("k", 100<<10)
		r, err := stub.Get(w.within(time.Second, "mesh-to", "db@sdb"), &simpledbv1.GetRequest{Key: key}, grpc.UseCompressor(gzip.Name))
		if err != nil || r.GetValue() != "value of "+key {
			t.Errorf("%d bytes, %v", len(r.GetValue()), err)
		}
	})
}
