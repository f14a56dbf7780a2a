package main

import (
	"context"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxMessage bounds a message of every contestant that has such a bound.
const maxMessage = 64 << 20

// echoService is bench.Echo, by hand: Call, Stream (a reply each) and Push (none).
func echoService(t *tally) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "bench.Echo",
		Methods: []grpc.MethodDesc{{
			MethodName: "Call",
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				m := new(wrapperspb.BytesValue)
				return m, decode(m)
			},
		}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Stream", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
				return receive(s, func(m *wrapperspb.BytesValue) error { return s.SendMsg(m) })
			}},
			{StreamName: "Push", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
				err := receive(s, func(m *wrapperspb.BytesValue) error {
					t.take(m.GetValue())
					return nil
				})
				if err != nil {
					return err
				}
				return s.SendMsg(new(emptypb.Empty))
			}},
		},
	}
}

func receive(s grpc.ServerStream, handle func(*wrapperspb.BytesValue) error) error {
	for {
		m := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := handle(m); err != nil {
			return err
		}
	}
}

func grpcServe(t *tally) (string, func(), error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	s.RegisterService(echoService(t), nil)
	go func() { _ = s.Serve(l) }()
	return l.Addr().String(), s.Stop, nil
}

// grpcClient calls by unary calls or by a stream a caller, over one connection.
type grpcClient struct {
	conn    *grpc.ClientConn
	streams bool
}

func grpcDial(addr string, streams bool) (client, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	return &grpcClient{conn, streams}, err
}

func grpcUnaryDial(_ context.Context, addr string) (client, error)  { return grpcDial(addr, false) }
func grpcStreamDial(_ context.Context, addr string) (client, error) { return grpcDial(addr, true) }

func (c *grpcClient) close() { _ = c.conn.Close() }

func (c *grpcClient) caller(ctx context.Context, _ int) (caller, error) {
	if !c.streams {
		return grpcCaller{c.conn, ctx}, nil
	}
	return &streamCaller{client: c, ctx: ctx}, nil
}

type grpcCaller struct {
	conn *grpc.ClientConn
	ctx  context.Context
}

func (c grpcCaller) call(payload []byte) ([]byte, error) {
	reply := new(wrapperspb.BytesValue)
	err := c.conn.Invoke(c.ctx, "/bench.Echo/Call", &wrapperspb.BytesValue{Value: payload}, reply)
	return reply.GetValue(), err
}

func (grpcCaller) push([]byte) error { return errNoPushes }

func (grpcCaller) close() error { return nil }

// streamCaller opens its streams at first use.
type streamCaller struct {
	client *grpcClient
	ctx    context.Context
	calls  grpc.ClientStream
	pushes grpc.ClientStream
}

func (c *streamCaller) open(s *grpc.ClientStream, method string, both bool) (err error) {
	if *s == nil {
		*s, err = c.client.conn.NewStream(c.ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: both}, method)
	}
	return err
}

func (c *streamCaller) call(payload []byte) ([]byte, error) {
	if err := c.open(&c.calls, "/bench.Echo/Stream", true); err != nil {
		return nil, err
	}
	if err := c.calls.SendMsg(&wrapperspb.BytesValue{Value: payload}); err != nil {
		return nil, err
	}
	reply := new(wrapperspb.BytesValue)
	err := c.calls.RecvMsg(reply)
	return reply.GetValue(), err
}

func (c *streamCaller) push(payload []byte) error {
	if err := c.open(&c.pushes, "/bench.Echo/Push", false); err != nil {
		return err
	}
	return c.pushes.SendMsg(&wrapperspb.BytesValue{Value: payload})
}

func (c *streamCaller) close() error {
	if c.calls != nil {
		_ = c.calls.CloseSend()
		if err := c.calls.RecvMsg(new(wrapperspb.BytesValue)); err != io.EOF {
			return err
		}
	}
	if c.pushes == nil {
		return nil
	}
	if err := c.pushes.CloseSend(); err != nil {
		return err
	}
	return c.pushes.RecvMsg(new(emptypb.Empty))
}
