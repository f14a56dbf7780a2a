package mesh

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/channel"
)

// NewStreamService makes a service that takes every method as a stream of bytes,
// as grpc.UnknownServiceHandler does: streams, and calls and pushes as streams
// with one message each way. h finds the method with
// grpc.MethodFromServerStream, receives into a *[]byte, which is its own, and
// sends []byte, which it gives away; srv is the *Service. What it returns is the
// status. Methods of RegisterService come before it. Without options it is
// Concurrent(1000).
func (m *Mesh) NewStreamService(h grpc.StreamHandler, opts ...ServiceOption) *Service {
	s := m.NewService(nil, opts...)
	s.raw = h
	return s
}

// stream runs a stream's method, or the handler of any, inside the interceptors.
func (s *Service) stream(in *inbound, ss grpc.ServerStream) error {
	name := in.req.Method
	info := &grpc.StreamServerInfo{FullMethod: name, IsClientStream: true, IsServerStream: true}
	srv, run := any(s), s.raw
	if m, ok := (*s.methods.Load())[name]; ok && m.stream != nil {
		srv, run = m.impl, m.stream.Handler
		info.IsClientStream, info.IsServerStream = m.stream.ClientStreams, m.stream.ServerStreams
	} else if !strings.HasPrefix(name, "/") {
		info.FullMethod = "/" + in.known() + "/" + name
	}
	if run == nil {
		return refused{unknownMethod(name)}
	}
	in.full = info.FullMethod
	if s.mesh.interceptStream == nil {
		return run(srv, ss)
	}
	return s.mesh.interceptStream(srv, ss, info, run)
}

// serverStream is what both kinds of streams have: the message's context,
// headers and trailers.
type serverStream struct{ in *inbound }

// Context is the handler's.
func (s serverStream) Context() context.Context { return s.in }

// SetHeader adds to the headers that are sent before the first message.
func (s serverStream) SetHeader(md metadata.MD) error { return transportStream(s).SetHeader(md) }

// SendHeader sends the headers.
func (s serverStream) SendHeader(md metadata.MD) error { return transportStream(s).SendHeader(md) }

// SetTrailer adds to the trailers. What they cannot have is left out.
func (s serverStream) SetTrailer(md metadata.MD) { _ = transportStream(s).SetTrailer(md) }

// bothWays is a stream at its handler.
type bothWays struct {
	serverStream
	s *channel.Stream
}

// SendMsg queues a message, and waits while too much waits to be sent.
func (b *bothWays) SendMsg(m any) error {
	payload, err := b.in.mesh.codec.marshal(m)
	if err != nil {
		return status.Error(codes.Internal, "the message cannot be encoded: "+err.Error())
	}
	if hs, first := b.in.takeHeaders(); first && len(hs) > 0 {
		if err := b.s.SendHeaders(hs); err != nil {
			return b.in.streamError(err)
		}
	}
	return b.in.streamError(b.s.Send(b.in.Done(), payload))
}

// RecvMsg waits for the next message; io.EOF after the last one.
func (b *bothWays) RecvMsg(m any) error {
	payload, err := b.s.Recv(b.in.Done())
	if err != nil {
		return b.in.streamError(err)
	}
	return b.in.mesh.codec.decode(payload, m)
}

// decode reads a message of a caller.
func (c codec) decode(payload []byte, m any) error {
	if err := c.unmarshal(payload, m); err != nil {
		return status.Error(codes.InvalidArgument, "the request cannot be decoded: "+err.Error())
	}
	return nil
}

// streamError is what a handler is told.
func (in *inbound) streamError(err error) error {
	if err == nil || errors.Is(err, io.EOF) || !errors.Is(err, channel.ErrStreamEnded) {
		return err
	}
	if ended := in.Err(); ended != nil {
		return status.FromContextError(ended).Err()
	}
	return status.Error(codes.Canceled, err.Error())
}

// takeHeaders returns what the handler has set, the first time: then they leave.
func (in *inbound) takeHeaders() (hs []channel.Header, first bool) {
	a := in.ask()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.headed {
		return nil, false
	}
	a.headed = true
	return appendMD(nil, a.headers), true
}

// oneEach shows a call or push as a stream with one message each way.
type oneEach struct {
	serverStream
	payload []byte
	taken   bool
	reply   []byte
	sent    bool
}

var errOneMessage = status.Error(codes.Internal, "the caller made a call, which takes one message")

// SendMsg makes the reply.
func (o *oneEach) SendMsg(m any) error {
	if o.sent {
		return errOneMessage
	}
	b, err := o.in.mesh.codec.marshal(m)
	if err != nil {
		return status.Error(codes.Internal, "the message cannot be encoded: "+err.Error())
	}
	o.reply, o.sent = b, true
	return nil
}

// RecvMsg returns the request, then io.EOF.
func (o *oneEach) RecvMsg(m any) error {
	if o.taken {
		return io.EOF
	}
	o.taken = true
	return o.in.mesh.codec.decode(o.payload, m)
}

// asStream runs a call or push of a service that takes streams.
func (s *Service) asStream(in *inbound, request []byte) ([]byte, error) {
	o := &oneEach{serverStream: serverStream{in}, payload: request}
	if err := s.stream(in, o); err != nil {
		return nil, err
	}
	if !o.sent && !in.req.Push {
		return nil, status.Error(codes.Internal, "the handler sent no message, and its caller made a call")
	}
	return o.reply, nil
}
