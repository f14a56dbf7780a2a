// Package pingserver is the ping service of skynet's snax example. It answers
// the stubs of pingserver.v1, and plain messages with the method SLEEP, which
// are good for trying out what a slow handler does to a process that ends.
package pingserver

import (
	"bytes"
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pingserverv1 "github.com/meshnode/meshnode/examples/proto/pingserver/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// Server answers pings.
type Server struct {
	pingserverv1.UnimplementedPingServerServiceServer
	delay   time.Duration
	started func(ctx context.Context, text string)
}

// New makes a Server that takes delay for each ping; skynet's takes a second.
// started is told of each message that starts, with the handler's context and
// the message's text; nil: nobody is.
func New(delay time.Duration, started func(ctx context.Context, text string)) *Server {
	if started == nil {
		started = func(context.Context, string) {}
	}
	return &Server{delay: delay, started: started}
}

// Service makes the service of s in m, without a name yet. It is serial, and yet
// serves many at once: see sleep.
func (s *Server) Service(m *mesh.Mesh) *mesh.Service {
	svc := m.NewService(s.handle, mesh.Serial())
	pingserverv1.RegisterPingServerServiceServer(svc, s)
	return svc
}

// Ping returns its text, unhurriedly.
func (s *Server) Ping(ctx context.Context, r *pingserverv1.PingRequest) (*pingserverv1.PingResponse, error) {
	s.started(ctx, r.GetText())
	if err := sleep(ctx, s.delay); err != nil {
		return nil, err
	}
	return &pingserverv1.PingResponse{Text: r.GetText()}, nil
}

// handle answers plain messages: SLEEP "1.5s and a text" returns the text after
// so long.
func (s *Server) handle(ctx context.Context, method string, payload []byte) ([]byte, error) {
	if method != "SLEEP" {
		return nil, status.Errorf(codes.Unimplemented, "unknown command %.80q: there is SLEEP, and Ping for stubs", method)
	}
	length, text, _ := bytes.Cut(payload, []byte(" "))
	d, err := time.ParseDuration(string(length))
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "SLEEP %.80q: send a duration like 1.5s, and a text after a space if you like", length)
	}
	s.started(ctx, string(text))
	return text, sleep(ctx, d)
}

// sleep waits for d or the end of ctx. The wait is in mesh.Await, so that the
// next message starts meanwhile, as skynet.sleep lets it.
func sleep(ctx context.Context, d time.Duration) (err error) {
	mesh.Await(ctx, func() {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
	})
	return err
}
