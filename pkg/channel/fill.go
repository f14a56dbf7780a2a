package channel

import "time"

// fill takes from the line what the link may send next, and says whether the
// link is to be half-closed instead. Only the link's writer calls it.
//
// Small frames go first, in the order of the line, then a round of parts. Two
// rules keep the order of messages to one addressee without slowing others: a
// large push holds back later messages to its own addressee until its last
// part has left; a large message that may not begin yet is passed by small
// ones.
func (n *node) fill(o *outlet, b *batch, now time.Time) (halfClose bool) {
	if o.dead {
		return false
	}
	o.fillControl(b)
	if n.link == o {
		n.fillLine(o, b, now)
	}
	if len(o.streams.ready) > 0 || len(o.bulk.turn) > 0 {
		o.pushed = o.session // only an answer to a later call shows that what leaves now was read
	}
	if len(o.streams.ready) > 0 {
		o.streams.fill(b)
	}
	for _, c := range o.bulk.fill(b) {
		if c.Push {
			c.place = placeDone
			o.unsure++
			n.release(o, c)
		}
	}
	halfClose = b.empty() && o.ending && o.idle() && (o != n.link || n.line.head == nil && o.blocked.head == nil)
	if halfClose && o.leaving {
		n.drain(o, max(n.timing.drain, time.Millisecond)) // for the listener to end the stream (M36)
	}
	return halfClose
}

// fillLine begins messages while the batch has room, leaving some for a part
// where large messages are under way.
func (n *node) fillLine(o *outlet, b *batch, now time.Time) {
	for {
		c := n.next(o, now)
		if c == nil {
			return
		}
		room := 0
		if len(o.bulk.turn) > 0 {
			room = partRoom
		}
		if len(o.streams.ready) > 0 {
			room += partRoom
		}
		if !b.fits(c.bound() + room) {
			return
		}
		n.depart(c)
		o.begin(c, now)
		f := c.first(n.self, now)
		b.add(&f)
		if c.place == placeDone && !c.waited {
			n.recycle(c) // a push whose Send returned at once
		}
	}
}

// bound is at least the length of the message's first frame in a batch.
func (c *call) bound() int {
	n := min(len(c.Payload), partBytes) + len(c.Name) + len(c.Method) + len(c.Tag) + len(c.OnBehalf) + len(n20) + 112
	if c.Tag != "" {
		n += len(c.Target) + maxNameBytes
	}
	for i := range c.Headers {
		n += len(c.Headers[i].Key) + len(c.Headers[i].Value) + 10
	}
	return n
}

const n20 = "18446744073709551615" // the longest session in a trace tag

// next finds the message that may leave next, setting aside those that may not.
func (n *node) next(o *outlet, now time.Time) *call {
	for {
		full := len(o.flights) >= o.limits.calls
		// What a goaway put back may be older than what waits for room.
		first := n.line.head
		if c := o.blocked.head; c != nil && o.bulk.mayBegin(len(c.Payload)) && (first == nil || c.order < first.order) {
			if !c.Push && full {
				return nil
			}
			return c
		}
		if c := o.parked.head; c != nil && o.streams.open < o.limits.streams && !full {
			return c
		}
		c := n.line.head
		if c == nil || !c.Push && full {
			return nil
		}
		if err := o.refuses(c); err != nil {
			n.fail(c, err, &n.counters.PushesLostTooLarge)
			n.admit()
			continue
		}
		if c.via != nil && !c.Due.IsZero() && !now.Before(c.Due) { // nobody of this process waits for it
			n.fail(c, NewError(Rejected, ErrExpired, "the deadline had passed before the program took it"), &n.counters.PushesRefused)
			continue
		}
		if held := o.aside[c.to()]; held != nil {
			setAside(c, held)
			continue
		}
		if c.stream != nil && o.streams.open >= o.limits.streams {
			setAside(c, &o.parked)
			continue
		}
		if c.isLarge() && (o.blocked.head != nil || !o.bulk.mayBegin(len(c.Payload))) {
			setAside(c, &o.blocked)
			if c.Push {
				o.holdBack(c)
			}
			continue
		}
		return c
	}
}

func setAside(c *call, l *callList) {
	c.remove()
	c.place = placeAside
	l.merge([]*call{c}) // at the end, but for what a goaway put back
}

// release lets go what a large push has held back: it goes to the front.
func (n *node) release(o *outlet, push *call) {
	held := o.aside[push.to()]
	if held == nil {
		return
	}
	delete(o.aside, push.to())
	n.putBack(held.all())
	if n.line.head != nil {
		n.wake(o)
	}
}
