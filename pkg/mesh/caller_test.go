package mesh_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// M59: the handler knows who calls: process, life, node name, address, target,
// session; and whether anybody waits.
func TestCallerFacts(t *testing.T) {
	inWorld(t, func(w *world) {
		var callers []mesh.Caller
		m := w.serve("server", "db:1", "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			c, ok := mesh.CallerFrom(ctx)
			if derived, _ := mesh.CallerFrom(context.WithValue(ctx, t, 1)); !ok || derived != c {
				t.Errorf("%v, and from a derived context %v", c, derived)
			}
			p, ok := peer.FromContext(ctx)
			if !ok || p.Addr.String() != c.Addr || p.Addr.Network() == "" {
				t.Errorf("peer %v, want the address %s", p, c.Addr)
			}
			callers = append(callers, c)
			return nil, nil
		})
		client := w.process("client 1")
		w.open(client, "back:1")
		w.register(client, "back", echo)
		w.reload(m, mesh.Table{"back": "back:1"})
		w.reload(client, mesh.Table{"db": "db:1", "alias": "db:1"})
		ctx := w.within(time.Minute)
		h, err := client.Query(ctx, "db@sdb")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Call(ctx, "alias@sdb", "GET", nil); err != nil {
			t.Error(err)
		}
		if err := client.Send(ctx, "db"+h.String(), "SET", nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if _, err := m.Query(ctx, "back@back"); err != nil { // so the server knows the client's incarnation too
			t.Fatal(err)
		}
		life := m.Node("back").Incarnation
		want := []mesh.Caller{
			{Process: "client-1", Incarnation: life, Node: "alias", Addr: "client-2", Target: "@sdb", Method: "GET", Session: 1},
			{Process: "client-1", Incarnation: life, Node: "db", Addr: "client-1", Target: h.String(), Method: "SET", Session: 2, Push: true},
		}
		if !slices.Equal(callers, want) || life == 0 {
			t.Errorf("callers:\n%+v, want\n%+v", callers, want)
		}
		if c, ok := mesh.CallerFrom(ctx); ok || c != (mesh.Caller{}) {
			t.Errorf("outside of a handler: %v", c)
		}
	})
}

// M59: the handler's context holds what gRPC's own handlers find: metadata, the
// method, SetHeader, SendHeader and SetTrailer.
func TestHandlerFindsWhatGRPCHandlersFind(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			in, ok := metadata.FromIncomingContext(ctx)
			if !ok || !slices.Equal(in.Get("ask"), []string{"1", "2"}) || in.Get("raw-bin")[0] != "\x00\xff" || len(in.Get("grpc-timeout")) != 0 {
				t.Errorf("metadata: %v", in)
			}
			if vs := metadata.ValueFromIncomingContext(ctx, "Ask"); len(vs) != 2 {
				t.Errorf("values: %v", vs)
			}
			for _, err := range []error{
				grpc.SetHeader(ctx, metadata.Pairs("head", "1")), grpc.SendHeader(ctx, metadata.Pairs("head", "2")),
				grpc.SetTrailer(ctx, metadata.Pairs("tail", "1")), grpc.SetTrailer(ctx, metadata.Pairs("tail", "2")),
			} {
				if err != nil {
					t.Error(err)
				}
			}
			if _, ok := metadata.FromOutgoingContext(ctx); ok {
				t.Error("incoming metadata is outgoing")
			}
			return nil, nil
		})
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1"})
		ctx := metadata.AppendToOutgoingContext(w.within(time.Second), "ask", "1", "raw-bin", "\x00\xff", "grpc-timeout", "1S")
		var head, tail metadata.MD
		if _, err := client.Call(ctx, "db@sdb", "GET", nil, mesh.Headers(metadata.Pairs("Ask", "2")), grpc.Header(&head), grpc.Trailer(&tail)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(head.Get("head"), []string{"1", "2"}) || !slices.Equal(tail.Get("tail"), []string{"1", "2"}) || len(head)+len(tail) != 2 {
			t.Errorf("header %v, trailer %v", head, tail)
		}
	})
}

const (
	traceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traceState  = "vendor=value,other=1"
)

// hops is a chain of processes: the first is a client, the next ones forward by
// call or by push, the last tells the trace that came.
func hops(w *world, push bool) (client *mesh.Mesh, came chan mesh.Trace) {
	came = make(chan mesh.Trace, 10)
	table := mesh.Table{"b": "b:1", "c": "c:1"}
	b := w.process("bee")
	w.open(b, "b:1")
	w.register(b, "sdb", func(ctx context.Context, method string, payload []byte) ([]byte, error) {
		c, _ := mesh.CallerFrom(ctx)
		came <- c.Trace
		if push {
			return nil, b.Send(ctx, "c@last", method, payload)
		}
		return b.Call(ctx, "c@last", method, payload)
	})
	w.reload(b, table)
	w.serve("cee", "c:1", "last", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		came <- mesh.TraceFrom(ctx)
		return nil, nil
	})
	client = w.process("client")
	w.reload(client, table)
	return client, came
}

// M60: traceparent and tracestate pass through two hops as they are; a skynet tag
// is rewritten on the first hop only.
func TestTraceOverTwoHops(t *testing.T) {
	for _, push := range []bool{false, true} {
		inWorld(t, func(w *world) {
			client, came := hops(w, push)
			send := func(tr mesh.Trace) (first, second mesh.Trace) {
				ctx := mesh.WithTrace(w.within(time.Second), tr)
				if push {
					if err := client.Send(ctx, "b@sdb", "M", nil); err != nil {
						t.Error(err)
					}
				} else if _, err := client.Call(ctx, "b@sdb", "M", nil); err != nil {
					t.Error(err)
				}
				return <-came, <-came
			}
			for i, c := range []struct{ in, out mesh.Trace }{
				{mesh.Trace{}, mesh.Trace{}},
				{mesh.Trace{Parent: traceParent, State: traceState, Tag: "tag"}, mesh.Trace{Parent: traceParent, State: traceState, Tag: "(client-b@sdb-2)tag"}},
				{mesh.Trace{Parent: traceParent, Tag: "(a-b@c-7)tag"}, mesh.Trace{Parent: traceParent, Tag: "(a-b@c-7)tag"}},
				{mesh.Trace{Tag: "x(y"}, mesh.Trace{Tag: "(client-b@sdb-4)x(y"}},
			} {
				if first, second := send(c.in); first != c.out || second != c.out {
					t.Errorf("push %t, trace %d: %+v, then %+v, want %+v", push, i, first, second, c.out)
				}
			}
		})
	}
}

// M60: a handler may replace its trace; a trace that gRPC's instrumentation puts
// into outgoing metadata travels as well.
func TestTraceOfAnotherMaker(t *testing.T) {
	inWorld(t, func(w *world) {
		client, came := hops(w, false)
		ctx := metadata.AppendToOutgoingContext(w.within(time.Second), "traceparent", traceParent, "tracestate", traceState)
		if _, err := client.Call(ctx, "b@sdb", "M", nil); err != nil {
			t.Fatal(err)
		}
		want := mesh.Trace{Parent: traceParent, State: traceState}
		if first, second := <-came, <-came; first != want || second != want {
			t.Errorf("%+v, then %+v, want %+v", first, second, want)
		}
	})
	inWorld(t, func(w *world) {
		ctx := mesh.WithTrace(mesh.WithTrace(w.within(time.Second), mesh.Trace{Tag: "a"}), mesh.Trace{Parent: traceParent})
		if got := mesh.TraceFrom(ctx); got != (mesh.Trace{Parent: traceParent}) {
			t.Errorf("the later trace: %+v", got)
		}
	})
}

// M61: without TLS nothing is listened on or dialled off loopback and unix
// sockets, unless told insecure.
func TestPlaintextStaysOnThisMachine(t *testing.T) {
	off := []string{"db:1", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[2001:db8::1]:1", "example.org:1", "localhost.example.org:1"}
	local := []string{"127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/tmp/x", "[::ffff:127.0.0.1]:1"}
	inWorld(t, func(w *world) {
		m := w.process("server", func(o *mesh.Options) { o.Insecure = false })
		client := w.process("client", func(o *mesh.Options) { o.Insecure = false })
		for _, addr := range append(off, ":1") {
			if _, err := m.Open(addr); err == nil || !strings.Contains(err.Error(), "insecure") {
				t.Errorf("open %s: %v", addr, err)
			}
		}
		for _, addr := range off {
			l, err := w.Listen(addr)
			if err != nil {
				t.Fatal(err)
			}
			w.reload(client, mesh.Table{"db": addr})
			_, err = client.Call(w.within(time.Second), "db@sdb", "M", nil)
			if !errors.Is(err, mesh.ErrConnect) || mesh.VerdictOf(err) != mesh.NotSent || !strings.Contains(err.Error(), "insecure") || w.Dials(addr) != 0 {
				t.Errorf("call %s: %v, %d dials", addr, err, w.Dials(addr))
			}
			_ = l.Close()
		}
		w.register(m, "sdb", echo)
		for _, addr := range local {
			w.open(m, addr)
			w.reload(client, mesh.Table{"db": addr})
			if _, err := client.Call(w.within(time.Second), "db@sdb", "M", nil); err != nil {
				t.Errorf("call %s: %v", addr, err)
			}
		}
	})
}

// M61: where it was told insecure, a process warns once.
func TestInsecureWarnsOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		core, logs := observer.New(zap.WarnLevel)
		m := w.process("server", func(o *mesh.Options) { o.Logger = zap.New(core) })
		for _, addr := range []string{"0.0.0.0:1", "0.0.0.0:2"} {
			w.open(m, addr)
		}
		w.register(m, "sdb", echo)
		w.reload(m, mesh.Table{"a": "0.0.0.0:1", "b": "0.0.0.0:2"})
		for _, target := range []string{"a@sdb", "b@sdb"} {
			if _, err := m.Call(w.within(time.Second), target, "M", nil); err != nil {
				t.Error(err)
			}
		}
		if n := logs.Len(); n != 1 || !strings.Contains(logs.All()[0].Message, "insecure") {
			t.Errorf("%d warnings: %v", n, logs.All())
		}
	})
}
