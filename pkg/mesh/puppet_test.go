package mesh_test

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// puppet is a peer whose frames a test writes by hand: the dialling end of a
// link, or the listening one.
type puppet struct {
	t    *testing.T
	recv func() ([]*meshv1.Frame, error)
	put  func(...*meshv1.Frame) error
	got  []*meshv1.Frame
}

// next is the next frame of the other side that is no heartbeat; nil where the
// link has ended.
func (p *puppet) next() *meshv1.Frame {
	for {
		for len(p.got) > 0 {
			f := p.got[0]
			p.got = p.got[1:]
			if f.GetHeartbeat() == nil {
				return f
			}
		}
		var err error
		if p.got, err = p.recv(); err != nil {
			return nil
		}
	}
}

// say sends frames in one message. A link that has ended takes none.
func (p *puppet) say(fs ...*meshv1.Frame) { _ = p.put(fs...) }

func puppetHello() *meshv1.Frame {
	return &meshv1.Frame{Body: &meshv1.Frame_Hello{Hello: &meshv1.Hello{Version: 1, Process: "puppet", Incarnation: 7}}}
}

func requestFrame(session uint64, name, method string) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Request{Request: &meshv1.Request{
		Address: &meshv1.Request_Name{Name: name}, Method: method,
	}}}
}

func pushFrame(session uint64, name, method string) *meshv1.Frame {
	f := requestFrame(session, name, method)
	f.GetRequest().Push = true
	return f
}

func replyFrame(session uint64, payload string) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Reply{Reply: &meshv1.Reply{Payload: []byte(payload)}}}
}

func partFrame(session uint64, payload string) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Part{Part: &meshv1.Part{Payload: []byte(payload)}}}
}

func failureFrame(session uint64, f *meshv1.Failure) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Failure{Failure: f}}
}

func cancelFrame(session uint64) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Cancel{Cancel: &meshv1.Cancel{}}}
}

func goawayFrame(last uint64) *meshv1.Frame {
	return &meshv1.Frame{Body: &meshv1.Frame_Goaway{Goaway: &meshv1.Goaway{LastSession: last, Message: "the puppet leaves"}}}
}

// dialPuppet opens a link to addr, the hellos included. It lives as long as the
// context.
func (w *world) dialPuppet(ctx context.Context, addr string) *puppet {
	w.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return w.Dial(ctx, addr) }))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = cc.Close() })
	s, err := meshv1.NewClusterServiceClient(cc).Link(ctx)
	if err != nil {
		w.Fatal(err)
	}
	p := &puppet{t: w.T}
	p.recv = func() ([]*meshv1.Frame, error) { m, err := s.Recv(); return m.GetFrames(), err }
	p.put = func(fs ...*meshv1.Frame) error { return s.Send(&meshv1.LinkRequest{Frames: fs}) }
	p.say(puppetHello())
	if p.next().GetHello() == nil {
		w.Fatal("no hello")
	}
	return p
}

// puppetServer plays a listener: each link that is dialled runs act, and ends
// in order when it returns.
type puppetServer struct {
	meshv1.UnimplementedClusterServiceServer
	t   *testing.T
	act func(p *puppet)
}

func (s *puppetServer) Link(st grpc.BidiStreamingServer[meshv1.LinkRequest, meshv1.LinkResponse]) error {
	if err := st.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	p := &puppet{t: s.t}
	p.recv = func() ([]*meshv1.Frame, error) { m, err := st.Recv(); return m.GetFrames(), err }
	p.put = func(fs ...*meshv1.Frame) error { return st.Send(&meshv1.LinkResponse{Frames: fs}) }
	if p.next().GetHello() == nil {
		s.t.Error("a link without a hello")
		return nil
	}
	p.say(puppetHello())
	s.act(p)
	return nil
}

// listenPuppet serves links at addr by hand.
func (w *world) listenPuppet(addr string, act func(p *puppet)) {
	w.Helper()
	lis, err := w.Listen(addr)
	if err != nil {
		w.Fatal(err)
	}
	srv := grpc.NewServer()
	meshv1.RegisterClusterServiceServer(srv, &puppetServer{t: w.T, act: act})
	go func() { _ = srv.Serve(lis) }()
	w.Cleanup(srv.Stop)
}
