package channel

import (
	"slices"

	"pgregory.net/rapid"
)

// end picks a link that lives.
func (m *model) end() *farEnd {
	var live []*farEnd
	for _, f := range m.ends {
		if m.ended[f.o] == nil {
			live = append(live, f)
		}
	}
	return pick(m, live)
}

func pick[T any](m *model, of []*T) *T {
	if len(of) == 0 {
		return nil
	}
	return of[rapid.IntRange(0, len(of)-1).Draw(m.t, "which")]
}

func (l *callList) snapshot() (cs []*call) {
	for c := l.head; c != nil; c = c.next {
		cs = append(cs, c)
	}
	return cs
}

// waiting lists what counts in the line, in no order.
func (m *model) waiting() []*call {
	cs := m.n.line.snapshot()
	if o := m.n.link; o != nil {
		cs = append(cs, o.blocked.snapshot()...)
		for _, l := range o.aside {
			cs = append(cs, l.snapshot()...)
		}
	}
	return cs
}

// check is what holds after every step.
func (m *model) check() {
	m.collect()
	m.checkLine()
	m.checkState()
	m.checkWriters()
	m.checkLinks()
	m.checkLetters()
}

func (m *model) checkLine() {
	n := m.n
	calls, pushes := 0, int64(0)
	for _, c := range m.waiting() {
		switch {
		case c.Push:
			pushes += c.size()
		default:
			calls++
		}
	}
	if calls != n.calls || pushes != n.pushes {
		m.t.Fatalf("the line has %d calls and %d bytes, and counts %d and %d", calls, pushes, n.calls, n.pushes)
	}
	if n.room.head != nil && n.pushes < n.limits.LinePushBytes {
		m.t.Fatal("a push waits for room, and there is some (M29)")
	}
	empty := n.line.head == nil && n.room.head == nil
	switch {
	case empty:
	case n.closed && n.link == nil:
		m.t.Fatal("someone waits for a node that is closed (M55)")
	case n.entry.Kind == Down && !n.closed:
		m.t.Fatal("someone waits for a node that is down (M8)")
	case n.entry.Kind == Absent && n.noWaiting && !n.closed:
		m.t.Fatal("someone waits for an absent node with nowaiting (M7)")
	case n.entry.Kind == Address && n.phase == phaseIdle:
		m.t.Fatal("someone waits, and nothing is under way")
	}
	for _, c := range append(n.line.snapshot(), n.room.snapshot()...) {
		if c.NoWait && !c.settled && !n.closed && (n.entry.Kind == Absent || n.phase == phasePause) {
			m.t.Fatalf("message %s waits with NoWait (M7, M15)", c.Method)
		}
	}
}

func (m *model) checkState() {
	n := m.n
	if m.running != (n.phase == phaseDialling) || n.phase == phasePause && m.alarm.IsZero() || (n.link != nil) != (n.phase == phaseOpen) {
		m.t.Fatalf("phase %d, a dial runs: %v, alarm %v", n.phase, m.running, m.alarm)
	}
	if n.closed {
		return
	}
	ok := n.entry.Kind == Address
	switch n.state {
	case StateAbsent:
		ok = n.entry.Kind == Absent
	case StateDown:
		ok = n.entry.Kind == Down
	case StateUp: // also while a move is dialled
		ok = ok && (n.phase == phaseOpen || n.phase == phaseDialling)
	default:
		ok = ok && n.phase != phaseOpen
	}
	if !ok {
		m.t.Fatalf("state %s with %+v in phase %d (M38)", n.state, n.entry, n.phase)
	}
	if len(m.told) > 0 && m.told[len(m.told)-1].State != n.state {
		m.t.Fatalf("state %s was not told (M38)", n.state)
	}
}

// checkWriters: a writer that sleeps has nothing to send, and no half-close.
func (m *model) checkWriters() {
	for _, f := range m.ends {
		if m.ended[f.o] == nil && !f.halfClosed && !m.awake[f.o] {
			m.fill(f.o, 64<<10)
		}
	}
}

func (m *model) checkLinks() {
	for _, f := range m.ends {
		o := f.o
		dead := m.ended[o] != nil
		heavy := int64(0)
		for _, c := range o.bulk.turn {
			heavy += weight(uint64(len(c.Payload)))
		}
		if !dead && o.bulk.begun != heavy || heavy > o.limits.unfinished {
			m.t.Fatalf("%d bytes are unfinished and counted as %d", heavy, o.bulk.begun)
		}
		if o != m.n.link && (o.blocked.head != nil || len(o.aside) > 0) {
			m.t.Fatal("a link that ends keeps what it has not begun (M34)")
		}
		if dead && (len(o.flights) > 0 || o != m.n.link && slices.Contains(m.n.old, o)) {
			m.t.Fatal("a link that broke has calls in flight (M34)")
		}
		if !dead && len(o.flights) > len(f.open)+int(o.session)-len(f.got) {
			m.t.Fatalf("%d calls in flight, %d open at the far end", len(o.flights), len(f.open))
		}
	}
}

// checkLetters compares what makers were told with what the far ends know.
func (m *model) checkLetters() {
	listed := make(map[*call]bool)
	for _, c := range append(m.waiting(), m.n.room.snapshot()...) {
		listed[c] = true
	}
	gone, broken := int64(0), int64(0)
	for _, l := range m.letters {
		sent := l.sends > 0 && !l.released
		switch {
		case len(l.got) == 0:
			if sent == listed[l.call] || sent && m.ended[l.on.o] != nil {
				m.t.Fatalf("message %s waits for nothing (M21)", l.Method)
			}
			continue
		case l.got[0].err == nil && l.Push:
			if l.sends == 0 && !listed[l.call] {
				gone++
			}
			if sent && !l.whole && !l.dropped && m.ended[l.on.o] != nil {
				broken++
			}
			continue
		case listed[l.call]:
			m.t.Fatalf("message %s waits and has its outcome", l.Method)
		}
		verdict := Verdict(0)
		if err := l.got[0].err; err != nil {
			verdict = err.Verdict
		}
		ok := l.answered
		switch verdict {
		case NotSent:
			ok = !sent || l.released
		case MaybeExecuted:
			ok = l.sends > 0
		}
		if !ok {
			m.t.Fatalf("message %s was told %v; sent %d times, released %v, answered %v (M23)", l.Method, l.got[0].err, l.sends, l.released, l.answered)
		}
	}
	c := &m.counters
	if n := c.PushesLostConnect.Load() + c.PushesLostTable.Load() + c.PushesLostTooLarge.Load() + c.PushesLostClosed.Load(); n != gone {
		m.t.Fatalf("%d accepted pushes never left, %d are counted", gone, n)
	}
	if n := c.PushesLostGoaway.Load(); n != m.sum.goaway {
		m.t.Fatalf("%d pushes were not taken at a goaway, %d are counted (M35)", m.sum.goaway, n)
	}
	if n := c.PushesLostBroken.Load(); n != broken {
		m.t.Fatalf("%d large pushes were cut, %d are counted", broken, n)
	}
}
