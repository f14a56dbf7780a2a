package mesh_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// program is a program that serves, in plain grpc-go with the generated stubs,
// as one in another language would be. It is a rogue whose stream is Serve's.
type program struct {
	*rogue
	session uint64             // of its last register or unregister
	frames  chan *meshv1.Frame // what has come, but for heartbeats; closed at the end
	end     *status.Status     // then
}

// serveStream shows a Serve stream as if it were Link's: the frames are the same.
type serveStream struct {
	grpc.ClientStream
	s grpc.BidiStreamingClient[meshv1.ServeRequest, meshv1.ServeResponse]
}

// Send sends the frames.
func (s serveStream) Send(m *meshv1.LinkRequest) error {
	return s.s.Send(&meshv1.ServeRequest{Frames: m.GetFrames()})
}

// Recv receives the next ones.
func (s serveStream) Recv() (*meshv1.LinkResponse, error) {
	m, err := s.s.Recv()
	return &meshv1.LinkResponse{Frames: m.GetFrames()}, err
}

// programOn opens Serve on a connection and says nothing yet.
func (w *world) programOn(cc *grpc.ClientConn) *program { return w.programWith(cc, "") }

// programWith shows a token, too.
func (w *world) programWith(cc *grpc.ClientConn, token string) *program {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Hour)
	w.Cleanup(cancel)
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	s, err := meshv1.NewClusterServiceClient(cc).Serve(ctx)
	if err != nil {
		w.Fatal(err)
	}
	return &program{rogue: &rogue{world: w, cc: cc, stream: serveStream{s, s}, cancel: cancel}}
}

// listen reads whatever comes.
func (p *program) listen() {
	p.frames = make(chan *meshv1.Frame, 10000)
	go func() {
		defer close(p.frames)
		for {
			f, err := p.next()
			switch {
			case errors.Is(err, io.EOF):
				p.end = status.New(codes.OK, "")
				return
			case err != nil:
				p.end = status.Convert(err)
				return
			case f.GetHeartbeat() == nil:
				p.frames <- f
			}
		}
	}()
}

// hear is the next frame that is no heartbeat.
func (p *program) hear() *meshv1.Frame {
	p.Helper()
	f, ok := <-p.frames
	if !ok {
		p.Fatalf("the stream ended: %v", p.end)
	}
	return f
}

// rests says that nothing comes.
func (p *program) rests() {
	p.Helper()
	synctest.Wait()
	select {
	case f, ok := <-p.frames:
		p.Fatalf("got %v (%t), want nothing", f, ok)
	default:
	}
}

// ended reads to the end of the stream.
func (p *program) ended() *status.Status {
	p.Helper()
	for f := range p.frames {
		p.Logf("before the end: %v", f)
	}
	return p.end
}

// refused hears how a register, or what is none, was refused.
func (p *program) refused(session uint64, reason meshv1.Reason, code codes.Code) *meshv1.Failure {
	p.Helper()
	f := p.hear()
	if f.GetSession() != session || f.GetFailure().GetReason() != reason || codes.Code(f.GetFailure().GetCode()) != code {
		p.Fatalf("got %v, want the failure %s of session %d with %s", f, reason, session, code)
	}
	return f.GetFailure()
}

// program opens Serve at db:1, exchanges hellos, beats, and registers names.
func (w *world) program(set func(*meshv1.Hello), names ...string) *program {
	w.Helper()
	p := w.programOn(w.rogueConn("db:1"))
	if set == nil {
		set = func(*meshv1.Hello) {}
	}
	p.say(rogueHello(func(h *meshv1.Hello) { h.Process = "model" }, set))
	p.listen()
	if h := p.hear(); h.GetHello() == nil {
		w.Fatalf("the first frame is %v, want a hello", h)
	}
	p.beating()
	for _, name := range names {
		p.registers(name, false)
	}
	return p
}

func registerFrame(session uint64, name string, shared bool) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Register{Register: &meshv1.Register{Name: name, Shared: shared}}}
}

func unregisterFrame(session uint64, name string) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Unregister{Unregister: &meshv1.Unregister{Name: name}}}
}

// registers registers a name and returns its handle.
func (p *program) registers(name string, shared bool) mesh.Handle {
	p.Helper()
	p.session++
	p.say(registerFrame(p.session, name, shared))
	return p.registered()
}

func (p *program) registered() mesh.Handle {
	p.Helper()
	f := p.hear()
	if f.GetSession() != p.session || f.GetRegistered() == nil {
		p.Fatalf("got %v, want registered for session %d", f, p.session)
	}
	return mesh.Handle(f.GetRegistered().GetHandle())
}

// asked hears a request by its method.
func (p *program) asked(method string) (session uint64, q *meshv1.Request) {
	p.Helper()
	f := p.hear()
	if q = f.GetRequest(); q == nil || q.GetMethod() != method {
		p.Fatalf("got %v, want the request %s", f, method)
	}
	return f.GetSession(), q
}

// served is a process that takes programs, at db:1, and one that calls it.
func served(t *testing.T, f func(w *world, node, caller *mesh.Mesh), set ...func(*mesh.Options)) {
	t.Helper()
	inWorld(t, func(w *world) {
		node := w.process("node", append(set, func(o *mesh.Options) { o.AllowServe = true })...)
		w.open(node, "db:1")
		caller := w.process("caller")
		w.reload(caller, mesh.Table{"db": "db:1"})
		f(w, node, caller)
	})
}

// result is what became of a call.
type result struct {
	reply []byte
	err   error
}

// calling makes a call and returns where its outcome comes.
func (w *world) calling(m *mesh.Mesh, target, method string, payload []byte, opts ...grpc.CallOption) <-chan result {
	done := make(chan result, 1)
	ctx := w.within(time.Hour)
	go func() {
		reply, err := m.Call(ctx, target, method, payload, opts...)
		done <- result{reply, err}
	}()
	synctest.Wait()
	return done
}
