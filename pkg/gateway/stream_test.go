package gateway_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"google.golang.org/grpc/reflection"

	"github.com/meshnode/meshnode/examples/echo"
	echov1 "github.com/meshnode/meshnode/examples/proto/echo/v1"
	"github.com/meshnode/meshnode/pkg/gateway"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// withEcho runs f with a client of a gateway, behind which is db@echo.
func withEcho(t *testing.T, f func(w *world, stub echov1.EchoServiceClient, server *mesh.Mesh, cc *grpc.ClientConn)) {
	t.Helper()
	inWorld(t, func(w *world) {
		table := mesh.Table{"db": "db:1"}
		server := w.process("server", table)
		s := new(echo.Server).Service(server)
		reflection.Register(s)
		if err := server.Register("echo", s); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Open("db"); err != nil {
			t.Fatal(err)
		}
		w.gateway(w.process("gate", table), "gate:1", gateway.Options{})
		cc := w.channel("gate:1", grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(1<<20))
		f(w, echov1.NewEchoServiceClient(cc), server, cc)
	})
}

// Each kind of stream passes through the gateway, the first time as well as
// when its kind is known.
func TestStreamsThroughTheGateway(t *testing.T) {
	withEcho(t, func(w *world, stub echov1.EchoServiceClient, _ *mesh.Mesh, _ *grpc.ClientConn) {
		for range 2 {
			checkStreams(w, stub, "mesh-to", "db@echo")
		}
	})
}

// checkStreams calls every method of the echo service.
func checkStreams(w *world, stub echov1.EchoServiceClient, kv ...string) {
	w.Helper()
	var head, tail metadata.MD
	if r, err := stub.Say(w.within(time.Second, kv...), &echov1.SayRequest{Text: "hello"}, grpc.Header(&head), grpc.Trailer(&tail)); err != nil || r.GetText() != "hello" {
		w.Errorf("say: %v, %v", r, err)
	}
	if !slices.Equal(head.Get("heard"), []string{"5"}) || !slices.Equal(tail.Get("said"), []string{"1"}) {
		w.Errorf("say: header %v, trailer %v", head, tail)
	}
	_, err := stub.Say(w.within(time.Second, kv...), &echov1.SayRequest{Text: "no", Code: int32(codes.DataLoss)})
	if st := status.Convert(err); st.Code() != codes.DataLoss || st.Message() != "no" || len(st.Details()) != 1 {
		w.Errorf("say no: %v, details %v", err, st.Details())
	}
	count, err := stub.Count(w.within(time.Second, kv...), &echov1.CountRequest{To: 1000, Bytes: 100})
	if err != nil {
		w.Fatal(err)
	}
	for n := int64(1); n <= 1000; n++ {
		if r, err := count.Recv(); err != nil || r.GetNumber() != n {
			w.Fatalf("count: %v, %v at %d", r.GetNumber(), err, n)
		}
	}
	if _, err := count.Recv(); err != io.EOF {
		w.Errorf("count ended with %v", err)
	}
	for _, n := range []int{0, 1, 100} {
		collect, err := stub.Collect(w.within(time.Second, kv...))
		if err != nil {
			w.Fatal(err)
		}
		for i := range n {
			if err := collect.Send(&echov1.CollectRequest{Text: fmt.Sprint(i)}); err != nil {
				w.Fatal(err)
			}
		}
		if r, err := collect.CloseAndRecv(); err != nil || len(r.GetTexts()) != n {
			w.Errorf("collect: %d of %d, %v", len(r.GetTexts()), n, err)
		}
	}
	talk, err := stub.Talk(w.within(time.Second, kv...))
	if err != nil {
		w.Fatal(err)
	}
	for i := range 10 { // one at a time: each waits for its answer
		if err := talk.Send(&echov1.TalkRequest{Text: fmt.Sprint(i)}); err != nil {
			w.Fatal(err)
		}
		if r, err := talk.Recv(); err != nil || r.GetText() != fmt.Sprint(i) {
			w.Fatalf("talk: %v, %v at %d", r, err, i)
		}
	}
	if err := talk.Send(&echov1.TalkRequest{Text: "fail"}); err != nil {
		w.Fatal(err)
	}
	if _, err := talk.Recv(); status.Code(err) != codes.Aborted {
		w.Errorf("talk ended with %v", err)
	}
}

// A client that waits for the server to speak first, or cancels, or is late.
func TestStreamsThatWait(t *testing.T) {
	withEcho(t, func(w *world, stub echov1.EchoServiceClient, server *mesh.Mesh, _ *grpc.ClientConn) {
		ctx, cancel := context.WithCancel(w.within(time.Hour, "mesh-to", "db@echo"))
		talk, err := stub.Talk(ctx)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		if got := server.Stats().Running; got != 1 {
			t.Errorf("%d handlers run, want the one of the stream that said nothing", got)
		}
		cancel()
		if _, err := talk.Recv(); status.Code(err) != codes.Canceled {
			t.Errorf("cancelled: %v", err)
		}
		late, err := stub.Talk(w.within(time.Minute, "mesh-to", "db@echo"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := late.Recv(); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("late: %v", err)
		}
		time.Sleep(time.Second)
		if got := server.Stats().Running; got != 0 {
			t.Errorf("%d handlers run at the end", got)
		}
	})
}

// A link that breaks ends a stream with what the mesh knows.
func TestStreamsOfABrokenLink(t *testing.T) {
	withEcho(t, func(w *world, stub echov1.EchoServiceClient, _ *mesh.Mesh, _ *grpc.ClientConn) {
		talk, err := stub.Talk(w.within(time.Hour, "mesh-to", "db@echo"))
		if err != nil {
			t.Fatal(err)
		}
		if err := talk.Send(&echov1.TalkRequest{Text: "a"}); err != nil {
			t.Fatal(err)
		}
		if _, err := talk.Recv(); err != nil {
			t.Fatal(err)
		}
		w.Cut("db:1")
		_, err = talk.Recv()
		if info := infoOf(err); status.Code(err) != codes.Aborted || info.GetReason() != "LINK_BROKEN" || info.GetMetadata()["executed"] != "maybe" {
			t.Errorf("%v, %v", err, infoOf(err))
		}
	})
}

// The target's reflection passes like any other stream.
func TestReflectionThroughTheGateway(t *testing.T) {
	withEcho(t, func(w *world, _ echov1.EchoServiceClient, _ *mesh.Mesh, cc *grpc.ClientConn) {
		s, err := reflectionpb.NewServerReflectionClient(cc).ServerReflectionInfo(w.within(time.Second, "mesh-to", "db@echo"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
			t.Fatal(err)
		}
		r, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, one := range r.GetListServicesResponse().GetService() {
			names = append(names, one.GetName())
		}
		if !slices.Contains(names, "echo.v1.EchoService") {
			t.Errorf("%v", names)
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != io.EOF {
			t.Errorf("the end: %v", err)
		}
	})
}

// A client that opens streams and does not read them holds up neither calls nor
// other streams, and what is held for it is bounded by the windows.
func TestUnreadStreamsHoldUpNobody(t *testing.T) {
	withEcho(t, func(w *world, stub echov1.EchoServiceClient, server *mesh.Mesh, _ *grpc.ClientConn) {
		ctx, cancel := context.WithCancel(w.within(time.Hour, "mesh-to", "db@echo"))
		defer cancel()
		var unread []grpc.ServerStreamingClient[echov1.CountResponse]
		for range 100 {
			s, err := stub.Count(ctx, &echov1.CountRequest{To: 1 << 40, Bytes: 10 << 10})
			if err != nil {
				t.Fatal(err)
			}
			unread = append(unread, s)
		}
		synctest.Wait()
		before := w.downBytes("db:1")
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := stub.Say(w.within(time.Second, "mesh-to", "db@echo"), &echov1.SayRequest{Text: "hello"}); err != nil {
					t.Errorf("a call beside: %v", err)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		if grew := w.downBytes("db:1") - before; grew > 1<<20 {
			t.Errorf("%d bytes more came from the node, and nobody reads them", grew)
		}
		if before > 100*(1<<20) {
			t.Errorf("100 unread streams took %d bytes from the node", before)
		}
		for range 50 { // it was only waiting
			if _, err := unread[0].Recv(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// downBytes is what came from an address.
func (w *world) downBytes(addr string) int64 {
	_, down := w.Bytes(addr)
	return down
}
