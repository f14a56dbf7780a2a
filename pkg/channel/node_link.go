package channel

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// kick dials where someone waits for a link and nothing is under way.
func (n *node) kick() {
	if n.phase != phaseIdle {
		return
	}
	if n.line.head != nil || n.room.head != nil || n.keep > 0 {
		n.startDial()
	}
}

func (n *node) startDial() {
	if n.closed || n.entry.Kind != Address || n.barred != nil {
		return
	}
	n.phase = phaseDialling
	n.gen++
	n.counters.Dials.Add(1)
	n.dial(n.gen, n.entry.Addr)
}

// dialled takes the result of dial gen: an open link, or why there is none. It
// returns false where the link is not wanted any more (M14).
func (n *node) dialled(gen uint64, o *outlet, cause error, now time.Time) bool {
	if gen != n.gen || n.phase != phaseDialling {
		return false
	}
	if cause != nil {
		n.counters.DialsFailed.Add(1)
		n.lastErr = connectError(n.name, n.entry.Addr, cause)
		n.pause(now)
		patient := now.Before(n.left)
		n.failWaiting(n.lastErr, &n.counters.PushesLostConnect, func(c *call) bool {
			return c.NoWait || !c.WaitUp && !patient
		})
		n.become(StateLost, n.lastErr.Message)
		return true
	}
	n.link, n.phase, n.peer, n.lastErr = o, phaseOpen, o.peer, nil
	o.streams.wake = func() { n.wake(o) }
	n.become(StateUp, "")
	for c := n.line.head; c != nil; c = c.next {
		if c.Push {
			c.settle(outcome{})
		}
	}
	n.wake(o)
	return true
}

// pause begins the time without dials that follows a failure: exponential, with
// jitter, between backMin and backMax.
func (n *node) pause(now time.Time) {
	d := n.timing.backMax
	if n.attempts < 16 {
		d = min(n.timing.backMin<<n.attempts, n.timing.backMax)
	}
	d = max(d/2+time.Duration(n.random()*float64(d/2)), n.timing.backMin)
	n.attempts++
	n.phase, n.pauseEnd = phasePause, now.Add(d)
	n.after(d)
}

// timeout ends a pause.
func (n *node) timeout(now time.Time) {
	if n.phase == phasePause && !now.Before(n.pauseEnd) {
		n.phase = phaseIdle
		n.kick()
	}
}

// lost takes the end of a link. cause is nil where it ended in order.
func (n *node) lost(o *outlet, cause error, now time.Time) {
	if o.dead {
		return
	}
	orderly := cause == nil && o.idle()
	if orderly {
		o.unsure = 0 // the listener placed what it had read before it ended the stream
	} else {
		n.counters.LinksLost.Add(1)
	}
	if cause == nil {
		cause = errors.New("the node ended the link")
	}
	if o != n.link {
		n.breakOff(o, cause)
		switch {
		case n.state != StateLeaving || !o.leaving || slices.ContainsFunc(n.old, func(x *outlet) bool { return x.leaving }):
			// It is no link of the life that leaves, or not the last one.
		case orderly:
			n.become(StateIdle, "")
		default:
			n.become(StateLost, cause.Error())
		}
		return
	}
	n.link, n.phase = nil, phaseIdle
	n.takeBack(o)
	n.breakOff(o, cause)
	if n.closed {
		n.failWaiting(NewError(NotSent, ErrClosed, ""), &n.counters.PushesLostClosed, nil)
		return
	}
	// A link that breaks soon after it opened counts as a failed dial, so that a
	// peer that dies again and again is not dialled without a pause.
	if now.Sub(o.opened) < n.timing.backMax {
		n.lastErr = connectError(n.name, o.addr, cause)
		n.pause(now)
		n.failWaiting(n.lastErr, &n.counters.PushesLostConnect, func(c *call) bool { return c.NoWait })
	} else {
		n.attempts = 0
	}
	n.become(StateLost, cause.Error())
	n.kick()
}

// goaway takes a listener's word that it leaves: what it did not take is sent
// again on the next link, in order; pushes among that are lost (M35).
func (n *node) goaway(o *outlet, last uint64, why string, now time.Time) {
	if o.dead || o.leaving {
		return
	}
	o.leaving = true
	if o == n.link {
		n.left = now.Add(n.timing.leaving)
		n.retire()                                             // the listener bounds its end, heartbeats watch it
		if last == 0 && now.Sub(o.opened) < n.timing.backMin { // it opened only to leave
			n.lastErr = connectError(n.name, o.addr, ErrDraining)
			n.pause(now)
			n.failWaiting(n.lastErr, &n.counters.PushesLostConnect, func(c *call) bool { return c.NoWait })
		} else {
			n.attempts = 0
		}
		n.become(StateLeaving, why)
	}
	untaken := int64(0)
	if last < o.session {
		untaken = int64(o.session - last)
	}
	var back []*call
	for s, c := range o.flights {
		if s > last {
			untaken--
			back = append(back, c)
		}
	}
	for _, c := range slices.Clone(o.bulk.turn) {
		if c.Push && c.session > last {
			o.bulk.stop(c)
		}
	}
	n.counters.PushesLostGoaway.Add(untaken)
	o.unsure = 0 // the others were taken
	n.resend(o, back)
	if n.closed && n.link == nil {
		n.failWaiting(NewError(NotSent, ErrClosed, ""), &n.counters.PushesLostClosed, nil)
	}
	n.wake(o)
	n.kick()
}

// resend puts calls that certainly did not start back into the line.
func (n *node) resend(o *outlet, cs []*call) {
	var back []*call
	for _, c := range cs {
		o.land(c)
		o.bulk.stop(c)
		o.unjoin(c)
		c.out, c.session = nil, 0
		c.place = placeDone
		if c.gone {
			continue
		}
		err := n.refuses(c)
		if err == nil && c.stream != nil && !c.stream.restart() {
			err = NewError(NotSent, ErrGoaway, "")
		}
		if err != nil {
			c.settle(outcome{err: err})
			continue
		}
		n.count(c, 1)
		back = append(back, c)
	}
	n.putBack(back)
	if n.phase == phaseOpen {
		n.wake(n.link)
	}
}

// received takes a reply, failure or part from a link. It returns false where
// its session is not known.
func (n *node) received(o *outlet, f *frame, now time.Time) bool {
	if c := o.flights[f.session]; c != nil && f.kind == kindFailure && o.leaving && !c.gone &&
		reasonConditions[f.failure.GetReason()].err == ErrDraining && (c.stream == nil || c.stream.out.fresh) {
		n.resend(o, []*call{c})
		n.wake(o) // it may have been the last one
		n.kick()
		return true
	}
	if f.kind >= kindMessage || f.kind == kindPart {
		if c := o.flights[f.session]; c != nil && c.stream != nil {
			n.streamed(o, c, f, now)
			return true
		}
		if f.kind >= kindMessage {
			return f.kind == kindWindow // one may come late
		}
	}
	c, out, stray := o.answer(f, &n.limits, now)
	if c != nil {
		c.place = placeDone
		if c.gone {
			n.counters.RepliesLate.Add(1)
		}
		c.settle(out)
	}
	// A place among the calls in flight is free, or a link that ends is done.
	if c != nil && (o.ending || n.line.head != nil || o.blocked.head != nil || o.parked.head != nil) || len(o.cancels) > 0 {
		n.wake(o)
	}
	return !stray
}

// become notes a change of state and tells it.
func (n *node) become(s State, reason string) {
	if s == n.state && s != StateUp {
		return
	}
	n.state, n.reason = s, reason
	n.tell(n.info())
}

func (n *node) info() NodeInfo {
	return NodeInfo{Node: n.name, State: n.state, Addr: n.entry.Addr, Process: n.peer.Process, Incarnation: n.peer.Incarnation, Reason: n.reason}
}

// want and unwant keep the node linked while someone watches it (M16).
func (n *node) want()   { n.keep++; n.kick() }
func (n *node) unwant() { n.keep-- }

// watch looks after a link once a second, when something arrives: at least
// heartbeats do. A large reply whose parts have stopped fails its call.
func (n *node) watch(o *outlet, now time.Time) {
	if now.Sub(o.checked) < time.Second {
		return
	}
	o.checked = now
	for _, c := range o.overdue(now) {
		o.unjoin(c)
		c.gone = true
		c.settle(outcome{err: badReply(fmt.Errorf("no part for %s", partTimeout))})
		o.cancels = append(o.cancels, c.session)
		n.wake(o)
	}
	for _, c := range o.flights {
		if c.stream != nil && c.stream.late(now) {
			n.faulty(o, c, errLateParts)
		}
	}
	n.rest(o, now)
}

// rest ends a link that nobody has used for the idle time (M36).
func (n *node) rest(o *outlet, now time.Time) {
	if o != n.link || n.keep > 0 || n.timing.idle <= 0 || !o.idle() || o.blocked.head != nil || n.line.head != nil || now.Sub(o.active) < n.timing.idle {
		return
	}
	if now.Sub(o.opened) >= n.timing.backMax {
		n.attempts = 0 // as in lost
	}
	n.drain(n.retire(), max(n.timing.drain, time.Millisecond))
	n.become(StateIdle, "")
}

// shut lets the open link send what stands in the line and end in order; where
// there is none, what waits fails. Nothing is taken after it (M55).
func (n *node) shut(now time.Time) {
	if n.closed {
		return
	}
	n.closed = true
	if n.phase == phaseDialling {
		n.gen++
		n.abandon()
	}
	closed := NewError(NotSent, ErrClosed, "")
	if n.link == nil {
		n.phase = phaseIdle
		n.failWaiting(closed, &n.counters.PushesLostClosed, nil)
		return
	}
	for c := n.room.head; c != nil; c = n.room.head {
		n.fail(c, closed.again(), &n.counters.PushesLostClosed)
	}
	n.link.ending = true
	n.drain(n.link, max(n.timing.drain, time.Millisecond))
	n.wake(n.link)
}

// finish ends whatever shut has left.
func (n *node) finish() {
	n.cutAll(ErrClosed)
	n.phase = phaseIdle
	n.failWaiting(NewError(NotSent, ErrClosed, ""), &n.counters.PushesLostClosed, nil)
}
