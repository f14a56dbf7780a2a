package mesh

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshnode/meshnode/pkg/channel"
	"github.com/meshnode/meshnode/pkg/registry"
)

// Mesh is one process's part in the mesh. All its methods are safe for
// concurrent use.
type Mesh struct {
	opt         Options
	incarnation uint32
	reg         *registry.Registry
	ch          *channel.Manager
	process     *Service // handle 0
	programs    programs
	intercept   grpc.UnaryServerInterceptor
	health      *health.Server
	guard       *guard
	work        workload
	targets     targetCache
	codec       codec
	stats       struct{ panics, pushErrors atomic.Int64 }

	interceptStream grpc.StreamServerInterceptor

	reload sync.Mutex // orders reading the source and taking it

	mu    sync.Mutex
	open  map[string]*Listener // by node name
	over  chan struct{}        // made by the first Close, closed at its end
	final error
}

// New makes a Mesh, and reads Options.Source if there is one. It listens on
// nothing and dials nobody yet.
func New(o Options) (*Mesh, error) {
	if o.DialTimeout < 0 || o.HeartbeatInterval < 0 || o.CallTimeout < 0 {
		return nil, errors.New("mesh: DialTimeout, HeartbeatInterval and CallTimeout must not be negative; zero is the default")
	}
	guard, err := newGuard(&o)
	if err != nil {
		return nil, err
	}
	o = o.withDefaults()
	m := &Mesh{
		guard: guard,
		opt:   o, incarnation: rand.Uint32N(1<<32-1) + 1, open: make(map[string]*Listener),
		intercept: chain(o.Interceptors), interceptStream: chainStreams(o.StreamInterceptors), health: health.NewServer(),
		targets: targetCache{seed: maphash.MakeSeed()}, codec: newCodec(),
	}
	m.reg = registry.New(m.incarnation)
	m.process = m.NewService(m.answerProcess, Concurrent(0))
	co := o.channel(m.incarnation)
	co.Dispatcher = dispatcher{m}
	co.Security = guard.security()
	m.programs = programs{m: m, groups: make(map[string]*group)}
	if o.AllowServe {
		co.Registrar = &m.programs
	}
	co.Unary = m.unary
	co.ServerOptions = streamInterceptors(o.Logger)
	co.OnServer = func(s *grpc.Server) { healthpb.RegisterHealthServer(s, m.health) }
	m.ch = channel.NewManager(co)
	if o.Insecure && o.TLS == nil {
		o.Logger.Warn("insecure: plaintext is spoken beyond loopback and unix sockets; anyone on the network can read and call")
	}
	if err := m.Reload(nil); err != nil {
		_ = m.Close(context.Background())
		return nil, err
	}
	return m, nil
}

// Name is what this process says of itself.
func (m *Mesh) Name() string { return m.opt.Name }

// Reload merges t into the table, all or nothing: a name that is not mentioned
// keeps what it has, and a table with a mistake changes nothing (*TableError).
// It returns at once; links to nodes that moved end in order in the background.
// A nil table reads Options.Source again, and does nothing where there is none.
// The error is a *TableError, the source's own, or ErrClosed.
func (m *Mesh) Reload(t Table) error {
	if m.closed() {
		return ErrClosed
	}
	m.reload.Lock()
	defer m.reload.Unlock()
	if t == nil {
		if m.opt.Source == nil {
			return nil
		}
		var err error
		if t, err = m.opt.Source(); err != nil {
			return err
		}
	}
	u, err := t.update()
	if err != nil {
		return err
	}
	m.ch.Reload(u)
	m.warnMoved(u)
	return nil
}

// closed says that Close was called.
func (m *Mesh) closed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.over != nil
}

// warnMoved tells that a reload moved a node that this process listens for: the
// listener stays where it is.
func (m *Mesh) warnMoved(u channel.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, l := range m.open {
		if e, ok := u.Nodes[name]; ok && e != l.entry {
			m.opt.Logger.Warn("the table moved a node that is open here; its listener stays where it is",
				zap.String("node", name), zap.String("listening", l.Addr().String()), zap.String("table", e.Addr))
		}
	}
}

// Listener takes links for one node, or at one address.
type Listener struct {
	l     *channel.Listener
	m     *Mesh
	entry channel.Entry
}

// Addr is the address on which it listens, the real port included.
func (l *Listener) Addr() net.Addr { return l.l.Addr() }

// Close takes no more links, says goaway on those that are open, and returns
// when their last calls have ended, Options.DrainTime is over, or ctx ends;
// then they are cut. Other listeners go on.
func (l *Listener) Close(ctx context.Context) error {
	l.m.mu.Lock()
	if l.m.open[l.l.Node()] == l {
		delete(l.m.open, l.l.Node())
	}
	l.m.mu.Unlock()
	ctx, in, done := l.m.leaveHandler(ctx)
	defer done()
	return l.l.Close(ctx, in.request())
}

// Open listens: for a node name on its address in the table, or on an explicit
// address ("127.0.0.1:0", where port 0 picks one, or "unix:/path"). A name that
// is down, absent or open already is an error.
func (m *Mesh) Open(nodeOrAddr string) (*Listener, error) {
	if m.closed() {
		return nil, fmt.Errorf("open %s: %w", nodeOrAddr, ErrClosed)
	}
	if strings.Contains(nodeOrAddr, ":") {
		if err := channel.CheckListenAddr(nodeOrAddr); err != nil {
			return nil, fmt.Errorf("open: %w", err)
		}
		l, err := m.ch.Listen("", nodeOrAddr)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", nodeOrAddr, err)
		}
		return &Listener{l: l, m: m}, nil
	}
	if err := channel.CheckNode(nodeOrAddr); err != nil {
		return nil, fmt.Errorf("open: node %q: %w", nodeOrAddr, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.open[nodeOrAddr]; l != nil {
		return nil, fmt.Errorf("open: node [%s] is open already, on %s", nodeOrAddr, l.Addr())
	}
	e := m.ch.Entry(nodeOrAddr)
	switch e.Kind {
	case channel.Absent:
		return nil, channel.NewError(NotSent, ErrAbsent, fmt.Sprintf("open: node [%s] is absent from the table: give it an address first", nodeOrAddr))
	case channel.Down:
		return nil, channel.NewError(NotSent, ErrDown, fmt.Sprintf("open: node [%s] is down in the table: give it an address first", nodeOrAddr))
	}
	cl, err := m.ch.Listen(nodeOrAddr, e.Addr)
	if err != nil {
		return nil, fmt.Errorf("open node [%s]: %w", nodeOrAddr, err)
	}
	l := &Listener{l: cl, m: m, entry: e}
	m.open[nodeOrAddr] = l
	return l, nil
}

// State is what is known of a node.
type State = channel.State

// NodeInfo is the state of one node at one moment.
type NodeInfo = channel.NodeInfo

// The states of a node.
const (
	// Absent: the table does not have it. Callers wait.
	Absent = channel.StateAbsent
	// Down: the table says that it is down. Callers fail.
	Down = channel.StateDown
	// Idle: it has an address and no link, because nobody needs one.
	Idle = channel.StateIdle
	// Up: it has a link.
	Up = channel.StateUp
	// Leaving: it said that it takes no more.
	Leaving = channel.StateLeaving
	// Lost: its link broke, or a dial failed.
	Lost = channel.StateLost
)

// Node returns the state of a node.
func (m *Mesh) Node(name string) NodeInfo { return m.ch.Node(name) }

// Watch tells the states of nodes: first the present one of each, then each
// change, in order, after the calls in flight that a change ended have failed.
// A slow reader misses nothing but states that were followed by another of the
// same node. Nodes that are named are kept linked meanwhile; without names
// every node is seen and none is dialled. It ends with ctx or the Mesh.
func (m *Mesh) Watch(ctx context.Context, nodes ...string) iter.Seq[NodeInfo] {
	return func(yield func(NodeInfo) bool) {
		w := m.ch.Watch(nodes...)
		defer w.Stop()
		for {
			i, ok := w.Next(ctx)
			if !ok || !yield(i) {
				return
			}
		}
	}
}

// WaitReady waits until all the nodes are up at once. It dials them as often as
// it takes, and fails when one is down, ctx ends, or the Mesh is closed.
func (m *Mesh) WaitReady(ctx context.Context, nodes ...string) error {
	if in := inboundOf(ctx); in != nil && in.Yield() {
		defer in.Retake()
	}
	missing := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		if err := channel.CheckNode(n); err != nil {
			return channel.NewError(NotSent, ErrInvalidTarget, fmt.Sprintf("invalid node %q: %v", cut(n), err))
		}
		missing[n] = true
	}
	if len(nodes) == 0 {
		return nil
	}
	last := NodeInfo{Node: nodes[0]}
	for i := range m.Watch(ctx, nodes...) {
		switch i.State {
		case Up:
			delete(missing, i.Node)
		case Down:
			e := channel.NewError(NotSent, ErrDown, fmt.Sprintf("cluster node [%s] is down.", i.Node))
			e.Node = i.Node
			return e
		default:
			missing[i.Node], last = true, i
		}
		if len(missing) == 0 {
			return nil
		}
	}
	err := ctx.Err()
	if err == nil {
		err = ErrClosed
	}
	text := fmt.Sprintf("%v: node [%s] is %s", err, last.Node, last.State)
	if last.Reason != "" {
		text += ": " + last.Reason
	}
	e := channel.NewError(NotSent, err, text)
	e.Node = last.Node
	return e
}

// Stats are counters and gauges of a process at one moment; those of links and
// lines are listed in package channel.
type Stats struct {
	channel.Stats
	// Panics counts handlers that panicked, PushErrors those of pushes that
	// returned an error, Running those that run now.
	Panics, PushErrors int64
	Running            int
}

// Stats returns the counters and gauges.
func (m *Mesh) Stats() Stats {
	return Stats{Stats: m.ch.Stats(), Panics: m.stats.panics.Load(), PushErrors: m.stats.pushErrors.Load(), Running: m.work.running()}
}

// handlerGrace is what handlers get to return after their contexts have ended.
const handlerGrace = 200 * time.Millisecond

// Close ends the process's part in order: its listeners take no more and say
// goaway, running handlers and what they call may finish within
// Options.DrainTime, then links end and what was not sent fails with ErrClosed.
// ctx cuts that short; after either, answers that are ready get another half
// second to leave, and handlers 200 ms to return. One that goes on is named in
// the log and left.
// From Close on only running handlers may call. Called with a handler's context
// it does not wait for that handler. Twice is once.
func (m *Mesh) Close(ctx context.Context) error {
	ctx, in, done := m.leaveHandler(ctx)
	defer done()
	if in != nil {
		m.work.excuse(in)
	}
	m.mu.Lock()
	if m.over != nil {
		over := m.over
		m.mu.Unlock()
		select {
		case <-over:
			return m.final
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.over = make(chan struct{})
	m.mu.Unlock()
	m.health.Shutdown()
	ctx, cancel := context.WithTimeout(ctx, max(orDefault(m.opt.DrainTime, defaultDrain), time.Millisecond))
	defer cancel()
	m.ch.CloseListeners(ctx, in.request())
	m.work.wait(ctx)
	m.reg.Drain(errors.New("the process is closed"))
	m.work.endAll()
	m.final = m.ch.Close(ctx)
	grace, stop := context.WithTimeout(context.Background(), handlerGrace)
	defer stop()
	m.work.wait(grace)
	m.work.nameLeft(m.opt.Logger)
	close(m.over)
	return m.final
}

// leaveHandler prepares a closing that a handler may have called: it is not
// waited for, gives its turn away until done is called, and of its context only
// a deadline of its own counts, because the context ends with the link that is
// closed.
func (m *Mesh) leaveHandler(ctx context.Context) (_ context.Context, in *inbound, done func()) {
	in = inboundOf(ctx)
	if in == nil {
		return ctx, nil, func() {}
	}
	cancel, retake := context.CancelFunc(func() {}), func() {}
	due, has := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if own, _ := in.Deadline(); has && !due.Equal(own) {
		ctx, cancel = context.WithDeadline(ctx, due)
	}
	if in.Yield() {
		retake = in.Retake
	}
	if in.mesh != m {
		in = nil
	}
	return ctx, in, func() { cancel(); retake() }
}
