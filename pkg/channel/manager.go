package channel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Manager holds the table of nodes, a sender for each, and the listeners. It is
// safe for concurrent use.
type Manager struct {
	Counters Counters

	opt     Options
	ctx     context.Context // ends when Close is over
	cancel  context.CancelFunc
	wg      sync.WaitGroup // dials and links
	closing atomic.Bool
	calls   callPool
	frames  framePool
	replies replyGate
	states  stateLog
	parts   atomic.Int64 // weight of unfinished requests of all links

	streams  atomic.Int64 // of all accepted links
	messages budget       // for the large messages of streams
	backlogs replyGate    // what waits to be sent of accepted streams

	reload sync.Mutex // one reload at a time

	mu        sync.RWMutex
	senders   map[string]*sender
	strangers int // of senders: those that meet has made
	noWaiting bool
	shut      bool // senders made from now on are closed
	watchers  map[*Watcher]struct{}
	listeners map[*Listener]struct{}
}

// NewManager returns a manager with an empty table.
func NewManager(o Options) *Manager {
	m := &Manager{
		opt:       o,
		senders:   make(map[string]*sender),
		watchers:  make(map[*Watcher]struct{}),
		listeners: make(map[*Listener]struct{}),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.replies.init(o.Limits.ReplyBytes)
	m.backlogs.init(o.Limits.ReplyBytes)
	m.messages.limit = o.Limits.StreamMessages
	return m
}

// Reload takes a checked update of the table (M3). It returns at once: dials
// and ends of links go on in the background.
func (m *Manager) Reload(u Update) {
	m.reload.Lock()
	defer m.reload.Unlock()
	m.mu.Lock()
	changed := u.NoWaiting != nil && *u.NoWaiting != m.noWaiting
	if changed {
		m.noWaiting = *u.NoWaiting
	}
	noWaiting := m.noWaiting
	names := slices.Collect(maps.Keys(u.Nodes))
	if changed {
		names = slices.Collect(maps.Keys(m.senders))
		for name := range u.Nodes {
			if m.senders[name] == nil {
				names = append(names, name)
			}
		}
	}
	m.mu.Unlock()
	for _, name := range names {
		e, mentioned := u.Nodes[name]
		s := m.sender(name)
		s.mu.Lock()
		s.node.apply(e, mentioned, noWaiting)
		s.mu.Unlock()
	}
}

// known returns the sender of a node; nil where none was made.
func (m *Manager) known(name string) *sender {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.senders[name]
}

// sender returns the sender of a node, made at first use.
func (m *Manager) sender(name string) *sender {
	s := m.known(name)
	if s != nil {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.senders[name]; s != nil {
		return s
	}
	s = newSender(m, name)
	m.senders[name] = s
	return s
}

// Route remembers the way to one node of one Manager, and saves looking it up
// for each message. The zero value knows nothing yet.
type Route struct{ sender atomic.Pointer[sender] }

// to returns the sender of the message's node.
func (m *Manager) to(msg *Message) *sender {
	if msg.Route == nil {
		return m.sender(msg.Node)
	}
	s := msg.Route.sender.Load()
	if s == nil {
		s = m.sender(msg.Node)
		msg.Route.sender.Store(s)
	}
	return s
}

// Entry returns what the table says of a node.
func (m *Manager) Entry(name string) Entry {
	s := m.known(name)
	if s == nil {
		return Entry{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.entry
}

// Node returns the state of a node.
func (m *Manager) Node(name string) NodeInfo {
	s := m.known(name)
	if s == nil {
		return NodeInfo{Node: name}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.info()
}

// all returns every sender, sorted by name.
func (m *Manager) all() []*sender {
	m.mu.RLock()
	defer m.mu.RUnlock()
	ss := slices.Collect(maps.Values(m.senders))
	slices.SortFunc(ss, func(a, b *sender) int { return strings.Compare(a.node.name, b.node.name) })
	return ss
}

// Do makes a call or a push and waits for its outcome: for a call its reply or
// error, for a push that it stands in the line of an open link. The error is
// an *Error.
func (m *Manager) Do(ctx context.Context, msg *Message) (Reply, error) {
	err := m.check(ctx, msg)
	if err == nil && msg.Hops > 0 {
		err = m.meet(msg.Node)
	}
	if err != nil {
		err.Node, err.Target, err.Method = msg.Node, msg.Target, msg.Method
		return Reply{}, err
	}
	s := m.to(msg)
	c := m.calls.get()
	c.Message = *msg
	if !msg.Owned {
		c.Payload = join([][]byte{msg.Payload}, len(msg.Payload))
	}
	s.mu.Lock()
	direct := s.submit(c)
	if c.settled {
		o := c.early // read here: an accepted push may be sent, and reused, at once
		s.mu.Unlock()
		return m.finish(c, o)
	}
	c.waited = true
	room := c.place == placeRoom
	if direct {
		s.writeDirect() // gives the lock back
	} else {
		s.mu.Unlock()
	}
	if msg.Turn != nil && msg.Turn.Yield() {
		defer msg.Turn.Retake()
	}
	return s.wait(ctx, c, room)
}

// finish gives the outcome in the form that callers get. The call is not theirs
// any more.
func (m *Manager) finish(c *call, o outcome) (Reply, error) {
	if o.last {
		m.calls.put(c)
	}
	if o.err != nil {
		return o.reply, o.err // a failure may bring headers and trailers
	}
	if o.held != nil {
		o.reply.Payload = o.held.join()
	}
	return o.reply, nil
}

// maxStrangers bounds the nodes that only forwarded messages have named: what is
// kept for each is kept for good, and others choose these names.
const maxStrangers = 1024

// meet refuses a forwarded message to one more node of which nothing is known.
func (m *Manager) meet(name string) *Error {
	if m.known(name) != nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.senders[name] != nil:
		return nil
	case m.strangers >= maxStrangers:
		return NewError(NotSent, ErrAbsent, fmt.Sprintf("cluster node [%s] is absent, and forwarded messages wait for no more than %d such nodes.", name, maxStrangers))
	}
	m.strangers++
	m.senders[name] = newSender(m, name)
	return nil
}

// check refuses what could never be sent.
func (m *Manager) check(ctx context.Context, msg *Message) *Error {
	switch {
	case m.closing.Load() && !msg.Inside:
		return NewError(NotSent, ErrClosed, "")
	case ctx.Err() != nil:
		return NewError(NotSent, ctx.Err(), "")
	case msg.Hops >= MaxHops:
		return NewError(NotSent, ErrLoop, loopText)
	case len(msg.OnBehalf) > maxNameBytes || !utf8.ValidString(msg.OnBehalf):
		return NewError(NotSent, ErrInvalidRequest, fmt.Sprintf("invalid request: on whose behalf: at most %d bytes of UTF-8", maxNameBytes))
	case len(msg.Method) > maxMethodBytes:
		return NewError(NotSent, ErrInvalidRequest, fmt.Sprintf("invalid request: the method has %d bytes; at most %d are allowed", len(msg.Method), maxMethodBytes))
	case headerBytes(msg.Headers)+m.tagBytes(msg) > maxHeaderBytes:
		return NewError(NotSent, ErrInvalidRequest, fmt.Sprintf("invalid request: the headers have %d bytes; at most %d are allowed", headerBytes(msg.Headers), maxHeaderBytes))
	case !utf8.ValidString(msg.Method) || !utf8.ValidString(msg.Tag):
		return NewError(NotSent, ErrInvalidRequest, "invalid request: the method and the trace tag must be UTF-8")
	default:
		return nil
	}
}

// tagBytes is at least the length of the trace tag as it will leave.
func (m *Manager) tagBytes(msg *Message) int64 {
	if msg.Tag == "" {
		return 0
	}
	return int64(len(msg.Tag) + len(m.opt.Process) + len(msg.Target) + len("(--)"+n20))
}

// CloseListeners is the first half of an orderly end (M55): from now on only
// messages with Message.Inside are taken; the listeners take no more and drain
// until ctx ends, the programs that serve last, since the links may call them. except is a call whose handler is not waited for, or nil.
func (m *Manager) CloseListeners(ctx context.Context, except *Request) {
	m.mu.Lock()
	m.closing.Store(true) // under the lock: Listen adds to listeners before or not at all
	ls := slices.Collect(maps.Keys(m.listeners))
	m.mu.Unlock()
	first := make([]bool, len(ls))
	var wg sync.WaitGroup
	for i, l := range ls {
		wg.Go(func() { first[i] = l.endLinks(ctx, except) })
	}
	wg.Wait()
	for i, l := range ls {
		if first[i] {
			wg.Go(func() { l.endPrograms(ctx) })
		}
	}
	wg.Wait()
}

// Close is the second half: the links that this process dialled finish what
// they have until ctx ends; what is left then is cut.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.shut = true
	m.mu.Unlock()
	for _, s := range m.all() {
		s.shut()
	}
	for _, s := range m.all() {
		s.waitLinks(ctx)
	}
	for _, s := range m.all() {
		s.finish()
	}
	m.cancel()
	done := make(chan struct{})
	go func() { m.wg.Wait(); close(done) }()
	bound := time.NewTimer(closeBound)
	defer bound.Stop()
	select {
	case <-done:
		m.states.flush()
		return nil
	case <-bound.C:
		return errors.New("links did not end in time after the mesh was closed")
	}
}

// closeBound is how long gRPC may take to give up a connection that was cut.
const closeBound = 15 * time.Second
