package mesh

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/channel"
)

// NewStream is what generated stubs call for a streaming method. It returns once
// the opening stands in the node's line, and at once where that fails; what fails
// later is told by RecvMsg, and SendMsg returns io.EOF then. As with gRPC, one of
// two things ends a stream: RecvMsg has returned an error, or ctx has ended.
//
// A method that is no stream, or a plain Handler, can be called so too: one
// message each way. Messages that are []byte, and *[]byte to receive, pass as
// they are and are given away; others go through protobuf, or the codec of
// grpc.ForceCodecV2. Options.CallTimeout is not for streams. Post is refused.
func (p *Proxy) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := p.newStream(ctx, desc, method, opts)
	if err != nil {
		return nil, forStub(err)
	}
	return s, nil
}

func (p *Proxy) newStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts []grpc.CallOption) (*clientStream, error) {
	if p.err != nil {
		return nil, invalidTarget(p.text, method, p.err)
	}
	t, m, o := p.target, p.mesh, collect(opts)
	if o.post {
		return nil, t.fails(NotSent, ErrInvalidRequest, method, "invalid request: Post is for methods that are no streams")
	}
	msg := &channel.Message{
		Route: &t.route, Node: t.node, Name: t.name, Handle: uint64(t.handle), Target: t.text, Method: method,
		NoWait: o.noWait, WaitUp: o.waitUp, Hops: o.hops, OnBehalf: o.onBehalf,
	}
	in, trace := carriedBy(ctx)
	if in != nil {
		msg.Turn = in
		msg.Inside = in.mesh == m && !in.over()
	}
	msg.Due, _ = ctx.Deadline()
	if err := outgoing(ctx, msg, &o, in, trace); err != nil {
		return nil, t.fails(NotSent, ErrInvalidRequest, method, "invalid request: "+err.Error())
	}
	ctx, cancel := context.WithCancel(ctx)
	s, err := m.ch.Open(ctx, msg, int64(o.maxReply))
	if err != nil {
		cancel()
		return nil, err
	}
	return &clientStream{ctx: ctx, cancel: cancel, s: s, o: o, codec: o.codecOr(m.codec), desc: desc, target: t, method: method}, nil
}

// clientStream is the calling end of a stream.
type clientStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	s      *channel.Stream
	o      callOptions
	codec  codec
	desc   *grpc.StreamDesc
	target *target
	method string
	got    bool                  // the one message of a method that sends one
	closed bool                  // CloseSend was called
	failed atomic.Pointer[Error] // why this end aborted it

	once sync.Once
}

// Header waits for the headers; nil where the stream ended without.
func (c *clientStream) Header() (metadata.MD, error) {
	hs, ok := c.s.Header(nil)
	if !ok {
		return nil, nil
	}
	return toMD(hs), nil
}

// Trailer returns the trailers, once RecvMsg has returned an error.
func (c *clientStream) Trailer() metadata.MD { return toMD(c.s.Trailer()) }

// CloseSend ends the sending.
func (c *clientStream) CloseSend() error {
	c.closed = true
	c.s.CloseSend()
	return nil
}

// Context ends with the stream; it has the peer once one has answered.
func (c *clientStream) Context() context.Context {
	if p := c.s.Peer(); p.Addr != "" {
		return peer.NewContext(c.ctx, &peer.Peer{Addr: peerAddr(p.Addr)})
	}
	return c.ctx
}

// SendMsg queues a message, and waits while too much waits to be sent.
func (c *clientStream) SendMsg(m any) error { return forStub(c.send(m)) }

func (c *clientStream) send(m any) error {
	if c.closed {
		return status.Error(codes.Internal, "SendMsg called after CloseSend")
	}
	b, err := c.codec.marshal(m)
	switch {
	case err != nil:
		return c.abort(MaybeExecuted, ErrInvalidRequest, "the message cannot be encoded: "+err.Error())
	case c.o.maxRequest > 0 && len(b) > c.o.maxRequest:
		return c.abort(MaybeExecuted, ErrTooLarge, tooLarge("message", len(b), c.o.maxRequest))
	}
	err = c.s.Send(nil, b)
	switch {
	case errors.Is(err, channel.ErrStreamEnded) && !c.desc.ClientStreams:
		return nil // RecvMsg knows why
	case errors.Is(err, channel.ErrStreamEnded):
		return io.EOF
	case err != nil:
		c.finish()
		return err
	case !c.desc.ClientStreams:
		c.s.CloseSend()
	}
	return nil
}

// RecvMsg waits for the next message; io.EOF after the last one of a stream that
// succeeded.
func (c *clientStream) RecvMsg(m any) error { return forStub(c.receive(m)) }

func (c *clientStream) receive(m any) error {
	if e := c.failed.Load(); e != nil {
		return e
	}
	if c.got {
		return io.EOF
	}
	b, err := c.s.Recv(nil)
	switch {
	case errors.Is(err, io.EOF) && !c.desc.ServerStreams:
		return c.miscounted("no message")
	case err != nil:
		c.finish()
		return err
	}
	if err := c.codec.unmarshal(b, m); err != nil {
		return c.abort(HandlerFailed, ErrInvalidRequest, "the message cannot be decoded: "+err.Error())
	}
	if c.desc.ServerStreams {
		return nil
	}
	c.got = true
	switch _, err := c.s.Recv(nil); {
	case err == nil:
		return c.miscounted("more than one message")
	case errors.Is(err, io.EOF):
		c.finish()
		return nil
	default:
		c.finish()
		return err
	}
}

// miscounted fails a stream whose method sends one message.
func (c *clientStream) miscounted(what string) error {
	e := c.abort(HandlerFailed, ErrInvalidRequest, what+" came from a method that sends one")
	e.Code = codes.Internal
	return e
}

// abort ends a stream from this end, where the peer has not; what has arrived is
// not received any more.
func (c *clientStream) abort(v Verdict, cause error, text string) *Error {
	e := c.target.fails(v, cause, c.method, text)
	if !c.s.Abort(cause, text) {
		e.Verdict = NotSent
	}
	c.failed.Store(e)
	c.finish()
	return e
}

// finish gives the options what they ask for, once the stream is over.
func (c *clientStream) finish() {
	c.once.Do(func() {
		c.cancel()
		hs, _ := c.s.Header(nil)
		for _, p := range c.o.replyHeaders {
			*p = toMD(hs)
		}
		for _, p := range c.o.replyTrailers {
			*p = c.Trailer()
		}
		for _, p := range c.o.peers {
			*p = peer.Peer{Addr: peerAddr(c.s.Peer().Addr)}
		}
	})
}
