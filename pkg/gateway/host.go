package gateway

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// HostOptions configure a Host. The zero value works.
type HostOptions struct {
	// Calls bounds the calls that the server has from the mesh at a time. More
	// wait in the service's queue. Default 4,096.
	Calls int
	// Waiting bounds the calls that wait for a server that is away; one more is
	// rejected: overloaded. Default 1,024, at most half of Calls.
	Waiting int
	// Logger gets what an operator acts upon. Default: none.
	Logger *zap.Logger
}

const (
	defaultCalls   = 4096
	defaultWaiting = 1024
)

// Hosted is an ordinary gRPC server as a service of the mesh. The server knows
// nothing of it: any method, unary or streaming, is passed on as its bytes, with
// metadata, deadline and cancellation; headers, trailers, status and details
// come back.
//
// The server's health decides whether the name is offered: what it says of the
// service "" in grpc.health.v1, where it has that, else whether it is connected.
// While it is away, Query and Names do not find the name; a call is rejected at
// once (ErrDraining, UNAVAILABLE), or waits until its deadline where its caller
// said mesh.WaitUp.
type Hosted struct {
	name, addr string
	log        *zap.Logger
	svc        *mesh.Service
	cc         *grpc.ClientConn
	stop       context.CancelFunc
	watching   sync.WaitGroup
	most       int // calls that wait

	mu      sync.Mutex
	up      bool
	cause   string        // why it is away
	changed chan struct{} // closed at the next change of up
	waiting int
}

// Host offers the ordinary gRPC server at addr ("host:port" or "unix:/path") as
// the service name of m. It is there at once, though away until the server was
// found; a name that is taken is an error. Plaintext is spoken with it, off
// loopback and unix sockets only with mesh.Options.Insecure.
func Host(m *mesh.Mesh, name, addr string, o HostOptions) (*Hosted, error) {
	if err := m.CheckDial(addr); err != nil {
		return nil, fmt.Errorf("host %s at %s: %w", name, addr, err)
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Calls <= 0 {
		o.Calls = defaultCalls
	}
	if o.Waiting <= 0 {
		o.Waiting = defaultWaiting
	}
	h := &Hosted{
		name: name, addr: addr, log: o.Logger.With(zap.String("name", name), zap.String("addr", addr)),
		most: min(o.Waiting, max(o.Calls/2, 1)), cause: "not found yet", changed: make(chan struct{}),
	}
	var last dialError
	var err error
	h.cc, err = grpc.NewClient("passthrough:///"+addr, h.dialOptions(m, &last)...)
	if err != nil {
		return nil, fmt.Errorf("host %s at %s: %w", name, addr, err)
	}
	h.svc = m.NewStreamService(h.handle, mesh.Concurrent(o.Calls))
	h.svc.Offer(false)
	if err := m.Register(name, h.svc); err != nil {
		_ = h.cc.Close()
		h.svc.Stop()
		return nil, fmt.Errorf("host %s at %s: %w", name, addr, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	h.watching.Go(func() { h.watch(ctx, &last) })
	return h, nil
}

// dialError is why the last dial failed.
type dialError struct {
	mu  sync.Mutex
	err error
}

func (d *dialError) set(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *dialError) get() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

func (h *Hosted) dialOptions(m *mesh.Mesh, last *dialError) []grpc.DialOption {
	largest := int(m.Limits().MessageBytes)
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := m.NetDial(ctx, h.addr)
			last.set(err)
			return conn, err
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDisableRetry(), // nothing runs twice behind the caller's back
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithStatsHandler(answers{}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(newCodec()), grpc.MaxCallRecvMsgSize(largest), grpc.MaxCallSendMsgSize(largest)),
	}
}

// Close ends the service and its connection to the server. Calls that run are
// cut: close the Mesh before, which waits for them.
func (h *Hosted) Close() error {
	h.stop()
	h.watching.Wait()
	h.svc.Stop()
	return h.cc.Close()
}

// set says whether the server is up.
func (h *Hosted) set(up bool, cause string) {
	h.mu.Lock()
	was, why := h.up, h.cause
	h.up, h.cause = up, cause
	if was != up {
		close(h.changed)
		h.changed = make(chan struct{})
	}
	h.mu.Unlock()
	switch {
	case up && !was:
		h.svc.Offer(true)
		h.log.Info("hosted server is up")
	case !up && (was || why != cause):
		h.svc.Offer(false)
		h.log.Warn("hosted server is away", zap.String("cause", cause))
	}
}

// ready returns nil when the server is up. It waits for that where wait is set.
func (h *Hosted) ready(ctx context.Context, wait bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.up {
		return nil
	}
	if !wait {
		return mesh.Reject(mesh.ErrDraining, fmt.Sprintf("the server of %s, at %s, is away: %s", h.name, h.addr, h.cause))
	}
	if h.waiting >= h.most {
		return mesh.Reject(mesh.ErrOverloaded, fmt.Sprintf("overloaded: %d calls wait for the server of %s, which is away: %s", h.waiting, h.name, h.cause))
	}
	h.waiting++
	defer func() { h.waiting-- }()
	for !h.up {
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		h.mu.Lock()
		if ctx.Err() != nil {
			return mesh.Reject(mesh.ErrExpired, fmt.Sprintf("the deadline passed while the server of %s, at %s, was away: %s", h.name, h.addr, h.cause))
		}
	}
	return nil
}
