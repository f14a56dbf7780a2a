package channel

import (
	"context"
	"testing"
	"time"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M5.
func TestSameAddressChangesNothing(t *testing.T) {
	r, o := openRig(t)
	r.reload("A:1")
	r.wantDials("A:1")
	if r.n.link != o || len(r.drains) > 0 {
		t.Error("the link was touched")
	}
}

// M6, M14.
func TestMoveEndsTheOldLinkInOrder(t *testing.T) {
	r, o := openRig(t)
	inFlight := r.call()
	r.wantSent(o, inFlight.Method)
	inLine := r.call()
	r.reload("B:1")
	r.wantDials("A:1", "B:1")
	r.want("-", inFlight, inLine)
	if at := r.drains[o]; at != r.now.Add(10*time.Second) {
		t.Errorf("the old link may drain until %s", at)
	}
	p := r.connected(smallPeer)
	r.wantSent(p, inLine.Method)
	r.wantSent(o, "")
	r.reply(inFlight)
	r.want("ok", inFlight)
	r.wantSent(o, "half")
	r.lost(o, nil)
	r.wantState(StateIdle, StateUp, StateUp)
}

// M6.
func TestMoveIsDialledThoughNobodyWaits(t *testing.T) {
	r, _ := openRig(t)
	r.reload("B:1")
	r.reload("C:1")
	r.wantDials("A:1", "B:1", "C:1")
	r.connected(smallPeer)
	r.wantState(StateIdle, StateUp, StateUp)
}

// M6: a node that was never used is dialled at its first use.
func TestUnusedNodeIsNotDialled(t *testing.T) {
	r := newNodeRig(t)
	r.reload("A:1")
	r.reload("B:1")
	r.wantDials()
	r.wantState(StateIdle)
	r.call()
	r.wantDials("B:1")
}

// M6.
func TestDrainTimeEnds(t *testing.T) {
	r, o := openRig(t)
	c := r.call()
	r.wantSent(o, c.Method)
	r.reload("B:1")
	r.pass(9999 * time.Millisecond)
	r.want("-", c)
	r.pass(time.Millisecond)
	r.want("maybe executed: link to [db] broke: the drain time was over", c)
}

// M6: a node has one draining link, the next move cuts it; without drain time
// there is none.
func TestNextMoveCutsTheDrainingLink(t *testing.T) {
	r, o := openRig(t)
	c := r.call()
	r.wantSent(o, c.Method)
	r.reload("B:1")
	p := r.connected(smallPeer)
	d := r.call()
	r.wantSent(p, d.Method)
	r.reload("C:1")
	r.want("maybe executed: link to [db] broke: the node moved again", c)
	r.want("-", d)

	r, o = openRig(t)
	r.n.timing.drain = 0
	c = r.call()
	r.wantSent(o, c.Method)
	r.reload("B:1")
	r.want("maybe executed: link to [db] broke: the node moved", c)
	r.wantDials("A:1", "B:1")
}

// M7, M10, F20.
func TestCallWaitsForAbsentNode(t *testing.T) {
	r := newNodeRig(t)
	c, d := r.call(), r.push()
	r.want("-", c, d)
	r.wantDials()
	r.reload("A:1")
	r.wantDials("A:1")
	r.want("-", c, d)
	o := r.connected(smallPeer)
	r.want("ok", d)
	r.wantSent(o, "0 1")
}

// M7.
func TestNoWaitFailsForAbsentNode(t *testing.T) {
	r := newNodeRig(t)
	r.want(absentText, r.send(Message{Name: "@a", NoWait: true}), r.send(Message{Name: "@a", NoWait: true, Push: true}))
	r.nowaiting(true)
	r.want(absentText, r.call(), r.push())
}

// M7, M14: a node that becomes absent is absent for who is in the line too.
func TestNoWaitFailsWhenNodeBecomesAbsent(t *testing.T) {
	r := newNodeRig(t)
	r.reload("A:1")
	c, d := r.send(Message{Name: "@a", NoWait: true}), r.call()
	r.reload("absent")
	r.want(absentText, c)
	r.want("-", d)
	if r.running {
		t.Error("the dial goes on")
	}
}

// M8, M14.
func TestDownFailsAtOnce(t *testing.T) {
	r := newNodeRig(t)
	c := r.call()
	r.reload("down")
	r.want(downText, c, r.call(), r.push())
	r.reload("A:1")
	d := r.call()
	r.reload("down")
	r.want(downText, d)
	r.wantDials("A:1")
	if r.running {
		t.Error("the dial goes on")
	}
	r.wantState(StateDown, StateIdle, StateDown)
}

// M9, M11, F23.
func TestDownAndAbsentCutTheLink(t *testing.T) {
	for _, what := range []string{"down", "absent"} {
		r, o := openRig(t)
		sent := r.call()
		r.wantSent(o, sent.Method)
		inLine, accepted := r.call(), r.push()
		r.want("ok", accepted)
		r.reload(what)
		r.want("maybe executed: link to [db] broke: node [db] was set to "+what, sent)
		if r.ended[o] == nil {
			t.Error("the link lives")
		}
		if what == "down" {
			r.want(downText, inLine)
			r.wantState(StateIdle, StateUp, StateDown)
			if n := r.counters.PushesLostTable.Load(); n != 1 {
				t.Errorf("%d pushes lost to the table", n)
			}
			continue
		}
		later := r.call()
		r.want("-", inLine, later)
		r.wantState(StateIdle, StateUp, StateAbsent)
		r.reload("B:1")
		p := r.connected(smallPeer)
		r.wantSent(p, "2 3 4")
	}
}

// M10, F21.
func TestNowaitingWakesWhoWaits(t *testing.T) {
	r := newNodeRig(t)
	c, d := r.call(), r.push()
	r.nowaiting(true)
	r.want(absentText, c, d)
	r.nowaiting(false)
	c = r.call()
	r.want("-", c)
	r.n.apply(Entry{Address, "A:1"}, true, true) // an address in the same reload
	r.collect()
	r.want("-", c)
	r.wantSent(r.connected(smallPeer), c.Method)
}

// M12, F22.
func TestWhoLeavesDelaysNobody(t *testing.T) {
	r := newNodeRig(t)
	for range 6 {
		r.call()
	}
	r.want("not sent: the line of node [db] is full: 6 calls wait", r.call())
	gone := r.letters[2]
	r.leave(gone, context.Canceled)
	r.want("not sent: message to [db]: context canceled while it waited to be sent: the node is absent from the table", gone)
	r.want("-", r.call())
	r.reload("A:1")
	for _, l := range r.letters[:2] {
		r.leave(l, context.DeadlineExceeded)
	}
	o := r.connected(smallPeer)
	r.wantSent(o, "3 4 5 7") // as many as may be in flight
	next := r.call()
	r.wantSent(o, "")
	r.reply(r.letters[4])
	r.wantSent(o, next.Method)
}

// M12: a call at the head that leaves lets pass the pushes behind it.
func TestCallThatLeavesLetsPushesPass(t *testing.T) {
	r, o := openRig(t)
	for range 5 {
		r.call()
	}
	r.push()
	r.wantSent(o, "1 2 3 4")
	r.leave(r.letters[5], context.Canceled)
	r.wantSent(o, "6")
}

// M12: no session before it begins, and a place is free only with the answer.
func TestCancelledCallKeepsItsPlace(t *testing.T) {
	r, o := openRig(t)
	for range 5 {
		r.call()
	}
	r.wantSent(o, "1 2 3 4")
	r.leave(r.letters[1], context.Canceled)
	r.want("maybe executed: message to [db]: context canceled after it was sent", r.letters[1])
	r.wantSent(o, "x1")
	r.fails(r.letters[1], meshv1.Reason_REASON_CANCELLED)
	r.wantSent(o, "5")
	if n := r.counters.RepliesLate.Load(); n != 1 {
		t.Errorf("%d late replies", n)
	}
}

// M14.
func TestAddressThatChangesWinsOverTheDial(t *testing.T) {
	r := newNodeRig(t)
	r.reload("A:1")
	c := r.call()
	stale := r.n.gen
	r.reload("B:1")
	r.wantDials("A:1", "B:1")
	o := newOutlet("A:1", Peer{}, smallPeer, r.now)
	if r.n.dialled(stale, o, nil, r.now) || r.n.dialled(stale, nil, errReset, r.now) {
		t.Error("the abandoned dial counts")
	}
	r.want("-", c)
	r.wantSent(r.connected(smallPeer), c.Method)
}

// M14.
func TestDialGoesOnWhenTheLastLeaves(t *testing.T) {
	r := newNodeRig(t)
	r.reload("A:1")
	r.leave(r.call(), context.Canceled)
	o := r.connected(smallPeer)
	r.wantSent(o, "")
	r.wantSent(o, r.call().Method)
	r.wantDials("A:1")
}

// M15.
func TestFailedDialFailsTheLine(t *testing.T) {
	r := newNodeRig(t)
	r.reload("A:1")
	c, d := r.call(), r.push()
	patient := r.send(Message{Name: "@a", WaitUp: true})
	r.refused("no route")
	r.want(connectText, c, d)
	r.want("-", patient)
	r.wantState(StateIdle, StateLost)
	r.wantDials("A:1") // not again before the pause is over
	r.want(connectText, r.send(Message{Name: "@a", NoWait: true}))
	later := r.call()
	r.want("-", later)
	r.pass(99 * time.Millisecond)
	r.wantDials("A:1")
	r.pass(time.Millisecond)
	r.wantDials("A:1", "A:1")
	r.wantSent(r.connected(smallPeer), patient.Method+" "+later.Method)
}

// M15: the pause doubles, has jitter, and is at most 3 s.
func TestPauseGrows(t *testing.T) {
	r := newNodeRig(t)
	r.reload("A:1")
	r.send(Message{Name: "@a", WaitUp: true})
	want := []time.Duration{100, 150, 300, 600, 1200, 2250, 2250}
	for _, ms := range want {
		r.refused("no route")
		if d := r.alarm.Sub(r.now); d != ms*time.Millisecond {
			t.Errorf("a pause of %s, want %s", d, ms*time.Millisecond)
		}
		r.pass(3 * time.Second)
	}
	r.reload("B:1") // a new address begins anew
	r.refused("no route")
	if d := r.alarm.Sub(r.now); d != 100*time.Millisecond {
		t.Errorf("a pause of %s after a new address", d)
	}
	r.reload("C:1")
	r.wantDials("A:1", "A:1", "A:1", "A:1", "A:1", "A:1", "A:1", "A:1", "B:1", "C:1")
}

// M15: the pauses are as short as at first after a link that lived.
func TestPauseIsShortAfterALinkThatLived(t *testing.T) {
	r := newNodeRig(t)
	r.reload("A:1")
	r.send(Message{Name: "@a", WaitUp: true})
	for range 5 {
		r.refused("no route")
		r.pass(3 * time.Second)
	}
	o := r.connected(smallPeer)
	r.sent(o)
	r.reply(r.letters[0])
	r.pass(time.Minute)
	r.n.rest(o, r.now)
	r.call()
	r.refused("no route")
	if d := r.alarm.Sub(r.now); d != 100*time.Millisecond {
		t.Errorf("a pause of %s", d)
	}
}

// M15, F7: a link that breaks soon counts as a failed dial.
func TestCrashLoopIsNotDialledWithoutPause(t *testing.T) {
	r, o := openRig(t)
	c, impatient := r.call(), r.send(Message{Name: "@a", NoWait: true})
	r.lost(o, errReset)
	r.want("-", c)
	r.want("not sent: connect [db] (A:1): reset", impatient)
	r.wantDials("A:1")
	r.pass(150 * time.Millisecond)
	r.wantDials("A:1", "A:1")
	r.wantSent(r.connected(smallPeer), c.Method)
	r.wantState(StateIdle, StateUp, StateLost, StateUp)
}

// M15, M35: for 30 s after a goaway failed dials are told to NoWait callers
// alone.
func TestFailedDialIsNotToldWhileNodeLeaves(t *testing.T) {
	r, o := openRig(t)
	r.goaway(o, o.session)
	c, d := r.call(), r.send(Message{Name: "@a", NoWait: true})
	r.refused("no route")
	r.want("-", c)
	r.want(connectText, d)
	r.pass(29 * time.Second)
	r.refused("no route")
	r.want("-", c)
	r.pass(3 * time.Second)
	r.refused("no route")
	r.want(connectText, c)
}

// M16.
func TestWatchKeepsNodeLinked(t *testing.T) {
	r := newNodeRig(t)
	r.n.want()
	r.wantDials()
	r.reload("A:1")
	r.wantDials("A:1")
	r.refused("no route")
	r.pass(time.Second)
	r.wantDials("A:1", "A:1")
	o := r.connected(smallPeer)
	r.wantSent(o, "")
	r.pass(time.Hour)
	r.n.rest(o, r.now)
	if r.n.link != o {
		t.Error("a watched link was closed when idle")
	}
	r.lost(o, errReset)
	r.wantDials("A:1", "A:1", "A:1")
	p := r.connected(smallPeer)
	r.wantSent(p, "")
	r.n.unwant()
	r.pass(time.Hour)
	r.n.rest(p, r.now)
	r.wantSent(p, "half")
}

// M29: a push waits for room in the line, in order; whoever leaves frees it.
func TestPushWaitsForRoom(t *testing.T) {
	r := newNodeRig(t)
	for range 7 {
		r.push()
	}
	for i, l := range r.letters {
		want := placeLine
		if i >= 6 { // 6 times 259 bytes reach 1500
			want = placeRoom
		}
		if l.place != want {
			t.Fatalf("push %d has place %d", i, l.place)
		}
	}
	late := r.push()
	r.leave(r.letters[6], ErrOverloaded)
	r.want("not sent: the line of node [db] is full: 1554 bytes of pushes wait", r.letters[6])
	r.leave(r.letters[0], context.Canceled)
	if late.place != placeLine {
		t.Error("nobody took the room")
	}
	r.reload("A:1")
	o := r.connected(smallPeer)
	r.want("ok", r.letters[1], r.letters[5], late)
	r.wantSent(o, "1 2 3 4 5 7")
}

// M29: a push is accepted when it has room in the line of an open link.
func TestPushInRoomIsAcceptedWithRoom(t *testing.T) {
	r, o := openRig(t)
	for range 6 {
		r.want("ok", r.push())
	}
	late := r.push()
	r.want("-", late)
	r.wantSent(o, "1 2 3 4 5 6 7")
	r.want("ok", late)
}

// M34.
func TestBreakFailsWhatIsInFlight(t *testing.T) {
	r, o := openRig(t)
	half := r.large("@a", false, 100)
	replied := r.call()
	r.wantSent(o, "1 2 1+ 1+ 1+")
	r.received(replied, &frame{kind: kindReply, payload: make([]byte, partBytes), total: 100 << 10})
	r.pass(time.Hour)
	inLine, accepted := r.call(), r.push()
	r.lost(o, errReset)
	r.want(brokenText, half, replied)
	r.want("-", inLine)
	r.want("ok", accepted)
	r.wantDials("A:1", "A:1")
	r.refused("no route")
	r.want(connectText, inLine)
	if n := r.counters.PushesLostConnect.Load(); n != 1 {
		t.Errorf("%d pushes lost", n)
	}
}

// M34, M36: what a link has set aside goes back to the line, in order.
func TestSetAsideGoesBackToTheLine(t *testing.T) {
	for name, end := range map[string]func(*nodeRig, *outlet){
		"break":  func(r *nodeRig, o *outlet) { r.pass(time.Hour); r.lost(o, errReset) },
		"goaway": func(r *nodeRig, o *outlet) { r.goaway(o, o.session) },
		"move":   func(r *nodeRig, _ *outlet) { r.reload("B:1") },
		"absent": func(r *nodeRig, _ *outlet) { r.reload("absent"); r.reload("A:1") },
	} {
		r, o := openRig(t)
		r.n.limits.LinePushBytes = 4 << 20
		r.large("@a", true, 150)        // 1
		r.large("@b", false, 100)       // 2 is blocked
		r.call()                        // 3 is held back
		r.large("@c", true, 100)        // 4 is blocked
		r.send(Message{Name: "@c"})     // 5 is held back
		r.fill(o, smallPeer.batch)      // 1 begins
		r.send(Message{Handle: 1 << 9}) // 6
		if end(r, o); r.n.calls != 4 {
			t.Errorf("%s: %d calls wait", name, r.n.calls)
		}
		if got := r.sent(r.connected(smallPeer)); got != "2 3 6 2+ 2+ 2+ 4 4+ 4+ 4+ 5" {
			t.Errorf("%s: sent %q", name, got)
		}
		if r.n.calls != 0 || r.n.pushes != 0 {
			t.Errorf("%s: %d calls and %d bytes still count", name, r.n.calls, r.n.pushes)
		}
	}
}

// M34, M35: a large push that is cut is counted.
func TestCutLargePushIsCounted(t *testing.T) {
	r, o := openRig(t)
	r.large("@a", true, 150)
	r.fill(o, smallPeer.batch)
	r.lost(o, errReset)
	if n := r.counters.PushesLostBroken.Load(); n != 1 {
		t.Errorf("%d pushes lost", n)
	}
}

// M22, M35, F5.
func TestGoawaySendsAgainWhatWasNotTaken(t *testing.T) {
	r, o := openRig(t)
	taken, c, p, d := r.call(), r.call(), r.push(), r.call()
	r.wantSent(o, "1 2 3 4")
	gone := r.call()
	r.wantSent(o, "5")
	r.leave(gone, context.Canceled)
	inLine := r.call()
	r.goaway(o, taken.session)
	r.wantState(StateIdle, StateUp, StateLeaving)
	if n := r.counters.PushesLostGoaway.Load(); n != 1 {
		t.Errorf("%d pushes lost", n)
	}
	r.want("-", taken, c, d, inLine)
	r.want("ok", p)
	r.wantSent(o, "x?")
	q := r.connected(smallPeer)
	r.wantSent(q, "2 4 6")
	r.reply(taken)
	r.want("ok", taken)
	r.wantSent(o, "half")
	r.goaway(o, 0) // a second one says nothing
	for _, l := range []*letter{c, d, inLine} {
		r.reply(l)
		r.want("ok", l)
	}
}

// M35: large ones among the discarded are stopped, those up to the last go on.
func TestGoawayAmongLargeOnes(t *testing.T) {
	r, o := openRig(t)
	o.limits.unfinished, o.bulk.limit = 1<<20, 1<<20
	a, b := r.large("@a", true, 96), r.large("@b", true, 96)
	r.large("@c", false, 96)
	r.fill(o, 1<<20)
	r.goaway(o, a.session)
	if n := r.counters.PushesLostGoaway.Load(); n != 1 {
		t.Errorf("%d pushes lost", n)
	}
	r.wantSent(o, "1+ half")
	r.want("ok", a, b)
	r.wantSent(r.connected(smallPeer), "3 3+ 3+")
	if r.counters.PushesLostBroken.Load() != 0 {
		t.Error("a push was counted twice")
	}
}

// M22: refused as draining after a goaway it has not started.
func TestDrainingAfterGoawayIsSentAgain(t *testing.T) {
	r, o := openRig(t)
	c, d := r.call(), r.call()
	r.wantSent(o, "1 2")
	r.fails(c, meshv1.Reason_REASON_DRAINING) // no goaway: an answer like others
	r.want("rejected: no", c)
	r.goaway(o, d.session)
	r.wantSent(o, "")
	r.fails(d, meshv1.Reason_REASON_DRAINING)
	r.want("-", d)
	r.wantSent(o, "half")
	r.wantSent(r.connected(smallPeer), "2")
}

// M36.
func TestIdleLinkIsClosed(t *testing.T) {
	r, o := openRig(t)
	r.pass(59 * time.Second)
	r.n.rest(o, r.now)
	c := r.call()
	r.wantSent(o, c.Method)
	r.pass(time.Minute)
	r.n.rest(o, r.now)
	if r.n.link != o {
		t.Fatal("closed though a call is in flight")
	}
	r.reply(c)
	r.pass(time.Minute)
	r.n.rest(o, r.now)
	r.wantState(StateIdle, StateUp, StateIdle)
	r.wantSent(o, "half")
	r.wantDials("A:1")
	d := r.call()
	r.wantDials("A:1", "A:1")
	r.wantSent(r.connected(smallPeer), d.Method)
	r.lost(o, nil)
	r.want("-", d)
}

// M36: what waits for the receiver's bounds is no rest.
func TestLinkWithBlockedMessageIsNotIdle(t *testing.T) {
	r, o := openRig(t)
	r.large("@a", true, 150)
	blocked := r.large("@b", false, 150)
	for len(o.bulk.turn) > 0 || o.session == 1 {
		r.fill(o, smallPeer.batch)
	}
	if blocked.place != placeAside {
		t.Fatal("the second one is not blocked")
	}
	r.pass(time.Hour)
	r.n.rest(o, r.now)
	if r.n.link == nil && !r.running {
		t.Fatal("a call waits, and there is neither link nor dial")
	}
}

// M36, M55: Close sends what stands in the line, waits for the answers, then
// half-closes.
func TestShutEndsInOrder(t *testing.T) {
	r, o := openRig(t)
	c := r.call()
	for range 6 {
		r.push()
	}
	late := r.push()
	r.shut()
	r.want(closedText, late, r.call())
	r.wantSent(o, "1 2 3 4 5 6 7")
	r.reply(c)
	r.want("ok", c)
	r.wantSent(o, "half")
	r.lost(o, nil)
	r.n.finish()
	r.wantDials("A:1")
	if r.counters.PushesLostClosed.Load() != 0 {
		t.Error("a push was lost")
	}
}

// M55.
func TestShutWithoutLinkFailsTheLine(t *testing.T) {
	r := newNodeRig(t)
	r.reload("A:1")
	c, d := r.call(), r.push()
	r.shut()
	r.want(closedText, c, d)
	if r.running {
		t.Error("the dial goes on")
	}
}

// M35, M55: nothing goes on at a next link when the process closes.
func TestGoawayWhileClosingFailsTheLine(t *testing.T) {
	r, o := openRig(t)
	c := r.call()
	r.wantSent(o, "1")
	inLine := r.call()
	r.shut()
	r.goaway(o, 1)
	r.want(closedText, c, inLine)
}

// M55: a reload while the process closes begins no link.
func TestReloadWhileClosingDialsNothing(t *testing.T) {
	r, o := openRig(t)
	c := r.call()
	r.wantSent(o, "1")
	r.shut()
	r.reload("B:1")
	r.wantDials("A:1")
	r.reply(c)
	r.want("ok", c)
	r.wantSent(o, "half")
}

// M55: finish leaves nobody behind.
func TestFinishFailsEverybody(t *testing.T) {
	r, o := openRig(t)
	c := r.call()
	r.wantSent(o, "1")
	inLine, p := r.call(), r.push()
	r.shut()
	r.n.finish()
	r.collect()
	r.want("maybe executed: link to [db] broke: the mesh is closed", c)
	r.want(closedText, inLine)
	r.want("ok", p)
	if n := r.counters.PushesLostClosed.Load(); n != 1 {
		t.Errorf("%d pushes lost", n)
	}
}

// M40: one byte more than this side, or the node, takes is refused before it is
// sent.
func TestTooLargeIsRefusedBeforeItIsSent(t *testing.T) {
	r := newNodeRig(t)
	r.reload("A:1")
	r.want("not sent: too large: 1048577 bytes; this process takes at most 1048576", r.send(Message{Name: "@a", Payload: make([]byte, 1<<20+1)}))
	early, push, ok := r.large("@a", false, 301), r.large("@a", true, 301), r.call()
	o := r.connected(smallPeer)
	r.want("ok", push)
	r.wantSent(o, ok.Method)
	text := "not sent: too large: 308224 bytes; the node takes at most 307200"
	r.want(text, early, r.large("@a", false, 301))
	if n := r.counters.PushesLostTooLarge.Load(); n != 1 {
		t.Errorf("%d pushes lost", n)
	}
	// More than the node takes unfinished can never begin (M41).
	r.want("not sent: too large: 204800 bytes; the node takes at most 196608", r.large("@a", false, 200))
}

// M33: an answer for nobody changes nothing.
func TestStrayAnswers(t *testing.T) {
	r, o := openRig(t)
	c := r.call()
	r.wantSent(o, "1")
	for _, f := range []frame{
		{session: 1, kind: kindReply}, {session: 99, kind: kindPart}, {session: 0, kind: kindFailure},
		{session: c.session, kind: kindPart, payload: []byte("x")}, {session: 1 << 63, kind: kindReply, total: 1 << 63},
	} {
		if r.n.received(o, &f, r.now) {
			t.Errorf("%+v is not stray", f)
		}
	}
	r.want("-", c)
	r.reply(c)
	r.want("ok", c)
}

// M61: an address to which plaintext may not be spoken is not dialled, and
// nobody waits for it, with WaitUp or without; another address helps.
func TestForbiddenAddressIsNotWaitedFor(t *testing.T) {
	r := newNodeRig(t)
	r.n.insecure = false
	waits := r.send(Message{Name: "@a", WaitUp: true})
	r.reload("192.0.2.1:1")
	later := r.send(Message{Name: "@a", WaitUp: true})
	r.want("not sent: connect [db] (192.0.2.1:1): "+errPlaintext.Error(), waits, later)
	r.wantDials()
	r.reload("127.0.0.1:1")
	r.call()
	r.wantDials("127.0.0.1:1")
}

// M29: pushes of which no answer showed that they were read are counted when
// their link breaks; those before an answer are not.
func TestPushesOfABrokenLinkAreCounted(t *testing.T) {
	r, o := openRig(t)
	r.push()
	c := r.call()
	r.sent(o)
	r.reply(c)
	r.push()
	r.push()
	r.sent(o)
	r.lost(o, errReset)
	if n := r.counters.PushesUnsure.Load(); n != 2 {
		t.Errorf("%d pushes are unsure, want 2", n)
	}
}

// M12, M13: a call that the old link's goaway puts back, after a move, is older
// than a large push that waits at the new link for room, and goes first.
func TestPutBackGoesBeforeWhatWaitsForRoom(t *testing.T) {
	r, a := openRig(t)
	first := r.call()
	r.wantSent(a, "1")
	busy := r.large("@b", false, 96)
	r.large("@c", true, 128)
	one := smallPeer
	one.calls = 1
	r.reload("B:1")
	b := r.connected(one)
	r.fill(b, 33<<10) // the first piece
	r.goaway(a, 0)
	r.wantSent(b, "2+ 2+") // the push would fit now, and the call before it may not leave
	r.reply(busy)
	r.wantSent(b, "1 3 3+ 3+ 3+")
	r.reply(first)
	r.want("ok", first, busy)
}
