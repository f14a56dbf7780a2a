package gateway

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// call is one call of a client on its way through.
type call struct {
	g      *Gateway
	in     grpc.ServerStream
	ctx    context.Context // for the mesh; ends with the client's
	method string
	route  route
	proxy  *mesh.Proxy
	msgs   chan message // what the client sends
}

// message is one of the client, or the end: io.EOF for a half-close.
type message struct {
	payload []byte
	err     error
}

// handle is gRPC's handler of every method.
func (g *Gateway) handle(_ any, in grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(in)
	md, _ := metadata.FromIncomingContext(in.Context())
	if answer := g.own(method, md); answer != nil {
		return answer(in)
	}
	onBehalf, err := g.mesh.Admit(in.Context(), md)
	if err != nil {
		return err
	}
	r, err := g.route(method, md, onBehalf)
	if err != nil {
		return err
	}
	c := &call{g: g, in: in, method: method, route: r, proxy: g.mesh.Proxy(r.target), msgs: make(chan message)}
	c.ctx = r.context(in.Context())
	go c.read()
	return c.run()
}

// read hands on what the client sends. It ends with the call.
func (c *call) read() {
	for {
		var m message
		m.err = c.in.RecvMsg(&m.payload)
		select {
		case c.msgs <- m:
		case <-c.ctx.Done():
			return
		}
		if m.err != nil {
			return
		}
	}
}

// run decides how the call is carried. One message and a half-close may be a
// single request; whatever else the client does, or does not in time, it has a
// stream, which carries every kind of method.
func (c *call) run() error {
	key := methodOf{c.route.target, c.method}
	known := c.g.kinds.get(key)
	if known == streams && !c.route.post {
		return c.stream()
	}
	var late <-chan time.Time
	if !c.route.post {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		late = timer.C
	}
	var seen []message
	for len(seen) < 2 {
		select {
		case m := <-c.msgs:
			seen = append(seen, m)
			if m.err == nil {
				continue
			}
			if m.err != io.EOF {
				return c.unread(m.err, mesh.NotSent)
			}
			if len(seen) == 2 {
				return c.request(seen, key, known)
			}
		case <-late:
		case <-c.ctx.Done():
			return c.over()
		}
		break
	}
	if c.route.post {
		return invalid(mesh.ErrInvalidRequest, c.route.target, c.method, "%s: a one-way call is exactly one message, and this one is not", keyPost)
	}
	return c.stream(seen...)
}

// over is the error of a call that ended before it was sent.
func (c *call) over() error {
	err := c.ctx.Err()
	return refusal(err, status.FromContextError(err).Code(), c.route.target, c.method, err.Error())
}

// unread is the error of a message that could not be read from the client.
func (c *call) unread(err error, known mesh.Verdict) error {
	st := status.Convert(err)
	switch {
	case c.ctx.Err() != nil:
		return c.over()
	case st.Code() == codes.ResourceExhausted:
		e := refusal(mesh.ErrTooLarge, st.Code(), c.route.target, c.method, "too large: "+st.Message())
		e.Verdict = known
		return e
	default:
		e := refusal(mesh.ErrInvalidRequest, st.Code(), c.route.target, c.method, "the message cannot be read: "+st.Message())
		e.Verdict = known
		return e
	}
}

// request carries one message as a request, or as a stream where the target says
// that the method is none of single requests.
func (c *call) request(seen []message, key methodOf, known kind) error {
	payload := seen[0].payload
	if c.route.post {
		if err := c.proxy.Send(c.ctx, c.method, payload, c.route.opts...); err != nil {
			return err
		}
		return c.in.SendMsg([]byte(nil))
	}
	ctx := c.ctx
	if known == unknown {
		ctx = metadata.AppendToOutgoingContext(ctx, keyKind, kindAny)
	}
	var head, trail metadata.MD
	reply, err := c.proxy.Call(ctx, c.method, payload, append(c.route.opts, grpc.Header(&head), grpc.Trailer(&trail))...)
	if errors.Is(err, mesh.ErrUnknownMethod) && mesh.VerdictOf(err) == mesh.Rejected {
		err := c.stream(seen...)
		if !errors.Is(err, mesh.ErrUnknownMethod) {
			c.g.kinds.set(key, streams)
		}
		return err
	}
	if len(head) > 0 {
		_ = c.in.SetHeader(withoutTransport(head)) // it fails only for a call that is over
	}
	if len(trail) > 0 {
		c.in.SetTrailer(withoutTransport(trail))
	}
	if err != nil {
		return err
	}
	if known == unknown {
		c.g.kinds.set(key, unary)
	}
	return c.in.SendMsg(reply)
}

var bothWays = grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// stream carries the call as a stream. seen are the client's messages so far.
func (c *call) stream(seen ...message) error {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	out, err := c.proxy.NewStream(ctx, &bothWays, c.method, c.route.opts...)
	if err != nil {
		return err
	}
	var up sync.WaitGroup
	up.Go(func() {
		if err := c.up(ctx, out, seen); err != nil {
			cancel(err)
		}
	})
	err = c.down(out)
	cause := context.Cause(ctx)
	cancel(nil)
	up.Wait()
	if err != nil && cause != nil && c.ctx.Err() == nil {
		return cause // what the client sent could not be read
	}
	return err
}

// up sends the client's messages to the target.
func (c *call) up(ctx context.Context, out grpc.ClientStream, seen []message) error {
	for n := 0; ; n++ {
		var m message
		if n < len(seen) {
			m = seen[n]
		} else {
			select {
			case m = <-c.msgs:
			case <-ctx.Done():
				return nil
			}
		}
		switch m.err {
		case nil:
			if n == 1 {
				c.g.kinds.set(methodOf{c.route.target, c.method}, streams)
			}
			if out.SendMsg(m.payload) != nil {
				return nil // down gets the reason
			}
		case io.EOF:
			_ = out.CloseSend()
			return nil
		default:
			return c.unread(m.err, mesh.MaybeExecuted)
		}
	}
}

// down sends the target's messages to the client.
func (c *call) down(out grpc.ClientStream) error {
	return down(out, c.in, func() { c.g.kinds.set(methodOf{c.route.target, c.method}, streams) })
}

// down passes on headers, messages and trailers, to the end of out. several is
// told when the second message comes.
func down(out grpc.ClientStream, in grpc.ServerStream, several func()) error {
	if head, err := out.Header(); err == nil && len(head) > 0 {
		if err := in.SendHeader(withoutTransport(head)); err != nil {
			return err
		}
	}
	for n := 0; ; n++ {
		var payload []byte
		if err := out.RecvMsg(&payload); err != nil {
			if trail := out.Trailer(); len(trail) > 0 {
				in.SetTrailer(withoutTransport(trail))
			}
			if err == io.EOF {
				return nil
			}
			return err
		}
		if n == 1 {
			several()
		}
		if err := in.SendMsg(payload); err != nil {
			return err
		}
	}
}
