package gateway_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/examples/echo"
	echov1 "github.com/meshnode/meshnode/examples/proto/echo/v1"
	"github.com/meshnode/meshnode/pkg/gateway"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// ordinary starts a gRPC server that knows nothing of the mesh. What it returns
// ends it.
func (w *world) ordinary(addr string, h *health.Server) (stop func()) {
	w.Helper()
	lis, err := w.Listen(addr)
	if err != nil {
		w.Fatal(err)
	}
	srv := grpc.NewServer()
	echov1.RegisterEchoServiceServer(srv, new(echo.Server))
	if h != nil {
		healthpb.RegisterHealthServer(srv, h)
	}
	over := make(chan struct{})
	go func() { _ = srv.Serve(lis); close(over) }()
	stop = func() { srv.Stop(); <-over }
	w.ends = append(w.ends, stop)
	return stop
}

// host offers model:1 as ml@model, and returns a client's mesh.
func (w *world) host(o gateway.HostOptions) (client *mesh.Mesh) {
	w.Helper()
	table := mesh.Table{"ml": "ml:1"}
	m := w.process("host", table)
	h, err := gateway.Host(m, "model", "model:1", o)
	if err != nil {
		w.Fatal(err)
	}
	w.ends = append(w.ends, func() { _ = h.Close() })
	if _, err := m.Open("ml"); err != nil {
		w.Fatal(err)
	}
	return w.process("client", table)
}

// An ordinary gRPC server answers as a service of the mesh, every kind of
// method: to a stub over a proxy, and to one through a gateway.
func TestHostedServer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.ordinary("model:1", nil)
		client := w.host(gateway.HostOptions{})
		synctest.Wait()
		if _, err := client.Query(w.within(time.Second), "ml@model"); err != nil {
			t.Errorf("it is not offered: %v", err)
		}
		w.gateway(client, "gate:1", gateway.Options{})
		for range 2 {
			checkStreams(w, echov1.NewEchoServiceClient(client.Proxy("ml@model")))
			checkStreams(w, echov1.NewEchoServiceClient(w.channel("gate:1")), "mesh-to", "ml@model")
		}
		_, err := client.Call(w.within(time.Second), "ml@model", "GET", nil)
		if !errors.Is(err, mesh.ErrUnknownMethod) || mesh.VerdictOf(err) != mesh.Rejected {
			t.Errorf("a plain method: %v", err)
		}
		_, err = client.Call(w.within(time.Second), "ml@model", "/no.Such/Method", nil)
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("a method that the server does not have: %v", err)
		}
	})
}

// Its health decides whether the name is offered; while it is away calls are
// rejected with the reason, and those that ask for it wait.
func TestHealthDecidesWhetherANameIsOffered(t *testing.T) {
	inWorld(t, func(w *world) {
		h := health.NewServer()
		stop := w.ordinary("model:1", h)
		client := w.host(gateway.HostOptions{Waiting: 2})
		synctest.Wait()
		stub := echov1.NewEchoServiceClient(client.Proxy("ml@model"))
		offered := func(what string, want bool) {
			t.Helper()
			synctest.Wait()
			_, err := client.Query(w.within(time.Second), "ml@model")
			if (err == nil) != want || err != nil && !errors.Is(err, mesh.ErrNameNotFound) {
				t.Errorf("%s: query says %v", what, err)
			}
			names, err := client.Names(w.within(time.Second), "ml")
			if err != nil || (len(names) == 1) != want {
				t.Errorf("%s: names %v, %v", what, names, err)
			}
		}
		away := func(what, why string) {
			t.Helper()
			offered(what, false)
			_, err := stub.Say(w.within(time.Second), &echov1.SayRequest{})
			if mesh.VerdictOf(err) != mesh.Rejected || status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), why) {
				t.Errorf("%s: %v", what, err)
			}
		}
		offered("serving", true)
		h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
		away("not serving", "NOT_SERVING")
		answers := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := stub.Say(w.within(time.Minute), &echov1.SayRequest{}, mesh.WaitUp)
				answers <- err
			}()
		}
		synctest.Wait()
		_, err := stub.Say(w.within(time.Second), &echov1.SayRequest{}, mesh.WaitUp)
		if !errors.Is(err, mesh.ErrOverloaded) {
			t.Errorf("one more that waits: %v", err)
		}
		time.Sleep(10 * time.Second)
		h.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
		for range 2 {
			if err := <-answers; err != nil {
				t.Errorf("one that waited: %v", err)
			}
		}
		offered("serving again", true)
		stop()
		time.Sleep(time.Second)
		away("stopped", "refused")
		_, err = stub.Say(w.within(time.Second), &echov1.SayRequest{}, mesh.WaitUp)
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("waiting in vain: %v", err)
		}
		w.ordinary("model:1", nil)
		time.Sleep(5 * time.Second)
		offered("back, without a health service", true)
	})
}

// A server that goes with a call in flight: the call may have run, and its error
// is none of those that invite a retry.
func TestHostedServerThatGoes(t *testing.T) {
	inWorld(t, func(w *world) {
		stop := w.ordinary("model:1", nil)
		client := w.host(gateway.HostOptions{})
		synctest.Wait()
		talk, err := echov1.NewEchoServiceClient(client.Proxy("ml@model")).Talk(w.within(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if err := talk.Send(&echov1.TalkRequest{Text: "a"}); err != nil {
			t.Fatal(err)
		}
		if _, err := talk.Recv(); err != nil {
			t.Fatal(err)
		}
		stop()
		_, err = talk.Recv()
		if mesh.VerdictOf(err) != mesh.MaybeExecuted || status.Code(err) != codes.Aborted {
			t.Errorf("%v, %v", mesh.VerdictOf(err), err)
		}
	})
}

// A call that goes in a circle, from gateway to host to gateway, ends.
func TestLoopThroughPlainGRPC(t *testing.T) {
	inWorld(t, func(w *world) {
		client := w.host(gateway.HostOptions{}) // model:1 is the gateway itself
		w.gateway(client, "model:1", gateway.Options{Routes: map[string]string{"echo.v1.EchoService": "ml@model"}})
		time.Sleep(5 * time.Second)
		_, err := echov1.NewEchoServiceClient(w.channel("model:1")).Say(w.within(time.Second), &echov1.SayRequest{})
		if info := infoOf(err); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "loop") {
			t.Errorf("%v, %v", err, info)
		}
	})
}

// What a Host says to its server is the caller's metadata and the hops.
func TestMetadataOfAHostedServer(t *testing.T) {
	inWorld(t, func(w *world) {
		lis, err := w.Listen("model:1")
		if err != nil {
			t.Fatal(err)
		}
		seen := make(chan metadata.MD, 1)
		srv := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			seen <- md
			return &echov1.SayResponse{}, nil
		}))
		echov1.RegisterEchoServiceServer(srv, new(echo.Server))
		go func() { _ = srv.Serve(lis) }()
		w.ends = append(w.ends, srv.Stop)
		client := w.host(gateway.HostOptions{})
		synctest.Wait()
		_, err = echov1.NewEchoServiceClient(client.Proxy("ml@model")).Say(w.within(time.Second, "ask", "x"), &echov1.SayRequest{}, mesh.WaitUp)
		md := <-seen
		if err != nil || len(md.Get("ask")) != 1 || len(md.Get("mesh-waitup")) != 0 || len(md.Get("mesh-hops")) != 1 {
			t.Errorf("%v, %v", md, err)
		}
	})
}

// Hosts that cannot be.
func TestWrongHosts(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("host", nil, func(o *mesh.Options) { o.Insecure = false })
		for _, c := range [][3]string{
			{"model", "10.0.0.1:1", "plaintext"}, {"model", "nowhere", "port"}, {"", "127.0.0.1:1", "name"}, {"a\x00b", "127.0.0.1:1", "name"},
		} {
			if _, err := gateway.Host(m, c[0], c[1], gateway.HostOptions{}); err == nil || !strings.Contains(err.Error(), c[2]) {
				t.Errorf("%q: %v", c, err)
			}
		}
		h, err := gateway.Host(m, "model", "127.0.0.1:1", gateway.HostOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = h.Close() }()
		if _, err := gateway.Host(m, "model", "127.0.0.1:1", gateway.HostOptions{}); !errors.Is(err, mesh.ErrNameTaken) {
			t.Errorf("a name that is taken: %v", err)
		}
	})
}
