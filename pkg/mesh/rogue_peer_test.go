package mesh_test

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// rogue is a dialler that is not ours: plain grpc-go with the generated stubs,
// as a client in another language would be. It says what a test tells it to.
type rogue struct {
	*world
	cc     *grpc.ClientConn
	stream grpc.BidiStreamingClient[meshv1.LinkRequest, meshv1.LinkResponse]
	cancel context.CancelFunc // resets the stream

	mu      sync.Mutex // for Send
	heard   []*meshv1.Frame
	beats   atomic.Int64 // how many heartbeats have come
	stopped atomic.Bool  // what the latest said
	longest int          // message that has come
}

// rogueConn opens a connection, on which links can be opened.
func (w *world) rogueConn(addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	w.Helper()
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return w.Dial(ctx, addr) }),
	}, opts...)
	cc, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = cc.Close() })
	return cc
}

// rogueOn opens a link on a connection and says nothing yet.
func (w *world) rogueOn(cc *grpc.ClientConn) *rogue {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	w.Cleanup(cancel)
	s, err := meshv1.NewClusterServiceClient(cc).Link(ctx)
	if err != nil {
		w.Fatal(err)
	}
	return &rogue{world: w, cc: cc, stream: s, cancel: cancel}
}

// rogue opens a link on a connection of its own, and exchanges hellos.
func (w *world) rogue(addr string, set ...func(*meshv1.Hello)) *rogue {
	w.Helper()
	r := w.rogueOn(w.rogueConn(addr))
	r.say(rogueHello(set...))
	if h := r.hear(); h.GetHello() == nil {
		w.Fatalf("the first frame is %v, want a hello", h)
	}
	return r
}

// rogueHello is a right hello; set may spoil it.
func rogueHello(set ...func(*meshv1.Hello)) *meshv1.Frame {
	h := &meshv1.Hello{Version: 1, Process: "rogue", Node: "db", Incarnation: 7}
	for _, f := range set {
		f(h)
	}
	return &meshv1.Frame{Body: &meshv1.Frame_Hello{Hello: h}}
}

// say sends frames in one message.
func (r *rogue) say(frames ...*meshv1.Frame) {
	r.Helper()
	if err := r.trySay(frames...); err != nil && !errors.Is(err, io.EOF) { // at EOF Recv knows why
		r.Fatal(err)
	}
}

func (r *rogue) trySay(frames ...*meshv1.Frame) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stream.Send(&meshv1.LinkRequest{Frames: frames})
}

// next is the next frame, heartbeats included, or why there is none.
func (r *rogue) next() (*meshv1.Frame, error) {
	for len(r.heard) == 0 {
		m, err := r.stream.Recv()
		if err != nil {
			return nil, err
		}
		r.heard = m.GetFrames()
		r.longest = max(r.longest, proto.Size(m))
	}
	f := r.heard[0]
	r.heard = r.heard[1:]
	if b := f.GetHeartbeat(); b != nil {
		r.beats.Add(1)
		r.stopped.Store(b.GetReadingStopped())
	}
	return f, nil
}

// hear is the next frame that is no heartbeat.
func (r *rogue) hear() *meshv1.Frame {
	r.Helper()
	for {
		f, err := r.next()
		if err != nil {
			r.Fatalf("the link ended: %v", err)
		}
		if f.GetHeartbeat() == nil {
			return f
		}
	}
}

// ended reads to the end of the stream, past what comes before it.
func (r *rogue) ended() *status.Status {
	r.Helper()
	for {
		if _, err := r.next(); errors.Is(err, io.EOF) {
			return status.New(codes.OK, "")
		} else if err != nil {
			return status.Convert(err)
		}
	}
}

// beating sends heartbeats until the link ends.
func (r *rogue) beating() {
	go func() {
		for r.trySay(rogueBeat()) == nil {
			select {
			case <-time.After(time.Second):
			case <-r.stream.Context().Done():
				return
			}
		}
	}()
}

// answers is how the link proves that it lives: it makes one more call.
func (r *rogue) answers(session uint64) {
	r.Helper()
	r.say(rogueCall(session, "@sdb", "ECHO", []byte("alive")))
	if f := r.hear(); f.GetSession() != session || string(f.GetReply().GetPayload()) != "alive" {
		r.Fatalf("call %d: got %v, want its reply", session, f)
	}
}

// fails hears the failure of a session.
func (r *rogue) fails(session uint64, reason meshv1.Reason) *meshv1.Failure {
	r.Helper()
	f := r.hear()
	if f.GetSession() != session || f.GetFailure().GetReason() != reason {
		r.Fatalf("got %v, want the failure %s of session %d", f, reason, session)
	}
	return f.GetFailure()
}

func rogueCall(session uint64, name, method string, payload []byte, set ...func(*meshv1.Request)) *meshv1.Frame {
	q := &meshv1.Request{Address: &meshv1.Request_Name{Name: name}, Method: method, Payload: payload}
	for _, f := range set {
		f(q)
	}
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Request{Request: q}}
}

func rogueBeat() *meshv1.Frame {
	return &meshv1.Frame{Body: &meshv1.Frame_Heartbeat{Heartbeat: &meshv1.Heartbeat{}}}
}

func rogueCancel(session uint64) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Cancel{Cancel: &meshv1.Cancel{}}}
}

func roguePart(session uint64, n int) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Part{Part: &meshv1.Part{Payload: make([]byte, n)}}}
}

// rogueRaw is a frame whose body is raw bytes, under any field number.
func rogueRaw(session uint64, field protowire.Number, body []byte) *meshv1.Frame {
	f := &meshv1.Frame{Session: session}
	f.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), body))
	return f
}

// victim is a process with an honest client, whose call is in flight all the
// time: whatever a rogue does to the process, the call ends with its reply.
type victim struct {
	*world
	server, honest *mesh.Mesh
	listener       *mesh.Listener
	rogues         []*grpc.ClientConn

	mu   sync.Mutex
	runs map[string]int // by method
	free chan struct{}  // closed when HOLD may return
}

// withVictim runs f, and then looks that nothing of the rogues is left: neither
// goroutines nor anything that the gauges count.
func withVictim(t *testing.T, f func(v *victim), set ...func(*mesh.Options)) {
	t.Helper()
	inWorld(t, func(w *world) {
		v := &victim{world: w, runs: make(map[string]int), free: make(chan struct{})}
		v.server = w.process("server", set...)
		v.listener = w.open(v.server, "db:1")
		w.register(v.server, "sdb", v.handle, mesh.Concurrent(0))
		v.honest = w.process("honest", func(o *mesh.Options) { o.IdleTime = -1 })
		w.reload(v.honest, mesh.Table{"db": "db:1"})
		release := sync.OnceFunc(func() { close(v.free) })
		defer release()
		held := make(chan error, 1)
		go func() {
			_, err := v.honest.Call(w.within(24*time.Hour), "db@sdb", "HOLD", nil)
			held <- err
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		goroutines, _ := inBubble()
		before := v.server.Stats()
		f(v)
		v.undisturbed()
		v.clean(goroutines, before)
		release()
		if err := <-held; err != nil {
			t.Errorf("the honest client's call, which was in flight all the time: %v", err)
		}
	})
}

// conn and rogue are the world's, to the process.
func (v *victim) conn(opts ...grpc.DialOption) *grpc.ClientConn {
	v.Helper()
	cc := v.rogueConn("db:1", opts...)
	v.rogues = append(v.rogues, cc)
	return cc
}

func (v *victim) rogue(set ...func(*meshv1.Hello)) *rogue {
	v.Helper()
	r := v.world.rogue("db:1", set...)
	v.rogues = append(v.rogues, r.cc)
	return r
}

// handle is the service: ECHO answers at once, HOLD when the test is over, UNTIL
// when its context ends, LARGE with 1 MiB.
func (v *victim) handle(ctx context.Context, method string, payload []byte) ([]byte, error) {
	v.mu.Lock()
	v.runs[method]++
	v.mu.Unlock()
	switch method {
	case "HOLD":
		<-v.free
	case "UNTIL":
		<-ctx.Done()
	case "LARGE":
		return make([]byte, 1<<20), nil
	}
	return payload, nil
}

// ran is how often the handler was called with the method.
func (v *victim) ran(method string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.runs[method]
}

// undisturbed makes a call that has nothing to do with the rogues.
func (v *victim) undisturbed() {
	v.Helper()
	if got, err := v.honest.Call(v.within(time.Second), "db@sdb", "ECHO", []byte("x")); err != nil || string(got) != "x" {
		v.Errorf("the honest client's call: %q, %v", got, err)
	}
}

// clean looks that the gauges and the goroutines are back at the baseline, once
// the rogues have left.
func (v *victim) clean(goroutines int, before mesh.Stats) {
	v.Helper()
	for _, cc := range v.rogues {
		_ = cc.Close()
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	got := v.server.Stats()
	if got.LinksIn != before.LinksIn || got.Programs != before.Programs || got.Running != before.Running || got.ReplyBytes != 0 || got.UnfinishedBytes != 0 ||
		got.StreamsIn != 0 || got.StreamBytes != 0 || got.StreamMessages != 0 {
		v.Errorf("gauges: %+v, want those of before: %+v", got, before)
	}
	if got.Panics != 0 {
		v.Errorf("%d panics", got.Panics)
	}
	if n, stacks := inBubble(); n > goroutines {
		v.Errorf("%d goroutines, %d before\n%s", n, goroutines, stacks)
	}
}

// inBubble counts the goroutines of the test's bubble: the runtime has others
// that come and go.
func inBubble() (int, string) {
	buf := make([]byte, 1<<20)
	stacks := string(buf[:runtime.Stack(buf, true)])
	return strings.Count(stacks, ", synctest bubble "), stacks
}
