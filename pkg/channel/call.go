package channel

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Message is a call or a push as its maker gives it to Manager.Do. It must not
// change afterwards, and the payload and headers are given away for good.
type Message struct {
	Route   *Route // kept by the caller for the next message to Node; may be nil
	Node    string // a name of the table
	Name    string // the service's name with its sign; "" where Handle says it
	Handle  uint64
	Target  string // as the caller wrote it, for errors and trace tags
	Method  string
	Payload []byte
	Headers []Header
	Tag     string    // skynet trace tag
	Due     time.Time // deadline, zero for none

	Hops     uint32 // links that it went over before this process; see MaxHops
	OnBehalf string // the identity of the first caller, where this process passes it on

	Push   bool // one way
	NoWait bool // fail where the node is absent, or in the pause after a failed dial
	WaitUp bool // do not fail when a dial fails
	Owned  bool // the payload was given away: Manager.Do does not copy it
	Inside bool // made by a running handler: taken while the process closes
	Turn   Turn // given away while the message waits; may be nil
}

// Turn is what a serial service's handler gives to the next message while it
// waits in the mesh (M26).
type Turn interface {
	Yield() bool // false where there is none to give
	Retake()     // blocks until it is back
}

// Reply is what a call returns. Everything in it belongs to the caller.
type Reply struct {
	Payload           []byte
	Headers, Trailers []Header
}

// place is where a call stands on its way.
type place uint8

const (
	placeNone  place = iota
	placeRoom        // a push that waits for room in the line
	placeLine        // in the node's line
	placeAside       // taken from the line, not begun: see outlet.blocked and outlet.aside
	placeSent        // has a session
	placeDone        // has its outcome
)

// outcome ends a call. For a push it means that it stands in the line of an
// open link, or that it never will.
type outcome struct {
	reply Reply
	held  *held // the reply's payload as it arrived; the waiter joins it
	err   *Error
	fail  *Failure // as the peer said it, where err is that
	last  bool     // nothing but the waiter refers to the call any more
	local bool     // of a stream: it was ended here, and what has arrived is dropped
}

// call is one message on its way out. All of it is guarded by its sender's lock.
type call struct {
	Message
	order   uint64 // its place in the line, for the way back
	place   place
	list    *callList
	prev    *call
	next    *call
	out     *outlet // where it was sent
	session uint64
	parcel  parcel // of a large payload
	settled bool   // has its outcome, though it may still be on its way
	gone    bool   // its caller left after it was sent
	join    *joiner
	reply   Reply        // what came with the first frame of a large reply
	waited  bool         // someone waits on done; else early has the outcome
	done    chan outcome // has room for one; reused with the call
	early   outcome

	// Of a message that is passed on to a program; nil of one of this process.
	via     *Program
	told    Passed
	from    *Request
	dropped bool    // its caller left after it was sent
	stream  *Stream // where it is one: no call then, and never reused
}

// callPool reuses calls: each is worth two allocations. A process has its own,
// because channels must not leave a bubble of virtual time.
type callPool struct{ p sync.Pool }

func (p *callPool) get() *call {
	if c, ok := p.p.Get().(*call); ok {
		return c
	}
	return &call{done: make(chan outcome, 1)}
}

// put takes back a call that is in no list and no table, and on whose outcome
// nobody waits.
func (p *callPool) put(c *call) {
	*c = call{done: c.done}
	p.p.Put(c)
}

// addressee orders messages: those to one addressee keep their order.
type addressee struct {
	name   string
	handle uint64
}

func (c *call) to() addressee  { return addressee{c.Name, c.Handle} }
func (c *call) isLarge() bool  { return len(c.Payload) > partBytes }
func (c *call) large() *parcel { return &c.parcel }

// size is what the message counts against a bound.
func (c *call) size() int64 {
	return int64(len(c.Payload)+len(c.Name)+len(c.Method)+len(c.Tag)+messageOverhead) + headerBytes(c.Headers)
}

// settle hands the outcome to whoever waits, once.
func (c *call) settle(o outcome) {
	if c.settled {
		return
	}
	c.settled = true
	if o.err != nil {
		o.err.Node, o.err.Target, o.err.Method = c.Node, c.Target, c.Method
	}
	if c.via != nil {
		c.via.settled(c, o)
		return
	}
	o.last = c.place == placeDone
	if c.stream != nil {
		c.stream.finish(o)
		return
	}
	if !c.waited {
		c.early = o
		return
	}
	c.done <- o
}

// traceTag is the skynet trace tag as it leaves this process (M60).
func (c *call) traceTag(caller string) string {
	if c.Tag == "" || c.Tag[0] == '(' {
		return c.Tag
	}
	return fmt.Sprintf("(%s-%s-%d)%s", caller, c.Target, c.session, c.Tag)
}

// first makes the frame that begins the message.
func (c *call) first(caller string, now time.Time) frame {
	f := frame{
		session: c.session, kind: kindRequest, addressed: true,
		name: c.Name, handle: c.Handle, method: c.Method, push: c.Push,
		tag: c.traceTag(caller), headers: c.Headers, payload: c.Payload, hops: c.Hops, onBehalf: c.OnBehalf, stream: c.stream != nil,
	}
	if !c.Due.IsZero() {
		f.timeLeft = uint64(max(c.Due.Sub(now).Microseconds(), 1))
	}
	if c.isLarge() {
		f.payload, f.total = c.Payload[:partBytes], uint64(len(c.Payload))
	}
	return f
}

// callList is a first come, first served list that anyone may leave.
type callList struct {
	head, tail *call
	len        int
}

func (l *callList) push(c *call) {
	c.list, c.prev, c.next = l, l.tail, nil
	if l.tail != nil {
		l.tail.next = c
	} else {
		l.head = c
	}
	l.tail = c
	l.len++
}

// merge puts calls back where their order belongs. They come in any order.
func (l *callList) merge(cs []*call) {
	slices.SortFunc(cs, func(a, b *call) int { return cmp.Compare(a.order, b.order) })
	at := l.head
	for _, c := range cs {
		for at != nil && at.order < c.order {
			at = at.next
		}
		if at == nil {
			l.push(c)
			continue
		}
		c.list, c.prev, c.next = l, at.prev, at
		if at.prev != nil {
			at.prev.next = c
		} else {
			l.head = c
		}
		at.prev = c
		l.len++
	}
}

// remove takes c out of whatever list it is in.
func (c *call) remove() {
	l := c.list
	if l == nil {
		return
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.tail = c.prev
	}
	l.len--
	c.list, c.prev, c.next = nil, nil, nil
}

// all removes and returns everything, in order.
func (l *callList) all() []*call {
	cs := make([]*call, 0, l.len)
	for c := l.head; c != nil; c = l.head {
		c.remove()
		cs = append(cs, c)
	}
	return cs
}
