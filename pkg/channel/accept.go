package channel

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// tally counts the streams of one kind, those that wait for a hello too. It is
// under the listener's lock.
type tally struct {
	n    int
	none chan struct{} // closed when n becomes 0; nil where nobody waits
}

func (t *tally) leave() {
	t.n--
	if t.n == 0 && t.none != nil {
		close(t.none)
		t.none = nil
	}
}

// empty returns a channel that is closed when there is none.
func (t *tally) empty() <-chan struct{} {
	none := make(chan struct{})
	if t.n == 0 {
		close(none)
	} else {
		t.none = none
	}
	return none
}

// acceptor is this end of a stream that was accepted: of a link, or of a
// program that serves.
type acceptor interface {
	base() *link
	run()             // reads until the end, and frees what the stream held
	fill(*batch) bool // what is sent next; true where the stream is done
	cutConn()
	goodbye() error // how a stream that is done ends; nil is OK
}

// Link is the gRPC handler of one link, and its writer.
func (l *Listener) Link(s grpc.BidiStreamingServer[meshv1.LinkRequest, meshv1.LinkResponse]) error {
	return l.accept(s, &l.links, func(c *caller) (acceptor, func()) {
		a := newAgent(l.m, c.link, c.peer, c.limits, c.cut, c.in)
		l.agents[a] = struct{}{}
		return a, func() { delete(l.agents, a) }
	})
}

// Serve is the gRPC handler of one program that serves, and its writer.
func (l *Listener) Serve(s grpc.BidiStreamingServer[meshv1.ServeRequest, meshv1.ServeResponse]) error {
	if l.m.opt.Registrar == nil {
		return status.Error(codes.PermissionDenied, "this process takes no programs that serve: Options.AllowServe (--allow-serve) lets it")
	}
	return l.accept(s, &l.programs, func(c *caller) (acceptor, func()) {
		p := newProgram(l.m, c.link, c.peer, c.limits, c.cut, c.in)
		l.served[p] = struct{}{}
		return p, func() { delete(l.served, p) }
	})
}

// caller is who opened a stream, as its hello says.
type caller struct {
	link   *link
	peer   Peer
	limits peerLimits
	cut    func() // cuts the connection
	in     *inbox // what came with the hello
}

// accept takes a stream: it is counted, its hello is read, join makes it this
// end and enters it under the lock, and it runs until it ends.
func (l *Listener) accept(s grpc.ServerStream, of *tally, join func(*caller) (acceptor, func())) error {
	if err := l.admit(of); err != nil {
		return err
	}
	defer l.dismiss(of)
	// Until the headers are sent, the dialler's gRPC keeps what it sends.
	if err := s.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	k := newLink(s.Context(), &l.m.opt)
	k.stream = s
	c, err := l.hello(s, k)
	if err != nil {
		k.close(err)
		return err
	}
	// Before our hello: from then on the dialler is owed an orderly end.
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		k.close(errLeaving)
		return errLeaving
	}
	a, part := join(c)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		part()
	}()
	hello := l.m.opt.hello("")
	if of == &l.programs {
		hello.Features = nil // a program is sent calls and pushes alone
	}
	if err := k.greet(hello, c.limits); err != nil {
		k.close(err)
		return err
	}
	l.m.opt.Logger.Info("link accepted", zap.String("node", l.node), zap.String("peer", c.peer.Process),
		zap.Uint32("incarnation", c.peer.Incarnation), zap.String("as", c.peer.Node), zap.String("addr", c.peer.Addr), zap.Bool("serves", of == &l.programs))
	return l.serve(s.Context(), a)
}

// serve runs an accepted stream: the reader beside, the writer here.
func (l *Listener) serve(stream context.Context, a acceptor) error {
	k := a.base()
	l.m.wg.Go(a.run)
	// A link that is cut takes its connection with it. One that ends in words
	// must get its trailers out: there the connection is cut only where the
	// writer does not come back. Other streams on it are not harmed.
	written := make(chan struct{})
	stop := context.AfterFunc(k.ctx, func() {
		if stream.Err() != nil || status.Code(context.Cause(k.ctx)) == codes.InvalidArgument {
			t := time.NewTimer(flushTime)
			defer t.Stop()
			select {
			case <-written:
				return
			case <-t.C:
			}
		}
		a.cutConn()
	})
	err := k.write(a.fill)
	close(written)
	if err == nil {
		// The last answers may still be on their way: the dialler closes the
		// connection, or gRPC's keepalive finds it dead.
		stop()
		err = a.goodbye()
	}
	k.close(err)
	if _, ok := status.FromError(err); !ok {
		err = status.Error(codes.Unavailable, err.Error())
	}
	return err
}

// admit counts a stream against the listener's links, before anything is read.
func (l *Listener) admit(of *tally) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return errLeaving
	case l.links.n+l.programs.n >= l.m.opt.Limits.Links:
		return status.Errorf(codes.ResourceExhausted, "too many links: this listener takes at most %d", l.m.opt.Limits.Links)
	}
	of.n++
	return nil
}

func (l *Listener) dismiss(of *tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of.leave()
}

// hello waits for the dialler's hello and checks it.
func (l *Listener) hello(s stream, k *link) (*caller, error) {
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
		return nil, status.Errorf(codes.FailedPrecondition, "no hello within %s: the first frame must be one", l.m.opt.DialTimeout)
	case <-l.gone:
		return nil, errLeaving
	case <-k.ctx.Done():
		return nil, context.Cause(k.ctx)
	}
	switch {
	case f.err != nil:
		return nil, protocolError("no hello: %v", causeOf(f.err))
	case f.in.frames[0].kind != kindHello:
		return nil, protocolError("the first frame is not a hello")
	}
	p, limits, err := readHello(f.in.frames[0].hello)
	switch {
	case errors.As(err, new(versionError)):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil:
		return nil, protocolError("%v", err)
	}
	f.in.shift()
	c := &caller{link: k, peer: p, limits: limits, in: f.in}
	c.peer.Addr, c.cut = connOf(k.ctx)
	if c.peer.Identity, err = l.m.opt.Security.identify(k.ctx, p.Process); err != nil {
		return nil, err
	}
	k.limit = limits.batch
	return c, nil
}

// greet answers the dialler's hello, which accepts the link.
func (l *link) greet(own *meshv1.Hello, peer peerLimits) error {
	hello := l.batch()
	hello.add(&frame{kind: kindHello, hello: own})
	if err := l.stream.SendMsg(hello); err != nil {
		return err
	}
	l.start(peer)
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
