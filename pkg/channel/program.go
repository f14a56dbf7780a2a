package channel

import (
	"slices"
	"time"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// Registrar joins the programs that serve names to those who call them. Its
// methods are called without locks, and must not block.
type Registrar interface {
	// Register gives p a name, which is as it came.
	Register(p *Program, name string, shared bool) (handle uint64, refused *Failure)
	// Unregister takes it back; handle is 0 where p did not have it.
	Unregister(p *Program, name string) (handle uint64, refused *Failure)
	// Room says that p takes messages that it did not take before.
	Room(p *Program)
	// Leaving says that p takes no more messages. What it had not taken is
	// returned before.
	Leaving(p *Program)
	// Gone says that p has ended. What it had is answered or returned before.
	Gone(p *Program)
}

// Passed is a message that a Program has. Its methods are called without locks,
// one of them, once: for a push Returned or nothing.
type Passed interface {
	// Answered is the program's answer, or what became of it.
	Answered(rep Reply, f *Failure)
	// Returned says that the message certainly did not start, and is whole
	// again: it may go elsewhere. Of several, the last is returned first.
	Returned()
}

// Program is the listener's end of a Serve stream: a program that cannot listen
// and answers what it is sent. It is the requesting end of a link, so it is a
// node with one outlet that was open from the start and is never dialled. What
// waits for it waits with whoever calls Forward; its line holds what its window
// takes. Its writer is the goroutine of the gRPC handler.
type Program struct {
	Peer  Peer
	Owner any // the registrar's own, set by it

	*sender
	d    *dialled
	o    *outlet
	conn func() // cuts the connection
	in   *inbox

	// Under the sender's lock.
	answers []frame       // to register and unregister
	heard   chan struct{} // closed when answers have room again; nil where the reader does not wait
	ended   []passedCall  // to be told when the lock is free
	back    []*call       // to be returned then, in order
	held    int64         // what it has of calls, by their size
	wanting bool          // Room has said no
	mute    bool          // Room says no: a name is being registered
	leaving bool          // the listener leaves
	eof     bool          // it has half-closed
	final   error         // how the stream ends, where it ends in order
}

// passedCall is a call that a program has, with its outcome.
type passedCall struct {
	c *call
	o outcome
}

// maxAnswers is how many answers to register and unregister may wait before the
// stream is not read.
const maxAnswers = 64

func newProgram(m *Manager, l *link, peer Peer, limits peerLimits, cut func(), in *inbox) *Program {
	p := &Program{Peer: peer, conn: cut, in: in, d: &dialled{link: l}, sender: &sender{m: m}}
	p.o = newOutlet(peer.Addr, peer, limits, time.Now())
	p.o.link = p.d
	t := m.opt.timing()
	t.idle = 0 // the stream is the program's to end
	p.node = node{
		host: p, name: peer.Process, self: m.opt.Process, limits: m.opt.Limits, timing: t,
		counters: &m.Counters, phase: phaseOpen, link: p.o, peer: peer,
	}
	return p
}

// A program is not dialled, and its state is no node's.
func (p *Program) dial(uint64, string) {}
func (p *Program) abandon()            {}
func (p *Program) after(time.Duration) {}
func (p *Program) tell(NodeInfo)       {}

// cut ends the stream, unless the program half-closed: then it ends in order.
func (p *Program) cut(o *outlet, cause error) {
	if !p.eof {
		o.link.end(cause)
	}
}

func (p *Program) base() *link    { return p.d.link }
func (p *Program) cutConn()       { p.conn() }
func (p *Program) goodbye() error { return p.final }

// Room says what the program takes now: another call, another push. load is how
// many messages it has. Where it takes either not, Registrar.Room tells when it
// does.
func (p *Program) Room() (load int, calls, pushes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	load, calls, pushes = p.room()
	p.wanting = !calls || !pushes
	return load, calls, pushes
}

func (p *Program) room() (load int, calls, pushes bool) {
	n, l := &p.node, &p.node.limits
	if n.link == nil || p.leaving || p.mute || p.o.dead {
		return 0, false, false
	}
	load = len(p.o.flights) + n.line.len + p.o.blocked.len
	calls = len(p.o.flights)+n.calls < p.o.limits.calls && p.held < l.ProgramBytes
	return load, calls, n.pushes < l.LinePushBytes
}

// Forward gives the program a message, under the name by which it serves it. It
// returns false where the program takes none any more; the message is whole
// then. onBehalf is the identity of its first caller, where that is known.
// Answers go to the message's Passed.
func (p *Program) Forward(r *Request, name, onBehalf string, to Passed) (taken bool, refused *Failure) {
	if r.Hops+1 >= MaxHops {
		return true, Refuse(meshv1.Reason_REASON_LOOP, loopText)
	}
	c := new(call)
	if r.Push {
		c = p.m.calls.get() // it goes back there when it has left
	}
	c.via, c.told, c.from = p, to, r
	c.Message = Message{
		Node: p.Peer.Process, Name: name, Target: name, Method: r.Method, Payload: r.TakePayload(), Headers: r.Headers,
		Tag: r.Tag, Due: r.Due, Hops: r.Hops + 1, OnBehalf: onBehalf, Push: r.Push,
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := &p.node
	if n.link == nil || p.leaving || p.o.dead {
		r.payload = c.Payload
		return false, nil
	}
	if err := p.o.refuses(c); err != nil {
		return true, err.refusal()
	}
	if !c.Push {
		p.held += c.size()
		r.passed = c
	}
	n.enqueue(c)
	return true, nil
}

// Cancel takes back a call that the program has. It returns true where it had
// not left, and now never will: its Passed is told of no more, and whoever calls
// this has Registrar.Room to call. Where it has left, the program is told that
// nobody waits, unless only what has not left is meant; it is answered all the
// same.
func (p *Program) Cancel(r *Request, unsentOnly bool) (neverStarted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := r.passed // of this program: a call is with one at a time
	switch {
	case c == nil || c.settled:
		return false
	case c.place == placeLine || c.place == placeAside:
		p.node.depart(c)
		c.place, c.settled = placeDone, true
		p.held -= c.size()
		p.d.wake() // what stood behind it may pass now
		return true
	case c.place == placeSent && !unsentOnly:
		c.dropped = true
		c.out.bulk.stop(c)
		c.out.cancels = append(c.out.cancels, c.session)
		p.d.wake()
	}
	return false
}

// PassedTo is the program that was last given the call, or nil. Whoever calls it
// keeps Forward away.
func (r *Request) PassedTo() *Program {
	if r.passed == nil {
		return nil
	}
	return r.passed.via
}

// settled is how a call's outcome comes, under the lock.
func (p *Program) settled(c *call, o outcome) {
	if c.Push {
		return // it stands in the line, or is counted where it is lost
	}
	p.held -= c.size()
	p.ended = append(p.ended, passedCall{c, o})
}

// unlock gives the lock back and tells what happened under it.
func (p *Program) unlock() {
	ended, back := p.ended, p.back
	p.ended, p.back = nil, nil
	_, calls, pushes := p.room()
	room := p.wanting && (calls || pushes) || len(back) > 0
	if room {
		p.wanting = false
	}
	p.mu.Unlock()
	for _, e := range ended {
		e.tell()
	}
	for _, c := range slices.Backward(back) {
		if c.dropped {
			c.told.Answered(Reply{}, cancelFailure())
			continue
		}
		c.from.payload = c.Payload
		c.told.Returned()
	}
	if room {
		p.m.opt.Registrar.Room(p)
	}
}

// tell hands an outcome to whoever passed the call on.
func (e passedCall) tell() {
	switch {
	case e.o.fail != nil:
		e.c.told.Answered(Reply{}, e.o.fail)
	case e.o.err != nil:
		e.c.told.Answered(Reply{}, e.o.err.refusal())
	default:
		if e.o.held != nil {
			e.o.reply.Payload = e.o.held.join()
		}
		e.c.told.Answered(e.o.reply, nil)
	}
}

// unsent takes back what has not left, to be returned. Under the lock.
func (p *Program) unsent() {
	n := &p.node
	for _, c := range n.line.all() {
		n.count(c, -1)
		if !c.Push {
			p.held -= c.size()
		}
		c.place, c.settled = placeDone, true
		p.back = append(p.back, c)
	}
}

// fill is what the writer sends next; true where the stream is done.
func (p *Program) fill(b *batch) (done bool) {
	p.mu.Lock()
	defer p.unlock()
	p.d.addBeat(b)
	for len(p.answers) > 0 && b.fits(p.answers[0].size()+8) {
		b.add(&p.answers[0])
		p.answers = p.answers[1:]
	}
	if p.heard != nil && len(p.answers) < maxAnswers {
		close(p.heard)
		p.heard = nil
	}
	done = p.node.fill(p.o, b, time.Now())
	return (done || p.eof) && b.empty()
}
