package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// onceConn dials for one ClientConn, once: gRPC's own second attempts never
// act. It keeps the connection so that a link can be cut, and the cause so that
// it can be told.
type onceConn struct {
	dial func(context.Context) (net.Conn, error)
	used atomic.Bool
	conn atomic.Pointer[net.Conn]
	err  atomic.Pointer[error]
	cc   *grpc.ClientConn
}

func (o *onceConn) dialer(ctx context.Context, _ string) (net.Conn, error) {
	if o.used.Swap(true) {
		return nil, errors.New("a link dials once")
	}
	conn, err := o.dial(ctx)
	if err != nil {
		o.err.Store(&err)
		return nil, err
	}
	o.conn.Store(&conn)
	return conn, nil
}

// cut closes the socket first: gRPC's own Close would wait for a stalled peer.
func (o *onceConn) cut() {
	if c := o.conn.Load(); c != nil {
		_ = (*c).Close()
	}
}

// clientOptions are the gRPC settings of a link; see docs/protocol.md.
func (m *Manager) clientOptions(o *onceConn, node, addr string) []grpc.DialOption {
	l := &m.opt.Limits
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(m.opt.Security.dial(node, addr)),
		grpc.WithContextDialer(o.dialer),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithStaticStreamWindowSize(l.WindowBytes),
		grpc.WithStaticConnWindowSize(l.WindowBytes),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(newCodec()),
			grpc.MaxCallRecvMsgSize(l.BatchBytes+batchSlack),
			grpc.MaxCallSendMsgSize(2*maxBatchBytes),
		),
	}
	if m.opt.Security.Dial == nil {
		opts = append(opts, grpc.WithAuthority("mesh")) // else the host of the certificate
	}
	if show := m.opt.Security.Show; show != nil {
		opts = append(opts, grpc.WithPerRPCCredentials(show))
	}
	return opts
}

// batchSlack is how far above the batch bound gRPC's own message limit lies.
const batchSlack = 4 << 10

var errPlaintext = errors.New("plaintext is spoken on loopback and unix sockets only: set TLS (--tls-cert and more), or allow it with Options.Insecure (--insecure)")

// connect opens a link: connection, stream, both hellos. What else came with
// the listener's hello is left in the inbox. ctx abandons the attempt, and has
// no say once the link is open.
func (m *Manager) connect(ctx context.Context, node, addr string) (_ *dialled, _ *outlet, _ *inbox, err error) {
	if !m.opt.mayDial(addr) {
		return nil, nil, nil, errPlaintext
	}
	once := &onceConn{dial: func(ctx context.Context) (net.Conn, error) { return m.opt.Dial(ctx, addr) }}
	once.cc, err = grpc.NewClient("passthrough:///"+addr, m.clientOptions(once, node, addr)...)
	if err != nil {
		return nil, nil, nil, err
	}
	d := &dialled{link: newLink(m.ctx, &m.opt), conn: once}
	bound := time.AfterFunc(m.opt.DialTimeout, func() {
		d.end(fmt.Errorf("no answer within %s", m.opt.DialTimeout))
		once.cut()
	})
	abandon := context.AfterFunc(ctx, func() { d.end(ctx.Err()); once.cut() })
	defer func() {
		if kept := abandon(); err == nil && (!bound.Stop() || !kept) {
			d.end(errors.New("the dial was abandoned")) // or what the timer said
			err = context.Cause(d.ctx)
		}
		bound.Stop()
		if err != nil {
			err = d.dialError(err)
			d.hangUp(err)
		}
	}()
	in := &inbox{many: &m.frames}
	o, err := m.greet(d, node, addr, in)
	return d, o, in, err
}

// greet opens the stream and exchanges the hellos.
func (m *Manager) greet(d *dialled, node, addr string, in *inbox) (*outlet, error) {
	desc := &meshv1.ClusterService_ServiceDesc.Streams[0]
	s, err := d.conn.cc.NewStream(d.ctx, desc, meshv1.ClusterService_Link_FullMethodName)
	switch {
	case err != nil && m.opt.Security.Dial == nil && d.conn.conn.Load() != nil:
		return nil, fmt.Errorf("%w (a connection stood, and what answers speaks no gRPC in plaintext: does it expect TLS?)", causeOf(err))
	case err != nil:
		return nil, err
	}
	d.stream = s
	hello := &batch{limit: minBatchBytes}
	hello.add(&frame{kind: kindHello, hello: m.opt.hello(node)})
	if err := s.SendMsg(hello); err != nil && !errors.Is(err, io.EOF) {
		return nil, err // at io.EOF RecvMsg knows why
	}
	for len(in.frames) == 0 {
		if err := s.RecvMsg(in); err != nil {
			return nil, err
		}
	}
	if in.frames[0].kind != kindHello {
		return nil, errors.New("protocol error: the first frame is not a hello")
	}
	peer, limits, err := readHello(in.frames[0].hello)
	if err != nil {
		return nil, fmt.Errorf("protocol error: %w", err)
	}
	in.shift()
	peer.Addr, peer.Node = addr, node
	d.start(limits)
	o := newOutlet(addr, peer, limits, time.Now())
	o.link = d
	return o, nil
}

// dialError finds the words that help most in what gRPC says.
func (d *dialled) dialError(err error) error {
	if e := d.conn.err.Load(); e != nil && d.ctx.Err() == nil {
		return *e
	}
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the node ended the link before its hello")
	}
	return causeOf(err)
}

// causeOf takes gRPC's wrapping off an error.
func causeOf(err error) error {
	if s, ok := status.FromError(err); ok {
		return errors.New(s.Message())
	}
	return err
}

// hangUp ends the connection and what gRPC runs for it.
func (d *dialled) hangUp(cause error) {
	d.close(cause)
	if cause != nil {
		d.conn.cut()
	}
	_ = d.conn.cc.Close()
	d.conn.cut()
}
