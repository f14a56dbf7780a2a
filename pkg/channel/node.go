package channel

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// host is what a node asks of the world. No method blocks, or calls back.
type host interface {
	dial(gen uint64, addr string)         // begin a dial; tell node.dialled
	abandon()                             // stop the dial that runs
	after(d time.Duration)                // call node.timeout then; replaces the last one
	wake(o *outlet)                       // there is something to send
	cut(o *outlet, cause error)           // end the link now
	drain(o *outlet, bound time.Duration) // end the link in order within bound, then cut
	recycle(*call)                        // nothing refers to it any more
	tell(NodeInfo)                        // one change of state
	random() float64                      // for jitter, in [0,1)
}

// timing is how long a node waits for what.
type timing struct {
	drain    time.Duration // for calls in flight on a link that ends (M6)
	sendWait time.Duration // for a push to find room in the line (M29)
	idle     time.Duration // without a message until a link is closed; 0: never
	backMin  time.Duration // pauses between dials that fail (M15)
	backMax  time.Duration
	leaving  time.Duration // failed dials are told to nobody so long after a goaway
}

// phase is what a node that has an address does for a link.
type phase uint8

const (
	phaseIdle phase = iota
	phaseDialling
	phasePause // after a failed dial
	phaseOpen
)

// node decides for one name of the table: who waits, what a reload means, which
// dial counts. It has no goroutine, clock or lock of its own; its sender calls
// it under one lock.
type node struct {
	host
	name     string
	self     string // this process, for trace tags
	limits   Limits
	timing   timing
	counters *Counters

	entry     Entry
	noWaiting bool
	state     State
	reason    string
	peer      Peer // of the latest link

	line     callList // calls and pushes, first come first served
	calls    int      // of line, blocked and aside together
	pushes   int64
	room     callList // pushes that wait for room in the line
	order    uint64
	phase    phase
	gen      uint64 // of the dial that counts
	attempts int    // failed dials in a row
	lastErr  *Error
	insecure bool   // any address may be dialled: TLS is set, or plaintext may leave this machine
	barred   *Error // why the address may not be dialled; nil where it may
	pauseEnd time.Time
	left     time.Time // until then a failed dial is told to nobody
	keep     int       // how many want the node linked
	link     *outlet   // in phaseOpen
	old      []*outlet // end in order after a move or a goaway
	closed   bool
}

// submit takes a new message: it fails, waits in the line, or is on its way.
func (n *node) submit(c *call) {
	if err := n.refuses(c); err != nil {
		c.place = placeDone
		c.settle(outcome{err: err})
		return
	}
	switch {
	case !c.Push && n.calls >= n.limits.LineCalls:
		c.place = placeDone
		c.settle(outcome{err: NewError(NotSent, ErrOverloaded, fmt.Sprintf("the line of node [%s] is full: %d calls wait", n.name, n.calls))})
		return
	case c.Push && (n.room.head != nil || n.pushes >= n.limits.LinePushBytes):
		c.place = placeRoom
		n.room.push(c)
	default:
		n.enqueue(c)
	}
	n.kick()
}

// refuses says why a message cannot even wait.
func (n *node) refuses(c *call) *Error {
	size := int64(len(c.Payload))
	switch {
	case n.closed:
		return NewError(NotSent, ErrClosed, "")
	case size > n.limits.MessageBytes:
		return tooLarge(size, n.limits.MessageBytes, "this process")
	case n.entry.Kind == Down:
		return downError(n.name)
	case n.entry.Kind == Absent && (n.noWaiting || c.NoWait):
		return absentError(n.name)
	case n.barred != nil:
		return n.barred.again()
	case n.phase == phasePause && c.NoWait:
		return n.lastErr.again()
	case n.phase == phaseOpen:
		return n.link.refuses(c)
	default:
		return nil
	}
}

// enqueue puts a message at the end of the line. A push that stands in the
// line of an open link is accepted.
func (n *node) enqueue(c *call) {
	n.order++
	c.order = n.order
	c.place = placeLine
	n.line.push(c)
	n.count(c, 1)
	if n.phase == phaseOpen {
		if c.Push {
			c.settle(outcome{})
		}
		n.wake(n.link)
	}
}

func (n *node) count(c *call, by int) {
	if c.Push {
		n.pushes += int64(by) * c.size()
	} else {
		n.calls += by
	}
}

// depart takes a message out of the line and lets in who waits for its room.
func (n *node) depart(c *call) {
	c.remove()
	n.count(c, -1)
	n.admit()
}

func (n *node) admit() {
	for n.room.head != nil && n.pushes < n.limits.LinePushBytes {
		c := n.room.head
		c.remove()
		n.enqueue(c)
	}
}

// leave takes a message back whose caller does not wait any longer. cause is
// why; the result is what the caller is told, nil where it has an outcome.
func (n *node) leave(c *call, cause error) *Error {
	if c.settled {
		return nil
	}
	verdict, when := NotSent, "while it waited to be sent"
	switch c.place {
	case placeRoom:
		c.remove()
	case placeLine, placeAside:
		n.depart(c)
		if n.phase == phaseOpen {
			n.wake(n.link) // what stood behind it may pass now
		}
	case placeSent:
		verdict, when = MaybeExecuted, "after it was sent"
		c.gone = true
		c.out.bulk.stop(c)
		c.out.cancels = append(c.out.cancels, c.session)
		n.wake(c.out)
	}
	if !c.gone {
		c.place = placeDone
	}
	c.settled = true
	text := fmt.Sprintf("message to [%s]: %s %s%s", n.name, cause, when, n.obstacle(verdict))
	if errors.Is(cause, ErrOverloaded) {
		text = fmt.Sprintf("the line of node [%s] is full: %d bytes of pushes wait", n.name, n.pushes)
	}
	e := NewError(verdict, cause, text)
	e.Node, e.Target, e.Method = c.Node, c.Target, c.Method
	return e
}

// obstacle says what a message that was not sent has waited for.
func (n *node) obstacle(v Verdict) string {
	switch {
	case v != NotSent:
		return ""
	case n.entry.Kind == Absent:
		return ": the node is absent from the table"
	case n.phase != phaseOpen && n.lastErr != nil:
		return ": the last try: " + n.lastErr.Message
	default:
		return ""
	}
}

// fail ends a message that waits. Pushes that were accepted are counted.
func (n *node) fail(c *call, err *Error, lost *atomic.Int64) {
	c.remove()
	if c.place == placeLine || c.place == placeAside {
		n.count(c, -1)
	}
	c.place = placeDone
	if c.Push && c.settled {
		lost.Add(1)
	}
	c.settle(outcome{err: err})
}

// failWaiting fails everyone who waits and for whom told is true.
func (n *node) failWaiting(err *Error, lost *atomic.Int64, told func(*call) bool) {
	for _, l := range []*callList{&n.line, &n.room} {
		for c := l.head; c != nil; {
			next := c.next
			if told == nil || told(c) {
				n.fail(c, err.again(), lost)
			}
			c = next
		}
	}
	n.admit()
}

// apply takes what a reload says. mentioned is false where the reload does not
// name the node, and only nowaiting may have changed.
func (n *node) apply(e Entry, mentioned, noWaiting bool) {
	n.noWaiting = noWaiting
	if mentioned && n.closed {
		n.entry = e
		return // it ends as it is
	}
	if mentioned && e != n.entry {
		n.entry = e
		n.attempts, n.left = 0, time.Time{}
		dialling := n.phase == phaseDialling
		if dialling {
			n.gen++
			n.abandon()
		}
		if n.phase != phaseOpen {
			n.phase = phaseIdle
		}
		n.barred = nil
		switch e.Kind {
		case Address:
			if !n.insecure && !IsLocal(e.Addr) {
				n.barred = connectError(n.name, e.Addr, errPlaintext)
				n.failWaiting(n.barred, &n.counters.PushesLostConnect, nil)
			}
			n.move(dialling)
		case Down:
			n.cutAll(fmt.Errorf("node [%s] was set to down", n.name))
			n.failWaiting(downError(n.name), &n.counters.PushesLostTable, nil)
			n.become(StateDown, "")
		default:
			n.cutAll(fmt.Errorf("node [%s] was set to absent", n.name))
			n.become(StateAbsent, "")
		}
	}
	if n.entry.Kind == Absent {
		n.failWaiting(absentError(n.name), &n.counters.PushesLostTable, func(c *call) bool { return n.noWaiting || c.NoWait })
	}
	n.kick()
}

// move goes on at a new address: the open link ends in order within the drain
// time, one that was still ending is cut, and a new one is dialled whether
// anyone waits or not (M6).
func (n *node) move(dialling bool) {
	if n.phase != phaseOpen {
		if n.state == StateAbsent || n.state == StateDown {
			n.become(StateIdle, "")
		}
		if dialling {
			n.cutOld(errors.New("the node moved again"))
			n.startDial() // the new address wins
		}
		return
	}
	n.cutOld(errors.New("the node moved again"))
	o := n.retire()
	if n.timing.drain > 0 {
		n.drain(o, n.timing.drain)
	} else {
		n.breakOff(o, errors.New("the node moved"))
	}
	n.startDial()
}

// retire lets the open link end in order, and takes back what it had not begun.
func (n *node) retire() *outlet {
	o := n.link
	n.link, n.phase = nil, phaseIdle
	n.takeBack(o)
	n.old = append(n.old, o)
	o.ending = true
	n.wake(o)
	return o
}

// takeBack returns to the line what stands aside for a link's bounds.
func (n *node) takeBack(o *outlet) {
	back := append(o.blocked.all(), o.parked.all()...)
	for _, l := range o.aside {
		back = append(back, l.all()...)
	}
	o.aside = make(map[addressee]*callList)
	n.putBack(back)
}

// putBack returns messages to the line that are still counted in it.
func (n *node) putBack(cs []*call) {
	for _, c := range cs {
		c.place = placeLine
	}
	n.line.merge(cs)
}

// cutAll ends the open and the old link at once.
func (n *node) cutAll(cause error) {
	if o := n.link; o != nil {
		n.link, n.phase = nil, phaseIdle
		n.takeBack(o)
		n.breakOff(o, cause)
	}
	n.cutOld(cause)
}

// cutOld ends the links that were ending in order.
func (n *node) cutOld(cause error) {
	for _, o := range slices.Clone(n.old) {
		n.breakOff(o, cause)
	}
}

// breakOff ends a link: everything in flight on it fails at once (M34).
func (n *node) breakOff(o *outlet, cause error) {
	if o.dead {
		return
	}
	o.dead = true
	n.old = slices.DeleteFunc(n.old, func(x *outlet) bool { return x == o })
	for _, c := range o.bulk.turn {
		if c.Push {
			n.counters.PushesLostBroken.Add(1)
		}
	}
	n.counters.PushesUnsure.Add(o.unsure)
	for s, c := range o.flights {
		delete(o.flights, s)
		c.place, c.join = placeDone, nil
		c.settle(outcome{err: brokenError(n.name, cause)})
	}
	o.bulk.turn = nil
	n.cut(o, cause)
}
