package channel

import (
	"fmt"
	"time"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// outlet is the state of the sending end of one link: what was sent and not
// answered, and what waits for the receiver's bounds. It is plain state under
// its sender's lock.
type outlet struct {
	link   *dialled // nil in property tests
	addr   string
	peer   Peer
	limits peerLimits

	session uint64           // the last one given
	flights map[uint64]*call // calls that were sent and not answered, left ones too
	bulk    bulk[*call]      // large messages that have begun
	joining int64            // weight of the large replies that arrive
	blocked callList         // large messages that may not begin yet, in order
	aside   map[addressee]*callList
	cancels []uint64
	streams streams
	parked  callList // streams for which the peer has no place yet, in order

	opened  time.Time
	active  time.Time // when a message last left or was answered
	checked time.Time // when node.watch last looked
	pushed  uint64    // the last push that left, while no answer shows that it was read
	unsure  int64     // such pushes
	leaving bool      // the node said goaway
	ending  bool      // takes no more: half-close when nothing is in flight
	dead    bool
}

// peerLimits is what a hello says of its speaker's bounds.
type peerLimits struct {
	batch      int
	message    int64
	unfinished int64
	calls      int
	silence    time.Duration // a link on which nothing came for this long is dead
	streams    int           // 0: the speaker knows none
	window     int64         // of each stream
}

func (l *peerLimits) knowsStreams() bool { return l.streams > 0 }

func newOutlet(addr string, p Peer, l peerLimits, now time.Time) *outlet {
	return &outlet{
		addr: addr, peer: p, limits: l, opened: now, active: now,
		bulk:    bulk[*call]{limit: l.unfinished},
		flights: make(map[uint64]*call), aside: make(map[addressee]*callList),
		streams: streams{window: l.window, message: l.message, limit: l.streams},
	}
}

// refuses says why a message can never leave on this link.
func (o *outlet) refuses(c *call) *Error {
	n := int64(len(c.Payload))
	switch {
	case n > o.limits.message:
		return tooLarge(n, o.limits.message, "the node")
	case c.isLarge() && weight(uint64(n)) > o.limits.unfinished:
		return tooLarge(n, o.limits.unfinished, "the node")
	case c.stream != nil && !o.limits.knowsStreams():
		return noStreams(c.Node)
	case c.stream != nil && c.stream.out.largest() > o.limits.message:
		return tooLarge(c.stream.out.largest(), o.limits.message, "the node")
	default:
		return nil
	}
}

// begin gives the message its session.
func (o *outlet) begin(c *call, now time.Time) {
	o.session++
	c.session, c.out, c.place = o.session, o, placeSent
	o.active = now
	switch {
	case !c.Push:
		o.flights[c.session] = c
	case c.isLarge():
		o.holdBack(c)
	default:
		c.place = placeDone
	}
	if c.Push {
		o.pushed = c.session
		if !c.isLarge() {
			o.unsure++ // of a large one, when its last part has left
		}
	}
	if c.stream != nil {
		o.streams.begin(c.stream, c.session)
		c.stream.peer = o.peer
	}
	if c.isLarge() {
		c.parcel = parcel{session: c.session, bytes: c.Payload}
		o.bulk.begin(c)
	}
}

// holdBack makes later messages to the addressee of a large push wait for it.
func (o *outlet) holdBack(push *call) {
	if o.aside[push.to()] == nil {
		o.aside[push.to()] = new(callList)
	}
}

// fillControl adds the cancels.
func (o *outlet) fillControl(b *batch) {
	for len(o.cancels) > 0 {
		f := frame{session: o.cancels[0], kind: kindCancel}
		if !b.fits(f.size() + 8) {
			return
		}
		b.add(&f)
		o.cancels = o.cancels[1:]
	}
}

// idle says that nothing is in flight and nothing waits to be sent.
func (o *outlet) idle() bool {
	return len(o.flights) == 0 && len(o.bulk.turn) == 0 && len(o.cancels) == 0
}

// quiet says that no call is on its way, and nothing waits for the peer's bounds:
// a call that is submitted now is all that fill takes.
func (o *outlet) quiet() bool { return o.idle() && o.blocked.head == nil && o.parked.head == nil }

// answer takes a reply, failure or part for a session. It returns the call when
// that ended it, with its outcome.
func (o *outlet) answer(f *frame, own *Limits, now time.Time) (c *call, out outcome, stray bool) {
	c = o.flights[f.session]
	if c == nil {
		return nil, out, true
	}
	switch {
	case f.kind == kindFailure:
		fail := failureOf(f.failure)
		out.err, out.fail, out.reply = fail.failed(), fail, Reply{nil, fail.Headers, fail.Trailers}
	case c.stream != nil:
		out = c.stream.reply(f)
	case f.kind == kindPart && c.join == nil:
		return nil, out, true
	case f.kind == kindPart:
		whole, err := c.join.add(f, now)
		if err == nil && !whole {
			return nil, out, false
		}
		out.reply, out.held = c.reply, c.join.held
		if err != nil {
			out.err = badReply(err)
		}
	case c.join != nil:
		out.err = badReply(errTwoReplies)
	case f.total == 0 && int64(f.length()) > own.MessageBytes:
		out.err = replyTooLarge(uint64(f.length()), own.MessageBytes)
	case f.total == 0:
		out.reply, out.held = Reply{f.payload, f.headers, f.trailers}, f.held
	default:
		join, err := newJoiner(f, now)
		switch {
		case err != nil:
			out.err = badReply(err)
		case f.total > uint64(own.MessageBytes):
			out.err = replyTooLarge(f.total, own.MessageBytes)
		case o.joining+weight(f.total) > own.UnfinishedBytes:
			out.err = replyTooLarge(f.total, own.UnfinishedBytes-o.joining)
		default:
			o.joining += weight(f.total)
			c.join, c.reply = join, Reply{nil, f.headers, f.trailers}
			o.bulk.stop(c)
			return nil, out, false
		}
	}
	if out.err != nil && f.kind != kindFailure {
		o.cancels = append(o.cancels, c.session) // it may stop sending that reply
	}
	o.land(c)
	if f.session > o.pushed {
		o.pushed, o.unsure = 0, 0
	}
	o.bulk.stop(c)
	o.unjoin(c)
	o.active = now
	return c, out, false
}

// land forgets a call in flight.
func (o *outlet) land(c *call) {
	delete(o.flights, c.session)
	if c.stream != nil {
		o.streams.open--
	}
}

func replyTooLarge(n uint64, room int64) *Error {
	return NewError(HandlerFailed, ErrReplyTooLarge, fmt.Sprintf("reply too large: %d bytes; this process takes %d now", n, room))
}

// unjoin forgets what has arrived of a large reply.
func (o *outlet) unjoin(c *call) {
	if c.join != nil {
		o.joining -= weight(c.join.total)
		c.join = nil
	}
}

// overdue lists the calls whose large reply has stopped arriving.
func (o *outlet) overdue(now time.Time) (late []*call) {
	for _, c := range o.flights {
		if c.join != nil && now.Sub(c.join.last) >= partTimeout {
			late = append(late, c)
		}
	}
	return late
}

func failureOf(p *meshv1.Failure) *Failure {
	return &Failure{
		Reason: p.GetReason(), Code: codeFromWire(p.GetCode()), Message: cutText(p.GetMessage(), maxErrorText), Details: p.GetDetails(),
		Headers: headersFromWire(p.GetHeaders()), Trailers: headersFromWire(p.GetTrailers()),
	}
}
