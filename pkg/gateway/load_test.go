package gateway_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/meshnode/meshnode/examples/echo"
	echov1 "github.com/meshnode/meshnode/examples/proto/echo/v1"
	"github.com/meshnode/meshnode/pkg/gateway"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// overLoopback starts a node with the echo service and a gateway, over loopback TCP, and
// returns a stub of the latter.
func overLoopback(t *testing.T) echov1.EchoServiceClient {
	t.Helper()
	node, err := mesh.New(mesh.Options{Name: "node"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close(context.Background()) })
	if err := node.Register("echo", new(echo.Server).Service(node)); err != nil {
		t.Fatal(err)
	}
	l, err := node.Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gate, err := mesh.New(mesh.Options{Name: "gate"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = gate.Close(context.Background()) })
	if err := gate.Reload(mesh.Table{"db": l.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	g, err := gateway.Listen(gate, "127.0.0.1:0", gateway.Options{Routes: map[string]string{"echo.v1.EchoService": "db@echo"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = g.Close(ctx)
	})
	cc, err := grpc.NewClient(g.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return echov1.NewEchoServiceClient(cc)
}

// p99 makes so many calls at 1,000 a second and returns the 99th percentile of
// their latencies, from the moment when each was due.
func p99(t *testing.T, stub echov1.EchoServiceClient, calls int) time.Duration {
	t.Helper()
	took, began := make([]time.Duration, calls), time.Now()
	var wg sync.WaitGroup
	for i := range calls {
		due := began.Add(time.Duration(i) * time.Millisecond)
		time.Sleep(time.Until(due))
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if _, err := stub.Say(ctx, &echov1.SayRequest{Text: "hello"}); err != nil {
				t.Errorf("call %d: %v", i, err)
			}
			took[i] = time.Since(due)
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took[calls*99/100]
}

// 1,000 streams that are open, and one that nobody reads, leave 1,000 calls a
// second alone; nothing grows meanwhile. The bound is 3 times, and 50 ms for what
// else this machine does.
func TestThousandStreamsAndThousandCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds of real time")
	}
	stub := overLoopback(t)
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(context.Background(), nil))
	defer cancel()
	var talks []grpc.BidiStreamingClient[echov1.TalkRequest, echov1.TalkResponse]
	for range 1000 {
		talk, err := stub.Talk(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := talk.Send(&echov1.TalkRequest{Text: "a"}); err != nil {
			t.Fatal(err)
		}
		talks = append(talks, talk)
	}
	for _, talk := range talks {
		if _, err := talk.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	p99(t, stub, 500) // everything is warm
	without := p99(t, stub, 2000)
	unread, err := stub.Count(ctx, &echov1.CountRequest{To: 1 << 40, Bytes: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	p99(t, stub, 500) // its windows fill
	before := heap()
	with := p99(t, stub, 2000)
	grew := int64(heap()) - int64(before)
	t.Logf("p99 of 1,000 calls/s beside 1,000 streams: %v, with one that nobody reads too: %v; the heap grew by %d KiB", without, with, grew>>10)
	if with > 3*without+50*time.Millisecond {
		t.Errorf("p99 %v became %v", without, with)
	}
	if grew > 32<<20 {
		t.Errorf("the heap grew by %d bytes while nobody read a stream", grew)
	}
	for _, talk := range talks { // all of them still live
		if err := talk.Send(&echov1.TalkRequest{Text: "b"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, talk := range talks {
		if _, err := talk.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		if _, err := unread.Recv(); err != nil {
			t.Fatal(err)
		}
	}
}

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
