package channel

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
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

	mu     sync.Mutex
	agents map[*agent]struct{}
	links  int  // agents, and streams on their way to be one
	closed bool // takes no more
	none   chan struct{}
}

var errLeaving = status.Error(codes.Unavailable, "the node is leaving")

// Listen opens addr, which may have port 0, for the node of that name; the name
// is for the logs.
func (m *Manager) Listen(node, addr string) (*Listener, error) {
	lis, err := m.listen(addr)
	if err != nil {
		return nil, err
	}
	l := &Listener{m: m, node: node, gone: make(chan struct{}), over: make(chan struct{}), agents: make(map[*agent]struct{})}
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

// Link is the gRPC handler of one link, and its writer.
func (l *Listener) Link(s grpc.BidiStreamingServer[meshv1.LinkRequest, meshv1.LinkResponse]) error {
	if err := l.admit(); err != nil {
		return err
	}
	defer l.dismiss()
	// Until the headers are sent, the dialler's gRPC keeps what it sends.
	if err := s.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	k := newLink(s.Context(), &l.m.opt)
	k.stream = s
	a, in, err := l.accept(s, k)
	if err != nil {
		k.close(err)
		return err
	}
	defer l.part(a)
	if err := a.greet(); err != nil {
		k.close(err)
		return err
	}
	return l.serve(s.Context(), a, in)
}

// serve runs an accepted link: the reader beside, the writer here.
func (l *Listener) serve(stream context.Context, a *agent, in *inbox) error {
	l.m.opt.Logger.Info("link accepted", zap.String("node", l.node), zap.String("peer", a.peer.Process),
		zap.Uint32("incarnation", a.peer.Incarnation), zap.String("as", a.peer.Node), zap.String("addr", a.peer.Addr))
	l.m.wg.Go(func() {
		cause := a.read(in)
		if cause == nil {
			a.halfClosed()
			<-a.ctx.Done()
		}
		a.end(cause)
		a.release()
	})
	// A link that is cut takes its connection with it. One that ends in words
	// must get its trailers out: there the connection is cut only where the
	// writer does not come back. Other streams on it are not harmed.
	written := make(chan struct{})
	stop := context.AfterFunc(a.ctx, func() {
		if stream.Err() != nil || status.Code(context.Cause(a.ctx)) == codes.InvalidArgument {
			t := time.NewTimer(flushTime)
			defer t.Stop()
			select {
			case <-written:
				return
			case <-t.C:
			}
		}
		a.conn()
	})
	err := a.write(a.fill)
	close(written)
	if err == nil {
		// The last answers may still be on their way: the dialler closes the
		// connection, or gRPC's keepalive finds it dead.
		stop()
	}
	a.close(err)
	if _, ok := status.FromError(err); !ok {
		err = status.Error(codes.Unavailable, err.Error())
	}
	return err
}

// admit counts a stream against the listener's links, before anything is read.
func (l *Listener) admit() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return errLeaving
	case l.links >= l.m.opt.Limits.Links:
		return status.Errorf(codes.ResourceExhausted, "too many links: this listener takes at most %d", l.m.opt.Limits.Links)
	}
	l.links++
	return nil
}

func (l *Listener) dismiss() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links--
	l.checkNone()
}

// accept waits for the dialler's hello and checks it; agent.greet answers it.
func (l *Listener) accept(s stream, k *link) (*agent, *inbox, error) {
	type first struct {
		in  *inbox
		err error
	}
	got := make(chan first, 1)
	l.m.wg.Go(func() {
		in := &inbox{many: &l.m.frames}
		var err error
		for err == nil && len(in.frames) == 0 {
			err = s.RecvMsg(in)
		}
		got <- first{in, err}
	})
	bound := time.NewTimer(l.m.opt.DialTimeout)
	defer bound.Stop()
	var f first
	select {
	case f = <-got:
	case <-bound.C:
		return nil, nil, status.Errorf(codes.FailedPrecondition, "no hello within %s: the first frame must be one", l.m.opt.DialTimeout)
	case <-l.gone:
		return nil, nil, errLeaving
	case <-k.ctx.Done():
		return nil, nil, context.Cause(k.ctx)
	}
	switch {
	case f.err != nil:
		return nil, nil, protocolError("no hello: %v", causeOf(f.err))
	case f.in.frames[0].kind != kindHello:
		return nil, nil, protocolError("the first frame is not a hello")
	}
	p, limits, err := readHello(f.in.frames[0].hello)
	switch {
	case errors.As(err, new(versionError)):
		return nil, nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil:
		return nil, nil, protocolError("%v", err)
	}
	f.in.shift()
	addr, cut := connOf(k.ctx)
	p.Addr = addr
	if p.Identity, err = l.m.opt.Security.identify(k.ctx, p.Process); err != nil {
		return nil, nil, err
	}
	k.limit = limits.batch
	a := newAgent(l.m, k, p, limits, cut)
	// Before the hello: from then on the dialler is owed a goaway.
	if err := l.join(a); err != nil {
		return nil, nil, err
	}
	return a, f.in, nil
}

// greet answers the dialler's hello, which accepts the link.
func (a *agent) greet() error {
	hello := &batch{limit: a.limit}
	hello.add(&frame{kind: kindHello, hello: a.opt.hello("")})
	if err := a.stream.SendMsg(hello); err != nil {
		return err
	}
	a.start(a.limits)
	return nil
}

// connOf finds the address of a stream's peer, and what cuts its connection.
func connOf(ctx context.Context) (string, func()) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", func() {}
	}
	if a, ok := p.Addr.(*connAddr); ok {
		a.conn.carryLink()
		return a.String(), func() { _ = a.conn.Close() }
	}
	return p.Addr.String(), func() {}
}

func (l *Listener) join(a *agent) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errLeaving
	}
	l.agents[a] = struct{}{}
	return nil
}

func (l *Listener) part(a *agent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.agents, a)
}

// checkNone tells shut that the last link is gone. Under the lock.
func (l *Listener) checkNone() {
	if l.links == 0 && l.none != nil {
		close(l.none)
		l.none = nil
	}
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
	if except != nil {
		except.agent.excuse(except)
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		waitFor(l.over, ctx.Done())
		return
	}
	l.closed = true
	close(l.gone)
	none := make(chan struct{})
	l.none = none
	l.checkNone()
	agents := make([]*agent, 0, len(l.agents))
	for a := range l.agents {
		agents = append(agents, a)
	}
	l.mu.Unlock()
	defer close(l.over)
	_ = l.lis.Close()
	for _, a := range agents {
		a.goaway("the listener closed")
	}
	if !waitFor(none, ctx.Done()) {
		for _, a := range agents {
			a.expel()
		}
		// What expel answered may still leave, if the peer reads.
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		waitFor(none, flush.Done())
		cancel()
		for _, a := range agents {
			a.end(ErrDraining)
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
