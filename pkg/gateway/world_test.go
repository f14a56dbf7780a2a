package gateway_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/meshnode/meshnode/pkg/gateway"
	"github.com/meshnode/meshnode/pkg/mesh"
	"github.com/meshnode/meshnode/test/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a network in memory, in virtual time, with processes and gateways.
type world struct {
	*testing.T
	*memnet.Net
	ends []func() // in the order of their making; run backwards
}

func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, Net: memnet.New()}
		defer func() {
			for i := len(w.ends) - 1; i >= 0; i-- {
				w.ends[i]()
			}
			time.Sleep(time.Minute) // what gRPC's timers hold
		}()
		f(w)
	})
}

func (w *world) process(name string, table mesh.Table, set ...func(*mesh.Options)) *mesh.Mesh {
	w.Helper()
	o := mesh.Options{Name: name, Dial: w.Dial, Listen: w.Listen, Insecure: true}
	for _, f := range set {
		f(&o)
	}
	m, err := mesh.New(o)
	if err != nil {
		w.Fatal(err)
	}
	w.ends = append(w.ends, func() {
		if err := m.Close(context.Background()); err != nil {
			w.Errorf("close %s: %v", name, err)
		}
	})
	if err := m.Reload(table); err != nil {
		w.Fatal(err)
	}
	return m
}

// gateway opens one in m at addr.
func (w *world) gateway(m *mesh.Mesh, addr string, o gateway.Options) *gateway.Gateway {
	w.Helper()
	g, err := gateway.Listen(m, addr, o)
	if err != nil {
		w.Fatal(err)
	}
	w.ends = append(w.ends, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := g.Close(ctx); err != nil {
			w.Errorf("close the gateway: %v", err)
		}
	})
	return g
}

// channel is that of an ordinary client.
func (w *world) channel(addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	w.Helper()
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return w.Dial(ctx, addr) }))
	cc, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		w.Fatal(err)
	}
	w.ends = append(w.ends, func() { _ = cc.Close() })
	return cc
}

// within is a context that ends after d, with metadata.
func (w *world) within(d time.Duration, kv ...string) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	w.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, kv...)
}
