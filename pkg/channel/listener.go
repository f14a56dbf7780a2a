package channel

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// Listener takes links at one address. Closing it leaves other listeners of the
// process as they are. It is safe for concurrent use.
type Listener struct {
	meshv1.UnimplementedClusterServiceServer
	m    *Manager
	node string
	lis  *connListener
	srv  *grpc.Server
	gone chan struct{} // closed when it takes no more
	over chan struct{} // closed when shut is over

	mu       sync.Mutex
	agents   map[*agent]struct{}
	served   map[*Program]struct{}
	links    tally // streams of Link
	programs tally // streams of Serve
	calls    tally // unary calls
	calling  map[*context.CancelCauseFunc]struct{}
	closed   bool // takes no more
}

var errLeaving = status.Error(codes.Unavailable, "the node is leaving")

// Listen opens addr, which may have port 0, for the node of that name; the name
// is for the logs.
func (m *Manager) Listen(node, addr string) (*Listener, error) {
	lis, err := m.listen(addr)
	if err != nil {
		return nil, err
	}
	l := &Listener{m: m, node: node, gone: make(chan struct{}), over: make(chan struct{}), agents: make(map[*agent]struct{}), served: make(map[*Program]struct{}), calling: make(map[*context.CancelCauseFunc]struct{})}
	l.lis = lis
	l.srv = grpc.NewServer(append(m.serverOptions(), m.opt.ServerOptions...)...)
	meshv1.RegisterClusterServiceServer(l.srv, l)
	if m.opt.OnServer != nil {
		m.opt.OnServer(l.srv)
	}
	m.mu.Lock()
	closing := m.closing.Load()
	if !closing {
		m.listeners[l] = struct{}{}
	}
	m.mu.Unlock()
	if closing {
		_ = lis.Close()
		return nil, ErrClosed
	}
	m.wg.Go(func() {
		if err := l.srv.Serve(l.lis); err != nil && !l.isClosed() {
			m.opt.Logger.Error("listener failed", zap.String("node", node), zap.Error(err))
		}
	})
	m.opt.Logger.Info("listening", zap.String("node", node), zap.Stringer("addr", lis.Addr()))
	return l, nil
}

// serverOptions are the gRPC settings of a listener; see docs/protocol.md.
func (m *Manager) serverOptions() []grpc.ServerOption {
	l := &m.opt.Limits
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxConcurrentStreams(streamsPerConn),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.StaticStreamWindowSize(l.WindowBytes),
		grpc.StaticConnWindowSize(l.WindowBytes),
		grpc.MaxRecvMsgSize(l.BatchBytes + batchSlack),
		grpc.MaxSendMsgSize(2 * maxBatchBytes),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, MaxConnectionIdle: 30 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
	if creds := m.opt.Security.Listen; creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	return opts
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.lis.Addr() }

// Node is the name that it was opened for; "" where it was an address alone.
func (l *Listener) Node() string { return l.node }

func (l *Listener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// Close takes no more links, says goaway on those that are open, and returns
// when their last calls have their outcomes, or the drain time or ctx is over;
// then they are cut. Twice is once. except is a call whose handler is not waited
// for, or nil.
func (l *Listener) Close(ctx context.Context, except *Request) error {
	ctx, cancel := context.WithTimeout(ctx, max(l.m.opt.Drain, time.Millisecond))
	defer cancel()
	l.shut(ctx, except)
	return nil
}

// shut is Close within ctx alone. except is a call that is not waited for.
func (l *Listener) shut(ctx context.Context, except *Request) {
	if l.endLinks(ctx, except) {
		l.endPrograms(ctx)
	}
}

// endLinks takes no more and ends the links, in order or when ctx ends. It
// returns false where that was done before.
func (l *Listener) endLinks(ctx context.Context, except *Request) (first bool) {
	if except != nil {
		except.agent.excuse(except)
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		waitFor(l.over, ctx.Done())
		return false
	}
	l.closed = true
	close(l.gone)
	none, answered := l.links.empty(), l.calls.empty()
	agents := slices.Collect(maps.Keys(l.agents))
	l.mu.Unlock()
	_ = l.lis.Close()
	for _, a := range agents {
		a.goaway("the listener closed")
	}
	if waitFor(none, ctx.Done()) && waitFor(answered, ctx.Done()) {
		return true
	}
	for _, a := range agents {
		a.expel()
	}
	l.endCalls()
	// What expel answered may still leave, if the peer reads.
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
	waitFor(none, flush.Done())
	waitFor(answered, flush.Done())
	cancel()
	for _, a := range agents {
		a.end(ErrDraining)
	}
	return true
}

// endPrograms lets the programs that serve answer what they have, ends their
// streams, in order or when ctx ends, and then the server. It comes after
// endLinks, since calls of the links may be theirs.
func (l *Listener) endPrograms(ctx context.Context) {
	defer close(l.over)
	l.mu.Lock()
	none := l.programs.empty()
	programs := slices.Collect(maps.Keys(l.served))
	l.mu.Unlock()
	for _, p := range programs {
		p.leave()
	}
	if !waitFor(none, ctx.Done()) {
		for _, p := range programs {
			p.d.end(errLeaving)
		}
	}
	l.stop(ctx)
	l.m.mu.Lock()
	delete(l.m.listeners, l)
	l.m.mu.Unlock()
}

// flushTime is how long answers that are ready may take to leave at the end of
// a drain, and gRPC to end its connections.
const flushTime = 500 * time.Millisecond

func waitFor(done, bound <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-bound:
		return false
	}
}

// stop ends the gRPC server: in order if its connections let it. Those that
// carried links have until ctx ends to take their last answers.
func (l *Listener) stop(ctx context.Context) {
	graceful := make(chan struct{})
	go func() { l.srv.GracefulStop(); close(graceful) }()
	waitFor(l.lis.unlinked(), ctx.Done())
	t := time.NewTimer(flushTime)
	defer t.Stop()
	select {
	case <-graceful:
	case <-t.C:
		l.lis.cutAll()
		l.srv.Stop()
		<-graceful
	}
}

// Excuse lets the link of a call end before its answer.
func (r *Request) Excuse() { r.agent.excuse(r) }

// excuse lets the link end before the call has its answer: its handler is the
// one that closes the process.
func (a *agent) excuse(r *Request) {
	a.mu.Lock()
	r.excused = true
	a.mu.Unlock()
	a.wake()
}
