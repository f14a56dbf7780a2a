package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // clients that compress are understood
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// Options configure a Gateway. The zero value works.
type Options struct {
	// Routes say where calls go that have no mesh-to: the target by the full
	// name of the gRPC service. Default: such a call is refused.
	Routes map[string]string
	// Streams bounds the calls, unary ones included, that one connection has at
	// a time; a client waits with the next. Default 4,096.
	Streams int
	// MessageBytes is the largest message that is taken from a client. Default,
	// and at most: the mesh's Limits.MessageBytes, 64 MiB.
	MessageBytes int64
	// Logger gets what an operator acts upon. Default: none.
	Logger *zap.Logger
}

const (
	defaultStreams  = 4096
	windowBytes     = 64 << 10 // of a stream and of a connection: gRPC's own
	headerListBytes = 16 << 10 // the mesh itself refuses more than 8 KiB, in words
	mostKinds       = 4096
	// patience is how long a call of an unknown kind may take to show that it is
	// one message and no more, before it is carried as a stream.
	patience = 2 * time.Millisecond
)

// Gateway takes the calls of ordinary gRPC clients at one address, and carries
// them into the mesh. It is safe for concurrent use.
type Gateway struct {
	mesh   *mesh.Mesh
	log    *zap.Logger
	routes map[string]string
	health *health.Server
	kinds  kinds
	srv    *grpc.Server
	lis    net.Listener
	served sync.WaitGroup
}

// Listen makes a gateway at an address ("127.0.0.1:0", where port 0 picks one,
// or "unix:/path"). It speaks TLS where the Mesh does, and asks for the same
// certificates and tokens; else plaintext, off loopback and unix sockets only with
// mesh.Options.Insecure. Where there are rules, a client needs the right "forward".
func Listen(m *mesh.Mesh, addr string, o Options) (*Gateway, error) {
	if err := checkRoutes(m, o.Routes); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	lis, err := m.NetListen(addr)
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w", addr, err)
	}
	g := &Gateway{
		mesh: m, log: o.Logger, routes: maps.Clone(o.Routes), health: health.NewServer(), lis: lis,
		kinds: kinds{most: mostKinds, of: make(map[methodOf]kind)},
	}
	g.srv = grpc.NewServer(g.serverOptions(&o)...)
	g.served.Go(func() {
		if err := g.srv.Serve(lis); err != nil {
			g.log.Error("gateway failed", zap.Error(err))
		}
	})
	g.log.Info("gateway listening", zap.Stringer("addr", lis.Addr()))
	return g, nil
}

// checkRoutes says every mistake.
func checkRoutes(m *mesh.Mesh, routes map[string]string) error {
	var mistakes []error
	for _, service := range slices.Sorted(maps.Keys(routes)) {
		target := routes[service]
		switch err := m.Proxy(target).Err(); {
		case service == "" || strings.ContainsAny(service, "/ \t"):
			mistakes = append(mistakes, fmt.Errorf(`route %q: write the full name of a gRPC service, like "simpledb.v1.SimpleDBService", without a method`, service))
		case err != nil:
			mistakes = append(mistakes, fmt.Errorf("route %s: %w", service, err))
		}
	}
	return errors.Join(mistakes...)
}

func (g *Gateway) serverOptions(o *Options) []grpc.ServerOption {
	limits, streams := g.mesh.Limits(), o.Streams
	if streams <= 0 {
		streams = defaultStreams
	}
	largest := limits.MessageBytes
	if o.MessageBytes > 0 {
		largest = min(largest, o.MessageBytes)
	}
	return []grpc.ServerOption{
		g.mesh.Credentials(),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.UnknownServiceHandler(g.handle),
		grpc.ChainStreamInterceptor(recovery.StreamServerInterceptor(recovery.WithRecoveryHandlerContext(g.panicked))),
		grpc.MaxConcurrentStreams(uint32(min(streams, math.MaxInt32))),
		grpc.MaxHeaderListSize(headerListBytes),
		grpc.StaticStreamWindowSize(windowBytes),
		grpc.StaticConnWindowSize(windowBytes),
		grpc.MaxRecvMsgSize(int(largest)),
		grpc.MaxSendMsgSize(int(limits.MessageBytes)),
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, MaxConnectionIdle: 5 * time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

func (g *Gateway) panicked(_ context.Context, p any) error {
	g.log.Error("panic in the gateway", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
	return status.Error(codes.Internal, "internal error")
}

// Addr is the address on which it listens, the real port included.
func (g *Gateway) Addr() net.Addr { return g.lis.Addr() }

// Close takes no more calls, and returns when those that run have ended, or cuts
// them when ctx ends. It says in its health that it leaves. Call it before the
// Mesh's Close.
func (g *Gateway) Close(ctx context.Context) error {
	g.health.Shutdown()
	graceful := make(chan struct{})
	go func() { g.srv.GracefulStop(); close(graceful) }()
	select {
	case <-graceful:
	case <-ctx.Done():
		g.srv.Stop()
		<-graceful
	}
	g.served.Wait()
	return nil
}
