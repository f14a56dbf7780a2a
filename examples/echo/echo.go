// Package echo says back what it hears: it answers the stubs of echo.v1, which
// has a method of each kind that gRPC knows.
package echo

import (
	"context"
	"io"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	echov1 "github.com/meshnode/meshnode/examples/proto/echo/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// Server says back what it hears. Its zero value is ready.
type Server struct {
	echov1.UnimplementedEchoServiceServer
}

// maxPadding bounds what one answer of Count may be asked to carry.
const maxPadding = 1 << 20

// atOnce is how many handlers run at a time. A stream that is open is one, so
// the 1,000 of the default would be gone with 1,000 of them.
const atOnce = 8192

// Service makes the service of s in m, without a name yet.
func (s *Server) Service(m *mesh.Mesh) *mesh.Service {
	svc := m.NewService(nil, mesh.Concurrent(atOnce))
	echov1.RegisterEchoServiceServer(svc, s)
	return svc
}

// Say returns its text, or fails as it is told to. It sends a header and a
// trailer: "heard", with the length of the text, and "said".
func (s *Server) Say(ctx context.Context, r *echov1.SayRequest) (*echov1.SayResponse, error) {
	_ = grpc.SetHeader(ctx, metadata.Pairs("heard", strconv.Itoa(len(r.GetText()))))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("said", "1"))
	if r.GetCode() == 0 {
		return &echov1.SayResponse{Text: r.GetText()}, nil
	}
	if r.GetCode() < 0 || r.GetCode() > int32(codes.Unauthenticated) {
		return nil, status.Errorf(codes.InvalidArgument, "code %d is none of gRPC: use 1 to 16", r.GetCode())
	}
	st, err := status.New(codes.Code(r.GetCode()), r.GetText()).WithDetails(&errdetails.ErrorInfo{Domain: "echo", Reason: "ASKED_FOR"})
	if err != nil {
		return nil, err
	}
	return nil, st.Err()
}

// Count sends the numbers from 1 to the one that is asked for.
func (s *Server) Count(r *echov1.CountRequest, out grpc.ServerStreamingServer[echov1.CountResponse]) error {
	if r.GetBytes() < 0 || r.GetBytes() > maxPadding {
		return status.Errorf(codes.InvalidArgument, "%d bytes of padding: use 0 to %d", r.GetBytes(), maxPadding)
	}
	padding := make([]byte, r.GetBytes())
	for n := int64(1); n <= r.GetTo(); n++ {
		if err := out.Send(&echov1.CountResponse{Number: n, Padding: padding}); err != nil {
			return err
		}
	}
	return nil
}

// Collect returns the texts that it heard, in order.
func (s *Server) Collect(in grpc.ClientStreamingServer[echov1.CollectRequest, echov1.CollectResponse]) error {
	var all echov1.CollectResponse
	for {
		r, err := in.Recv()
		if err == io.EOF {
			return in.SendAndClose(&all)
		}
		if err != nil {
			return err
		}
		all.Texts = append(all.Texts, r.GetText())
	}
}

// Talk returns each text as it hears it.
func (s *Server) Talk(both grpc.BidiStreamingServer[echov1.TalkRequest, echov1.TalkResponse]) error {
	for {
		r, err := both.Recv()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case r.GetText() == "fail":
			return status.Error(codes.Aborted, "it was told to fail")
		}
		if err := both.Send(&echov1.TalkResponse{Text: r.GetText()}); err != nil {
			return err
		}
	}
}
