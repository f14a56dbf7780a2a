package mesh_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// rogueEnd is the listening end of a link that is not ours: a plain grpc-go
// server with the generated stubs. It says what a test's script tells it to.
type rogueEnd struct {
	stream grpc.BidiStreamingServer[meshv1.LinkRequest, meshv1.LinkResponse]
	hello  *meshv1.Hello // the dialler's

	mu      sync.Mutex // for Send
	heard   []*meshv1.Frame
	longest int // message that has come
}

// rogueListener runs the script for each link.
type rogueListener struct {
	meshv1.UnimplementedClusterServiceServer
	script func(e *rogueEnd, link int) error

	mu    sync.Mutex
	links int
}

// Link is one link.
func (l *rogueListener) Link(s grpc.BidiStreamingServer[meshv1.LinkRequest, meshv1.LinkResponse]) error {
	l.mu.Lock()
	l.links++
	n := l.links
	l.mu.Unlock()
	return l.script(&rogueEnd{stream: s}, n)
}

// count is how many links were opened.
func (l *rogueListener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.links
}

// rogueAt listens at addr with a script that runs for each link, the first of
// which is 1.
func (w *world) rogueAt(addr string, script func(e *rogueEnd, link int) error, opts ...grpc.ServerOption) *rogueListener {
	w.Helper()
	lis, err := w.Listen(addr)
	if err != nil {
		w.Fatal(err)
	}
	l := &rogueListener{script: script}
	s := grpc.NewServer(opts...)
	meshv1.RegisterClusterServiceServer(s, l)
	go func() { _ = s.Serve(lis) }()
	w.Cleanup(s.Stop)
	return l
}

// prey is a process that calls a rogue at node "db", and an honest node at "ok":
// whatever the rogue does, calls to the other node go on.
func (w *world) prey(script func(e *rogueEnd, link int) error, set ...func(*mesh.Options)) (*mesh.Mesh, *rogueListener) {
	w.Helper()
	l := w.rogueAt("db:1", script)
	w.serve("honest", "ok:1", "sdb", echo)
	m := w.process("prey", set...)
	w.reload(m, mesh.Table{"db": "db:1", "ok": "ok:1"})
	w.unhurt(m)
	return m, l
}

// unhurt looks that the process still calls others, and that nothing of its
// gauges stays behind.
func (w *world) unhurt(m *mesh.Mesh) {
	w.Helper()
	if got, err := m.Call(w.within(time.Second), "ok@sdb", "ECHO", []byte("x")); err != nil || string(got) != "x" {
		w.Errorf("a call to another node: %q, %v", got, err)
	}
	synctest.Wait()
	if s := m.Stats(); s.InFlight != 0 || s.Waiting != 0 || s.PushBytes != 0 || s.Panics != 0 || s.StreamsOut != 0 || s.StreamMessages != 0 {
		w.Errorf("gauges: %+v", s)
	}
}

// greet takes the dialler's hello and answers with one that set may spoil. From
// then on it sends heartbeats.
func (e *rogueEnd) greet(set ...func(*meshv1.Hello)) {
	f := e.hear()
	e.hello = f.GetHello()
	h := rogueHello(set...)
	h.GetHello().Node = ""
	e.say(h)
	go func() {
		for e.stream.Context().Err() == nil {
			select {
			case <-time.After(time.Second):
				e.say(rogueBeat())
			case <-e.stream.Context().Done():
			}
		}
	}()
}

func (e *rogueEnd) say(frames ...*meshv1.Frame) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.stream.Send(&meshv1.LinkResponse{Frames: frames}) // hear knows when the link has ended
}

// hear is the next frame that is no heartbeat; nil where the link has ended.
func (e *rogueEnd) hear() *meshv1.Frame {
	for {
		for len(e.heard) > 0 {
			f := e.heard[0]
			e.heard = e.heard[1:]
			if f.GetHeartbeat() == nil {
				return f
			}
		}
		m, err := e.stream.Recv()
		if err != nil {
			return nil
		}
		e.heard = m.GetFrames()
		e.longest = max(e.longest, proto.Size(m))
	}
}

// serve answers every call with its payload until the link ends.
func (e *rogueEnd) serve() error {
	for {
		f := e.hear()
		if f == nil {
			return nil
		}
		if q := f.GetRequest(); q != nil && !q.GetPush() {
			e.say(rogueReply(f.GetSession(), q.GetPayload()))
		}
	}
}

func rogueReply(session uint64, payload []byte, set ...func(*meshv1.Reply)) *meshv1.Frame {
	p := &meshv1.Reply{Payload: payload}
	for _, f := range set {
		f(p)
	}
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Reply{Reply: p}}
}

func rogueLargeReply(session, total uint64, n int) *meshv1.Frame {
	return rogueReply(session, make([]byte, n), func(p *meshv1.Reply) { p.TotalSize = total })
}

func rogueFailure(session uint64, reason meshv1.Reason, message string) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Failure{Failure: &meshv1.Failure{Reason: reason, Code: 3, Message: message}}}
}

func rogueGoaway(last uint64) *meshv1.Frame {
	return &meshv1.Frame{Body: &meshv1.Frame_Goaway{Goaway: &meshv1.Goaway{LastSession: last, Message: "because"}}}
}

// failsWith is what a call to the rogue must end with.
func failsWith(t *testing.T, what string, err error, v mesh.Verdict, cause error, message string) {
	t.Helper()
	if mesh.VerdictOf(err) != v || !isCause(err, cause) || err.Error() != message {
		t.Errorf("%s: %q (%s), want %q (%s, %v)", what, err, mesh.VerdictOf(err), message, v, cause)
	}
}
