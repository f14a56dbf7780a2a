package channel

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// farEnd is the listener of one link: what it knows from the frames that it
// got, in their order, and nothing else.
type farEnd struct {
	o          *outlet
	got        []*letter // by session, from 1
	open       map[uint64]*letter
	arriving   map[uint64]int    // bytes of large requests that are not whole
	heavy      int64             // their weight
	replying   map[uint64]uint64 // bytes that are missing of large replies
	last       uint64            // with leaving: what the goaway said
	leaving    bool
	halfClosed bool
}

// model drives a node at random and checks what it promises.
type model struct {
	*nodeRig
	t    *rapid.T
	ends []*farEnd
	held map[*call]bool                 // waited for a large push to its own service at some time
	sum  struct{ goaway, broken int64 } // pushes that were lost, as the far ends know
}

// TestNodeKeepsItsPromises: random sequences of everything that can happen to a
// node. Invariants: M6 to M16, M21, M22, M24, M34 to M36, M41, M55, M56.
func TestNodeKeepsItsPromises(t *testing.T) {
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) { rapid.Check(t, runModel) })
	}
}

func runModel(t *rapid.T) {
	m := &model{nodeRig: newNodeRig(t), t: t, held: make(map[*call]bool)}
	m.n.limits.LineCalls = rapid.IntRange(1, 8).Draw(t, "line")
	m.n.limits.LinePushBytes = rapid.SampledFrom([]int64{1500, 1 << 20}).Draw(t, "push bytes")
	m.n.timing.drain = rapid.SampledFrom([]time.Duration{0, time.Second, 10 * time.Second}).Draw(t, "drain")
	for range rapid.IntRange(1, 120).Draw(t, "steps") {
		m.step("submit", "submit", "submit", "submit", "fill", "fill", "fill", "fill", "answer", "answer", "answer", "dial", "dial",
			"stale dial", "reload", "pass", "leave", "goaway", "lost", "want", "rest", "settle")
	}
	m.shut()
	m.check()
	for range rapid.IntRange(0, 10).Draw(t, "steps after shut") {
		m.step("submit", "fill", "answer", "reload", "pass", "leave", "goaway", "lost")
	}
	m.n.finish()
	m.check()
	for _, l := range m.letters {
		if len(l.got) != 1 {
			t.Fatalf("message %s has no outcome after finish (M21)", l.Method)
		}
	}
}

// step takes one of the steps, and checks everything after it.
func (m *model) step(names ...string) {
	map[string]func(){
		"submit": m.stepSubmit, "fill": m.stepFill, "answer": m.stepAnswer, "dial": m.stepDial, "stale dial": m.stepStaleDial,
		"reload": m.stepReload, "pass": m.stepPass, "leave": m.stepLeave, "goaway": m.stepGoaway, "lost": m.stepLost,
		"want": m.stepWant, "rest": m.stepRest, "settle": m.stepSettle,
	}[rapid.SampledFrom(names).Draw(m.t, "step")]()
	m.check()
}

func (m *model) stepReload() {
	switch what := rapid.SampledFrom([]string{"A:1", "B:1", "C:1", "A:1", "down", "absent", "nowaiting"}).Draw(m.t, "reload"); what {
	case "nowaiting":
		m.nowaiting(!m.n.noWaiting)
	default:
		m.reload(what)
	}
}

func (m *model) stepSubmit() {
	msg := Message{
		Name: rapid.SampledFrom([]string{"@a", "@b", ""}).Draw(m.t, "to"), Push: rapid.Bool().Draw(m.t, "push"),
		NoWait: rapid.IntRange(0, 5).Draw(m.t, "nowait") == 5, WaitUp: rapid.IntRange(0, 3).Draw(m.t, "waitup") == 3,
		Payload: make([]byte, rapid.SampledFrom([]int{5, partBytes, partBytes + 1, 70 << 10, 100 << 10, 150 << 10, 250 << 10}).Draw(m.t, "size")),
	}
	calls, pushes, waiting := m.n.calls, m.n.pushes, m.n.room.len
	l := m.send(msg)
	overloaded := len(l.got) > 0 && l.got[0].err != nil && l.got[0].err.Err == ErrOverloaded
	if want := !msg.Push && calls >= m.n.limits.LineCalls; overloaded && !want || want && len(l.got) == 0 {
		m.t.Fatalf("overloaded: %v with %d calls in the line (M56)", overloaded, calls)
	}
	if inRoom := l.place == placeRoom; inRoom != (msg.Push && len(l.got) == 0 && (waiting > 0 || pushes >= m.n.limits.LinePushBytes)) {
		m.t.Fatalf("waits for room: %v with %d bytes in the line and %d before it (M29)", inRoom, pushes, waiting)
	}
}

func (m *model) stepLeave() {
	if l := pick(m, m.letters); l != nil {
		if m.leave(l, context.Canceled); len(l.got) != 1 {
			m.t.Fatalf("message %s left without an outcome", l.Method)
		}
	}
}

func (m *model) stepDial() {
	if !m.running {
		return
	}
	if rapid.IntRange(0, 2).Draw(m.t, "refused") == 0 {
		m.refused("no route")
		return
	}
	l := smallPeer
	l.message = rapid.SampledFrom([]int64{100 << 10, 300 << 10}).Draw(m.t, "largest")
	l.calls = rapid.IntRange(1, 4).Draw(m.t, "calls")
	m.ends = append(m.ends, &farEnd{
		o: m.connected(l), open: make(map[uint64]*letter), arriving: make(map[uint64]int), replying: make(map[uint64]uint64),
	})
}

func (m *model) stepStaleDial() {
	if m.n.gen > 1 && m.n.dialled(m.n.gen-1, nil, errReset, m.now) {
		m.t.Fatal("an abandoned dial counts (M14)")
	}
}

func (m *model) stepPass() {
	m.pass(rapid.SampledFrom([]time.Duration{time.Millisecond, 100 * time.Millisecond, 3 * time.Second, 31 * time.Second, time.Hour}).Draw(m.t, "pass"))
}

func (m *model) stepWant() {
	if m.n.keep > 0 && rapid.Bool().Draw(m.t, "unwant") {
		m.n.unwant()
	} else {
		m.n.want()
	}
}

func (m *model) stepRest() {
	if f := m.end(); f != nil {
		m.n.rest(f.o, m.now)
	}
}

func (m *model) stepFill() {
	if f := m.end(); f != nil && !f.halfClosed {
		m.fillOnce(f, rapid.SampledFrom([]int{64 << 10, 200 << 10, 1 << 20}).Draw(m.t, "batch"))
	}
}

// stepSettle runs every writer until it sleeps: then nobody waits who could go.
func (m *model) stepSettle() {
	for _, f := range m.ends {
		for n := 0; m.awake[f.o] && !f.halfClosed; n++ {
			m.fillOnce(f, 64<<10)
			if n > 1000 {
				m.t.Fatal("the writer does not come to rest")
			}
		}
	}
	o := m.n.link
	if o != nil && (len(o.bulk.turn) > 0 || len(o.cancels) > 0 || m.n.line.head != nil && len(o.flights) < o.limits.calls) {
		m.t.Fatal("the writer sleeps and something could be sent (M12)")
	}
}

// fillOnce sends one batch and has the far end take it.
func (m *model) fillOnce(f *farEnd, limit int) {
	waiting := append(m.waiting(), m.n.room.snapshot()...)
	frames, halfClose := m.fill(f.o, limit)
	waiting = slices.DeleteFunc(waiting, func(c *call) bool { // what had no room yet, and what can never leave
		return c.place == placeRoom || int64(len(c.Payload)) > min(f.o.limits.message, f.o.limits.unfinished)
	})
	for _, c := range waiting {
		m.held[c] = m.held[c] || f.holdsBack(waiting, c)
	}
	for _, fr := range frames {
		switch fr.kind {
		case kindRequest:
			waiting = m.begun(f, &fr, waiting)
		case kindPart:
			m.part(f, &fr)
		case kindCancel:
			f.finish(fr.session)
		}
	}
	if halfClose {
		f.halfClosed = true
		if len(f.o.flights) > 0 || len(f.arriving) > 0 {
			m.t.Fatal("half-closed too early (M36)")
		}
	}
}

// begun checks that a message may begin, before those that wait before it.
func (m *model) begun(f *farEnd, fr *frame, waiting []*call) []*call {
	i := slices.IndexFunc(waiting, func(c *call) bool { return c.Method == fr.method })
	if i < 0 {
		m.t.Fatalf("message %s was sent and did not wait", fr.method)
	}
	c := waiting[i]
	l := m.letters[slices.IndexFunc(m.letters, func(l *letter) bool { return l.call == c })]
	switch {
	case fr.session != uint64(len(f.got))+1:
		m.t.Fatalf("session %d after %d", fr.session, len(f.got))
	case l.sends > 0 && !l.released:
		m.t.Fatalf("message %s was sent again and may have started (M22)", l.Method)
	case !c.Push && len(f.open) >= f.o.limits.calls:
		m.t.Fatalf("more than %d calls in flight", f.o.limits.calls)
	case f.leaving || f.o != m.n.link:
		m.t.Fatal("a message begins on a link that ends")
	}
	for _, x := range f.got {
		if x.Push && x.to() == c.to() && f.arriving[x.session] > 0 {
			m.t.Fatalf("message %s begins before large push %s has left (M24)", l.Method, x.Method)
		}
	}
	for _, x := range waiting {
		if x.order < c.order && !m.mayPass(f, waiting, c, x) {
			m.t.Fatalf("message %s overtakes %s (M12, M13)", c.Method, x.Method)
		}
	}
	l.on, l.released, l.whole = f, false, !c.isLarge()
	l.sends++
	f.got = append(f.got, l)
	if !c.Push {
		f.open[fr.session] = l
	}
	if c.isLarge() {
		f.arriving[fr.session] = partBytes
		if f.heavy += weight(fr.total); f.heavy > f.o.limits.unfinished {
			m.t.Fatalf("%d bytes unfinished (M41)", f.heavy)
		}
	}
	return slices.Delete(waiting, i, i+1)
}

// mayPass says whether c may begin while x waits before it.
func (m *model) mayPass(f *farEnd, waiting []*call, c, x *call) bool {
	again := m.letters[slices.IndexFunc(m.letters, func(l *letter) bool { return l.call == x })].sends > 0
	switch {
	case f.holdsBack(waiting, x):
		return x.to() != c.to()
	case m.held[x] && c.isLarge():
		return x.to() != c.to() // a blocked one goes before those that were let go
	case x.isLarge() && (!c.isLarge() || again):
		return !x.Push || x.to() != c.to()
	default:
		return false
	}
}

// holdsBack says whether x waits for a large push to its own service.
func (f *farEnd) holdsBack(waiting []*call, x *call) bool {
	for _, p := range waiting {
		if p.Push && p.isLarge() && p.to() == x.to() && p.order < x.order {
			return true
		}
	}
	for s := range f.arriving {
		if p := f.got[s-1]; p.Push && p.to() == x.to() {
			return true
		}
	}
	return false
}

func (m *model) part(f *farEnd, fr *frame) {
	have, ok := f.arriving[fr.session]
	if !ok {
		m.t.Fatalf("a part of session %d, which is whole, ended or unknown", fr.session)
	}
	have += fr.length()
	l := f.got[fr.session-1]
	if f.arriving[fr.session] = have; have == len(l.Payload) {
		l.whole = true
		f.finish(fr.session)
	} else if fr.length() != partBytes || have > len(l.Payload) {
		m.t.Fatalf("a part of %d bytes at %d of %d", fr.length(), have, len(l.Payload))
	}
}

// finish forgets a large request that is whole or ended.
func (f *farEnd) finish(session uint64) {
	if _, ok := f.arriving[session]; ok {
		delete(f.arriving, session)
		f.heavy -= weight(uint64(len(f.got[session-1].Payload)))
	}
}

func (m *model) stepAnswer() {
	f := m.end()
	if f == nil || len(f.open) == 0 {
		return
	}
	sessions := slices.Sorted(maps.Keys(f.open))
	s := rapid.SampledFrom(sessions).Draw(m.t, "session")
	l := f.open[s]
	fr := &frame{session: s, kind: kindFailure, failure: &meshv1.Failure{Message: "no"}}
	missing, replying := f.replying[s]
	whole := true
	switch how := rapid.IntRange(0, 4).Draw(m.t, "answer"); {
	case how == 0:
		fr.failure.Reason = meshv1.Reason_REASON_DRAINING
		if replying {
			fr.failure.Reason = meshv1.Reason_REASON_CANCELLED
		}
		l.released = f.leaving && len(l.got) == 0 && !replying
	case how == 1 || f.arriving[s] > 0:
		fr.failure.Reason = rapid.SampledFrom([]meshv1.Reason{meshv1.Reason_REASON_HANDLER, meshv1.Reason_REASON_OVERLOADED}).Draw(m.t, "reason")
	case replying:
		n := min(missing, partBytes)
		fr = &frame{session: s, kind: kindPart, payload: make([]byte, n)}
		f.replying[s] = missing - n
		whole = n == missing
	case how == 2:
		fr = &frame{session: s, kind: kindReply, payload: make([]byte, partBytes), total: 70 << 10}
		f.replying[s] = 70<<10 - partBytes
		whole = false
	default:
		fr = &frame{session: s, kind: kindReply}
	}
	if whole {
		delete(f.open, s)
		delete(f.replying, s)
		f.finish(s)
		l.answered = !l.released
	}
	if !m.n.received(f.o, fr, m.now) {
		m.t.Fatalf("the answer to session %d is stray", s)
	}
	m.collect()
}

func (m *model) stepGoaway() {
	f := m.end()
	if f == nil || f.leaving {
		return
	}
	least := uint64(0) // what was answered, or cancelled in time, was taken
	for i, l := range f.got {
		if l.on == f && (f.replying[uint64(i+1)] > 0 || !l.Push && f.open[uint64(i+1)] == nil) {
			least = uint64(i + 1)
		}
	}
	f.last, f.leaving = rapid.Uint64Range(least, uint64(len(f.got))).Draw(m.t, "last"), true
	for i, l := range f.got[f.last:] {
		s := f.last + uint64(i) + 1
		if l.Push {
			l.dropped = true
			m.sum.goaway++
		} else {
			l.released = len(l.got) == 0
			delete(f.open, s)
		}
		f.finish(s)
	}
	m.goaway(f.o, f.last)
}

func (m *model) stepLost() {
	if f := m.end(); f != nil {
		m.lost(f.o, rapid.SampledFrom([]error{nil, errReset}).Draw(m.t, "cause"))
	}
}
