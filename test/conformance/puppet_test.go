package conformance_test

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// partBytes is the longest payload that travels in one frame.
const partBytes = 32768

// puppet is a node that is played by hand. Its streams wait in a line until a
// case takes them.
type puppet struct {
	meshv1.UnimplementedClusterServiceServer
	k       *kit
	addr    string
	streams chan *end

	mu     sync.Mutex
	opened []time.Time // of each stream
	refuse error       // what a stream is refused with
	ends   []*end
}

// puppet starts one, with Link and Serve.
func (k *kit) puppet() *puppet {
	k.Helper()
	return k.puppetAt("127.0.0.1:0")
}

func (k *kit) puppetAt(addr string) *puppet {
	k.Helper()
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		k.Fatal(err)
	}
	p := &puppet{k: k, addr: lis.Addr().String(), streams: make(chan *end, 1000)}
	// Small windows that do not grow: what is not read stops the helper soon.
	srv := grpc.NewServer(grpc.ForceServerCodecV2(codec{}), grpc.StaticStreamWindowSize(64<<10), grpc.StaticConnWindowSize(64<<10), grpc.MaxRecvMsgSize(2<<20))
	meshv1.RegisterClusterServiceServer(srv, p)
	go func() { _ = srv.Serve(lis) }()
	k.Cleanup(func() {
		srv.Stop()
		for _, e := range p.ends {
			e.judge()
		}
	})
	return p
}

// Link is one link.
func (p *puppet) Link(s grpc.BidiStreamingServer[meshv1.LinkRequest, meshv1.LinkResponse]) error {
	e := newEnd(p.k, s, &linkAudit{})
	e.receive = func() ([]*meshv1.Frame, int, error) {
		m, err := s.Recv()
		return m.GetFrames(), proto.Size(m), err
	}
	e.wrap = func(fs []*meshv1.Frame) any { return &meshv1.LinkResponse{Frames: fs} }
	return p.play(e)
}

// Serve is one stream of a program that answers.
func (p *puppet) Serve(s grpc.BidiStreamingServer[meshv1.ServeRequest, meshv1.ServeResponse]) error {
	e := newEnd(p.k, s, &serveAudit{})
	e.receive = func() ([]*meshv1.Frame, int, error) {
		m, err := s.Recv()
		return m.GetFrames(), proto.Size(m), err
	}
	e.wrap = func(fs []*meshv1.Frame) any { return &meshv1.ServeResponse{Frames: fs} }
	return p.play(e)
}

func (p *puppet) play(e *end) error {
	p.mu.Lock()
	p.opened = append(p.opened, time.Now())
	refuse := p.refuse
	if refuse == nil {
		p.ends = append(p.ends, e)
	}
	p.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	if err := e.stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	go e.pump()
	p.streams <- e
	select {
	case err := <-e.over:
		return err
	case <-e.stream.Context().Done():
		return e.stream.Context().Err()
	case <-p.k.over:
	}
	select { // a helper that leaves in order sees the end that it waits for
	case <-e.gone:
	case <-e.stream.Context().Done():
	}
	return nil
}

// refuses makes it refuse every new stream; nil ends that.
func (p *puppet) refuses(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = err
}

// count is how many streams were opened; times are when.
func (p *puppet) count() int { return len(p.times()) }

func (p *puppet) times() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time(nil), p.opened...)
}

// accept takes the next stream.
func (p *puppet) accept() *end {
	p.k.Helper()
	select {
	case e := <-p.streams:
		return e
	case <-time.After(patience):
		p.k.Fatalf("no stream was opened within %s", patience)
		return nil
	}
}

// greeted takes the next stream and exchanges hellos.
func (p *puppet) greeted(set ...func(*meshv1.Hello)) *end {
	p.k.Helper()
	e := p.accept()
	e.greet(set...)
	return e
}

// echo answers every call of every further stream with its payload, and more of
// the streams that are given, until the case ends.
func (p *puppet) echo(streams ...*end) {
	for _, e := range streams {
		go e.echo()
	}
	ctx := p.k.Context()
	go func() {
		for {
			select {
			case e := <-p.streams:
				if e.hear(ctx).GetHello() != nil {
					e.sayHello()
					go e.echo()
				}
			case <-ctx.Done():
				return
			}
		}
	}()
}

// refused is a stream's end before its hello.
func refused(code codes.Code, why string) error { return status.Error(code, why) }

// codec passes bytes as they are beside protobuf's messages.
type codec struct{}

// raw is a gRPC message written by hand.
type raw []byte

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(raw); ok {
		return mem.BufferSlice{mem.SliceBuffer(r)}, nil
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	return encoding.GetCodecV2("proto").Unmarshal(data, v)
}

// serverStream is what Link and Serve have in common.
type serverStream interface {
	SendMsg(any) error
	SendHeader(metadata.MD) error
	Context() context.Context
}
