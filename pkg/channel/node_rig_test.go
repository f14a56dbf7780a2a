package channel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// nodeRig is a node with a fake host in virtual time. Nothing in it runs by
// itself: a test plays the dialler, the writer, the reader and the clock.
type nodeRig struct {
	t        rapid.TB
	n        *node
	now      time.Time
	counters Counters
	letters  []*letter
	dials    []string              // the address of every dial that was begun
	running  bool                  // a dial runs
	alarm    time.Time             // when the node wants its timeout
	awake    map[*outlet]bool      // the writer has something to do
	ended    map[*outlet]error     // the links that were cut
	drains   map[*outlet]time.Time // when a draining link is to be cut
	told     []NodeInfo
}

// letter is a message and what its maker was told.
type letter struct {
	*call
	got []outcome

	// Of the property test alone.
	on       *farEnd // where it was sent last
	released bool    // and has certainly not started there
	sends    int
	whole    bool // all of it was handed to the stream
	answered bool
	dropped  bool // a push that a goaway did not take
}

func newNodeRig(t rapid.TB) *nodeRig {
	r := &nodeRig{
		t: t, now: time.Unix(1e9, 0),
		awake: make(map[*outlet]bool), ended: make(map[*outlet]error), drains: make(map[*outlet]time.Time),
	}
	r.n = &node{
		host: r, name: "db", self: "me", counters: &r.counters, insecure: true,
		limits: Limits{LineCalls: 6, LinePushBytes: 1500, MessageBytes: 1 << 20}.WithDefaults(),
		timing: timing{
			drain: 10 * time.Second, sendWait: time.Second, idle: time.Minute,
			backMin: 100 * time.Millisecond, backMax: 3 * time.Second, leaving: 30 * time.Second,
		},
	}
	return r
}

func (r *nodeRig) dial(_ uint64, addr string) {
	if r.running {
		r.t.Fatalf("a second dial was begun while one runs (M14)")
	}
	if r.n.closed {
		r.t.Fatalf("a dial was begun after shut (M55)")
	}
	r.running = true
	r.dials = append(r.dials, addr)
}

func (r *nodeRig) abandon() {
	if !r.running {
		r.t.Fatalf("a dial was abandoned and none runs")
	}
	r.running = false
}

func (r *nodeRig) after(d time.Duration) {
	if d < r.n.timing.backMin || d > r.n.timing.backMax {
		r.t.Fatalf("a pause of %s (M15)", d)
	}
	r.alarm = r.now.Add(d)
}

func (r *nodeRig) wake(o *outlet) { r.awake[o] = true }

func (r *nodeRig) cut(o *outlet, cause error) {
	if r.ended[o] != nil {
		r.t.Fatalf("a link was cut twice")
	}
	r.ended[o] = cause
	delete(r.drains, o)
}

func (r *nodeRig) drain(o *outlet, bound time.Duration) { r.drains[o] = r.now.Add(bound) }
func (r *nodeRig) random() float64                      { return 0.5 }

// recycle may be given only what nothing refers to any more.
func (r *nodeRig) recycle(c *call) {
	if c.list != nil || c.place != placeDone || !c.settled || c.waited {
		r.t.Fatalf("message %s was recycled at place %d, waited for: %v", c.Method, c.place, c.waited)
	}
	for o := range r.awake {
		if o.flights[c.session] == c {
			r.t.Fatalf("message %s was recycled in flight", c.Method)
		}
	}
}

func (r *nodeRig) tell(i NodeInfo) {
	last := StateAbsent
	if len(r.told) > 0 {
		last = r.told[len(r.told)-1].State
	}
	if i.State == last && i.State != StateUp {
		r.t.Fatalf("state %s was told twice (M38)", i.State)
	}
	if i.State == StateDown || i.State == StateAbsent {
		for o := range r.awake {
			if len(o.flights) > 0 {
				r.t.Fatalf("state %s was told before the calls in flight had failed (M38)", i.State)
			}
		}
	}
	r.told = append(r.told, i)
}

// reload gives the node an entry: an address, "down", "absent".
func (r *nodeRig) reload(what string) {
	e := Entry{Address, what}
	switch what {
	case "down":
		e = Entry{Kind: Down}
	case "absent":
		e = Entry{}
	}
	r.n.apply(e, true, r.n.noWaiting)
	r.collect()
}

func (r *nodeRig) nowaiting(on bool) {
	r.n.apply(Entry{}, false, on)
	r.collect()
}

// send submits a message; its method is its number.
func (r *nodeRig) send(m Message) *letter {
	m.Node, m.Target, m.Method = "db", "db"+m.Name, fmt.Sprint(len(r.letters))
	l := &letter{call: &call{Message: m}}
	r.letters = append(r.letters, l)
	r.n.submit(l.call)
	if l.settled {
		l.got = append(l.got, l.early)
	} else {
		l.waited, l.done = true, make(chan outcome, 8)
	}
	r.collect()
	return l
}

func (r *nodeRig) call() *letter { return r.send(Message{Name: "@a"}) }
func (r *nodeRig) push() *letter { return r.send(Message{Name: "@a", Push: true}) }

func (r *nodeRig) large(name string, push bool, kib int) *letter {
	return r.send(Message{Name: name, Push: push, Payload: make([]byte, kib<<10)})
}

func (r *nodeRig) leave(l *letter, cause error) {
	if err := r.n.leave(l.call, cause); err != nil {
		l.got = append(l.got, outcome{err: err})
	}
	r.collect()
}

// collect takes the outcomes that have come. Nobody may have two (M21).
func (r *nodeRig) collect() {
	for _, l := range r.letters {
		for len(l.done) > 0 {
			l.got = append(l.got, <-l.done)
		}
		if len(l.got) > 1 {
			r.t.Fatalf("message %s has %d outcomes (M21)", l.Method, len(l.got))
		}
	}
}

var smallPeer = peerLimits{batch: 64 << 10, message: 300 << 10, unfinished: 192 << 10, calls: 4, silence: minSilence}

// connected ends the dial with an open link.
func (r *nodeRig) connected(l peerLimits) *outlet {
	r.t.Helper()
	if !r.running {
		r.t.Fatalf("no dial runs")
	}
	r.running = false
	o := newOutlet(r.n.entry.Addr, Peer{Process: "p", Incarnation: 7, Node: "db", Addr: r.n.entry.Addr}, l, r.now)
	r.awake[o] = false
	if !r.n.dialled(r.n.gen, o, nil, r.now) {
		r.t.Fatalf("the dial is not wanted")
	}
	r.collect()
	return o
}

func (r *nodeRig) refused(cause string) {
	r.t.Helper()
	if !r.running {
		r.t.Fatalf("no dial runs")
	}
	r.running = false
	r.n.dialled(r.n.gen, nil, errors.New(cause), r.now)
	r.collect()
}

// pass lets time pass, and fires what is due.
func (r *nodeRig) pass(d time.Duration) {
	r.now = r.now.Add(d)
	if !r.alarm.IsZero() && !r.now.Before(r.alarm) {
		r.alarm = time.Time{}
		r.n.timeout(r.now)
	}
	due := []*outlet{}
	for o, at := range r.drains {
		if !r.now.Before(at) {
			due = append(due, o)
		}
	}
	slices.SortFunc(due, func(a, b *outlet) int { return cmp.Compare(a.addr, b.addr) })
	for _, o := range due {
		r.n.lost(o, errors.New("the drain time was over"), r.now)
	}
	r.collect()
}

// fill runs the writer once, as link.write does: it returns the frames of one
// batch. A writer that sleeps must have nothing to do.
func (r *nodeRig) fill(o *outlet, limit int) (frames []frame, halfClose bool) {
	b := &batch{limit: limit}
	asleep := !r.awake[o]
	halfClose = r.n.fill(o, b, r.now)
	if asleep && (halfClose || !b.empty()) {
		r.t.Fatalf("the writer was not woken for %d bytes (half-close: %v)", b.size, halfClose)
	}
	r.awake[o] = !b.empty()
	size := b.size
	data := b.take()
	if data.Len() != size || size > limit {
		r.t.Fatalf("a batch of %d bytes counts as %d; its limit is %d", data.Len(), size, limit)
	}
	var in inbox
	if err := in.decode(data); err != nil {
		r.t.Fatalf("decode of our own batch: %v", err)
	}
	r.collect()
	return in.frames, halfClose
}

// sent is what leaves until the writer sleeps: "3" a message begins, "3+" one
// of its parts, "x3" its cancel, "half" the half-close; numbers are those of
// the messages.
func (r *nodeRig) sent(o *outlet) string {
	var s []string
	for range 1000 {
		frames, halfClose := r.fill(o, smallPeer.batch)
		for _, f := range frames {
			who := func() string {
				for _, l := range r.letters {
					if l.out == o && l.session == f.session {
						return l.Method
					}
				}
				return "?"
			}
			switch f.kind {
			case kindRequest:
				s = append(s, f.method)
			case kindPart:
				s = append(s, who()+"+")
			case kindCancel:
				s = append(s, "x"+who())
			}
		}
		if halfClose {
			return strings.Join(append(s, "half"), " ")
		}
		if len(frames) == 0 {
			return strings.Join(s, " ")
		}
	}
	r.t.Fatalf("the writer does not come to rest")
	return ""
}

func (r *nodeRig) wantSent(o *outlet, want string) {
	r.t.Helper()
	if got := r.sent(o); got != want {
		r.t.Fatalf("sent %q, want %q", got, want)
	}
}

func (r *nodeRig) reply(l *letter) { r.received(l, &frame{kind: kindReply, payload: []byte("ok")}) }

func (r *nodeRig) fails(l *letter, reason meshv1.Reason) {
	r.received(l, &frame{kind: kindFailure, failure: &meshv1.Failure{Reason: reason, Message: "no"}})
}

func (r *nodeRig) received(l *letter, f *frame) {
	r.t.Helper()
	f.session = l.session
	if !r.n.received(l.out, f, r.now) {
		r.t.Fatalf("the answer to %s is stray", l.Method)
	}
	r.collect()
}

func (r *nodeRig) goaway(o *outlet, last uint64) {
	r.n.goaway(o, last, "restart", r.now)
	r.collect()
}

func (r *nodeRig) lost(o *outlet, cause error) {
	r.n.lost(o, cause, r.now)
	r.collect()
}

func (r *nodeRig) shut() {
	r.n.shut(r.now)
	if r.n.closed {
		r.collect()
	}
}

// want checks what the letters have been told: "-" nothing yet, "ok", or the
// verdict and the cause.
func (r *nodeRig) want(want string, ls ...*letter) {
	r.t.Helper()
	for _, l := range ls {
		got := "-"
		if len(l.got) > 0 {
			got = "ok"
			if e := l.got[0].err; e != nil {
				got = e.Verdict.String() + ": " + e.Message
			}
		}
		if got != want {
			r.t.Fatalf("message %s was told %q, want %q", l.Method, got, want)
		}
	}
}

func (r *nodeRig) wantDials(addrs ...string) {
	r.t.Helper()
	if !slices.Equal(r.dials, addrs) {
		r.t.Fatalf("dials %q, want %q", r.dials, addrs)
	}
}

func (r *nodeRig) wantState(states ...State) {
	r.t.Helper()
	got := []State{}
	for _, i := range r.told {
		got = append(got, i.State)
	}
	if !slices.Equal(got, states) {
		r.t.Fatalf("told %v, want %v", got, states)
	}
}

const (
	absentText  = "not sent: cluster node [db] is absent."
	downText    = "not sent: cluster node [db] is down."
	connectText = "not sent: connect [db] (A:1): no route"
	brokenText  = "maybe executed: link to [db] broke: reset"
	closedText  = "not sent: the mesh is closed"
)

var errReset = errors.New("reset")

func openRig(t rapid.TB) (*nodeRig, *outlet) {
	t.Helper()
	r := newNodeRig(t)
	r.reload("A:1")
	first := r.call()
	o := r.connected(smallPeer)
	r.sent(o)
	r.reply(first)
	r.want("ok", first)
	return r, o
}
