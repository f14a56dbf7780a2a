package mesh

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/access"
	"github.com/meshnode/meshnode/pkg/channel"
	"github.com/meshnode/meshnode/pkg/registry"
)

// inbound is one message in this process: its place in a service's queue, its
// turn, and the context of its handler, all in one.
type inbound struct {
	registry.Element
	mesh *Mesh
	svc  *Service
	req  channel.Request
	full string // the full method, for interceptors

	prev, next *inbound // in the workload
	state      loadState

	ended atomic.Uint32         // why the context ended; alive until then
	asked atomic.Pointer[asked] // nil until someone asks for what is in it
}

// What inbound.ended may be.
const (
	alive uint32 = iota
	cancelled
	pastDue
)

// asked is what few handlers want to know of their context.
type asked struct {
	mu       sync.Mutex
	done     chan struct{}
	closed   bool // done is
	timer    *time.Timer
	after    map[*func()]struct{} // what AfterFunc is to run
	values   context.Context      // what gRPC's functions look for
	headers  metadata.MD
	trailers metadata.MD
	headed   bool // of a stream: the headers have left
}

// ask returns it, made by the first who does.
func (in *inbound) ask() *asked {
	if a := in.asked.Load(); a != nil {
		return a
	}
	in.asked.CompareAndSwap(nil, new(asked))
	return in.asked.Load()
}

// inboundKey leads to an *inbound, or to a *traced: one look into a context
// finds all that the mesh has put there.
type inboundKey struct{}

// traced is what WithTrace puts into a context.
type traced struct {
	trace Trace
	in    *inbound // of the context without it
}

// carriedBy finds the message whose handler has the context, and what WithTrace
// put there; either may be nil.
func carriedBy(ctx context.Context) (*inbound, *Trace) {
	switch v := ctx.Value(inboundKey{}).(type) {
	case *inbound:
		return v, nil
	case *traced:
		return v.in, &v.trace
	default:
		return nil, nil
	}
}

// inboundOf finds the message whose handler has the context, or nil.
func inboundOf(ctx context.Context) *inbound {
	in, _ := carriedBy(ctx)
	return in
}

// request is what arrived; nil of nil.
func (in *inbound) request() *channel.Request {
	if in == nil {
		return nil
	}
	return &in.req
}

// Deadline is the call's.
func (in *inbound) Deadline() (time.Time, bool) { return in.req.Due, !in.req.Due.IsZero() }

// Done is made, and the deadline watched, only for those who ask.
func (in *inbound) Done() <-chan struct{} {
	a := in.ask()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done == nil {
		a.done = make(chan struct{})
		in.watch(a)
	}
	return a.done
}

// watch is called under a's lock when a has something to tell of the end of the
// context, which may have come.
func (in *inbound) watch(a *asked) {
	if in.ended.Load() != alive {
		a.tell()
	} else if a.timer == nil && !in.req.Due.IsZero() {
		a.timer = time.AfterFunc(time.Until(in.req.Due), func() { in.end(pastDue) })
	}
}

// tell is called under the lock: the context has ended.
func (a *asked) tell() {
	if a.done != nil && !a.closed {
		a.closed = true
		close(a.done)
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	for f := range a.after {
		go (*f)()
	}
	a.after = nil
}

// Err says why the context has ended: context.Canceled or
// context.DeadlineExceeded.
func (in *inbound) Err() error {
	if due := in.req.Due; !due.IsZero() && !time.Now().Before(due) {
		in.end(pastDue)
	}
	switch in.ended.Load() {
	case alive:
		return nil
	case pastDue:
		return context.DeadlineExceeded
	default:
		return context.Canceled
	}
}

// over says that the handler has returned, or was told to.
func (in *inbound) over() bool { return in.ended.Load() != alive }

// end ends the context, once. Whoever asks for something at the same time finds
// that it has ended, or is found here.
func (in *inbound) end(why uint32) {
	if !in.ended.CompareAndSwap(alive, why) {
		return
	}
	if a := in.asked.Load(); a != nil {
		a.mu.Lock()
		a.tell()
		a.mu.Unlock()
	}
}

// AfterFunc spares package context a goroutine for each context that is derived
// from a handler's.
func (in *inbound) AfterFunc(f func()) (stop func() bool) {
	a := in.ask()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.after == nil {
		a.after = make(map[*func()]struct{})
	}
	a.after[&f] = struct{}{}
	in.watch(a)
	return func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		_, waits := a.after[&f]
		delete(a.after, &f)
		return waits
	}
}

// Value finds the message itself, and what gRPC keeps in the context of a
// handler.
func (in *inbound) Value(key any) any {
	switch key.(type) {
	case inboundKey:
		return in
	case *int:
		return nil // package context asks whether this is one of its own
	default:
		return in.grpcValues().Value(key)
	}
}

func (in *inbound) grpcValues() context.Context {
	a := in.ask()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.values == nil {
		ctx := metadata.NewIncomingContext(context.Background(), toMD(in.req.Headers))
		ctx = peer.NewContext(ctx, &peer.Peer{Addr: peerAddr(in.req.Peer.Addr)})
		a.values = grpc.NewContextWithServerTransportStream(ctx, transportStream{in})
	}
	return a.values
}

// peerAddr is the network address of a peer.
type peerAddr string

// Network is "mesh".
func (peerAddr) Network() string { return "mesh" }

// String is the address as the connection has it.
func (a peerAddr) String() string { return string(a) }

var _ net.Addr = peerAddr("")

// transportStream is where grpc.SetHeader and grpc.SetTrailer write.
type transportStream struct{ in *inbound }

// Method is the full method.
func (t transportStream) Method() string { return t.in.full }

// SetHeader adds to what is sent with the reply, or before the first message of
// a stream.
func (t transportStream) SetHeader(md metadata.MD) error {
	if err := checkMD(md); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	a := t.in.ask()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.headed {
		return status.Error(codes.Internal, "the headers have been sent")
	}
	a.headers = metadata.Join(a.headers, md)
	return nil
}

// SendHeader sends the headers of a stream. For a call it is SetHeader: headers
// and reply leave in one frame.
func (t transportStream) SendHeader(md metadata.MD) error {
	if err := t.SetHeader(md); err != nil {
		return err
	}
	s := t.in.req.Stream()
	if s == nil {
		return nil
	}
	if hs, first := t.in.takeHeaders(); first {
		return t.in.streamError(s.SendHeaders(hs))
	}
	return nil
}

// SetTrailer adds to the trailers of the reply.
func (t transportStream) SetTrailer(md metadata.MD) error {
	if err := checkMD(md); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	a := t.in.ask()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trailers = metadata.Join(a.trailers, md)
	return nil
}

// metadata returns what the handler set.
func (in *inbound) metadata() (headers, trailers []channel.Header) {
	a := in.asked.Load()
	if a == nil {
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return appendMD(nil, a.headers), appendMD(nil, a.trailers)
}

func (in *inbound) trace() Trace {
	t := Trace{Tag: in.req.Tag}
	for _, h := range in.req.Headers {
		switch h.Key {
		case headerParent:
			t.Parent = string(h.Value)
		case headerState:
			t.State = string(h.Value)
		}
	}
	return t
}

// Caller is what a handler can know of who calls it.
type Caller struct {
	// Process and Incarnation are what the caller's process says of itself.
	Process     string
	Incarnation uint32
	// Node is the node name by which the caller came; "" where it gave none.
	Node string
	// Addr is its network address.
	Addr string
	// Identity is the name that the caller proved to have: the first of its
	// certificate, or "token"; "" where nothing was proved.
	Identity string
	// Target is the service as it was addressed: "@sdb" or ":HANDLE".
	Target string
	// Method and Session are the message's; sessions are unique on one link.
	Method  string
	Session uint64
	// Push says that nobody waits for a reply.
	Push bool
	// Hops says how often it was passed on before; see Forwarded. OnBehalf is the
	// identity of the first caller then, where a rule lets the peer that passes it
	// on be believed (the right "behalf"); else "".
	Hops     int
	OnBehalf string
	// Trace came with the message.
	Trace Trace
}

// CallerFrom tells who calls, from the context of a handler. It is false for
// another context.
func CallerFrom(ctx context.Context) (Caller, bool) {
	in := inboundOf(ctx)
	if in == nil {
		return Caller{}, false
	}
	r := &in.req
	return Caller{
		Process: r.Peer.Process, Incarnation: r.Peer.Incarnation, Node: r.Peer.Node, Addr: r.Peer.Addr,
		Identity: access.Identity{Names: r.Peer.Identity}.String(),
		Target:   in.address(), Method: r.Method, Session: r.Session, Push: r.Push, Hops: int(r.Hops), OnBehalf: in.mesh.guard.behalf(r), Trace: in.trace(),
	}, true
}

// address is the service as it was addressed.
func (in *inbound) address() string {
	if in.req.Name != "" {
		return in.req.Name
	}
	return Handle(in.req.Handle).String()
}
