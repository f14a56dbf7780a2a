package conformance_test

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// linkLines are the cases of Link about deadlines, cancels and life signs.
var linkLines = []testCase{
	{name: "deadline-in-line", run: linkDeadlineInLine},
	{name: "cancel-in-line", run: linkCancelInLine},
	{name: "cancel-frame", run: linkCancelFrame},
	{name: "time-left", run: linkTimeLeft},
	{name: "heartbeat", slow: true, run: linkHeartbeat},
	{name: "silence", slow: true, run: linkSilence},
	{name: "reading-stopped", slow: true, run: linkReadingStopped},
}

func oneCall(h *meshv1.Hello) { h.MaxCalls = 1 }

func linkDeadlineInLine(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	first := k.call(l, "@sdb", "FIRST")
	e := p.greeted(oneCall)
	w := e.whole()
	second := k.call(l, "@sdb", "SECOND", timeout(600))
	third := k.call(l, "@sdb", "THIRD", timeout(5000))
	k.fails(second, notSent, "DEADLINE_EXCEEDED", 4)
	e.reply(w.session, nil)
	k.ok(first)
	w = e.whole()
	if left := time.Duration(w.request().GetTimeLeftUs()) * time.Microsecond; w.method() != "THIRD" || left > 4500*time.Millisecond || left < time.Second {
		k.Errorf("got %s with %s left, want THIRD with at most 4.5 s", w.method(), left)
	}
	e.reply(w.session, nil)
	k.ok(third)
	e.none(200 * time.Millisecond)
}

func linkCancelInLine(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	first := k.call(l, "@sdb", "FIRST")
	e := p.greeted(oneCall)
	w := e.whole()
	second := k.call(l, "@sdb", "SECOND")
	time.Sleep(200 * time.Millisecond)
	k.cancel(second)
	k.fails(second, notSent, "CANCELLED", 1)
	third := k.call(l, "@sdb", "THIRD")
	e.reply(w.session, nil)
	k.ok(first)
	w = e.whole()
	if w.method() != "THIRD" {
		k.Errorf("got %s, want THIRD", w.method())
	}
	e.reply(w.session, nil)
	k.ok(third)
}

func linkCancelFrame(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	cancelled := k.call(l, "@sdb", "CANCELLED")
	e := p.greeted()
	n := e.whole().session
	k.cancel(cancelled)
	k.fails(cancelled, maybe, "CANCELLED", 1)
	if f := e.next(); f.GetCancel() == nil || f.GetSession() != n {
		k.Errorf("got %s, want a cancel of %d", short(f), n)
	}
	e.reply(n, []byte("late"))
	late := k.call(l, "@sdb", "LATE", timeout(300))
	n = e.whole().session
	k.fails(late, maybe, "DEADLINE_EXCEEDED", 4)
	if f := e.next(); f.GetCancel() == nil || f.GetSession() != n {
		k.Errorf("got %s, want a cancel of %d", short(f), n)
	}
	e.say(failure(n, meshv1.Reason_REASON_CANCELLED, codes.Canceled, "cancelled"))
	large := k.call(l, "@sdb", "LARGE", fill(32<<20, 1))
	first := e.next()
	e.pause()
	time.Sleep(200 * time.Millisecond)
	k.cancel(large)
	k.fails(large, maybe, "CANCELLED", 1)
	e.resume()
	for f := e.next(); f.GetCancel() == nil; f = e.next() {
		if f.GetPart() == nil || f.GetSession() != first.GetSession() {
			k.Fatalf("got %s, want parts and then a cancel", short(f))
		}
	}
	e.say(failure(first.GetSession(), meshv1.Reason_REASON_CANCELLED, codes.Canceled, "cancelled"))
	e.none(300 * time.Millisecond)
	goesOn(k, l, e)
}

func linkTimeLeft(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	first := k.call(l, "@sdb", "FIRST")
	e := p.greeted()
	w := e.whole()
	if left := w.request().GetTimeLeftUs(); left != 0 {
		k.Errorf("%d us left without a deadline", left)
	}
	e.reply(w.session, nil)
	k.ok(first)
	second := k.call(l, "@sdb", "SECOND", timeout(2000))
	w = e.whole()
	if left := w.request().GetTimeLeftUs(); left > 2000000 || left < 1000000 {
		k.Errorf("%d us left of 2 s", left)
	}
	e.reply(w.session, nil)
	k.ok(second)
}

func linkHeartbeat(k *kit) {
	p := k.puppet()
	l := k.link(p.addr, fields{"heartbeat_interval_ms": 300})
	c := k.call(l, "@sdb", "LONG")
	e := p.greeted()
	w := e.whole()
	before := e.heartbeats()
	time.Sleep(3 * time.Second)
	if n := e.heartbeats() - before; n < 7 || n > 30 {
		k.Errorf("%d heartbeats in 3 s, want 10", n)
	}
	time.Sleep(5 * time.Second)
	if c.answered() {
		k.Fatalf("the call ended: %s", c.got.Error)
	}
	e.reply(w.session, []byte("x"))
	k.replies(c, []byte("x"))
	if n := p.count(); n != 1 {
		k.Errorf("%d links, want 1", n)
	}
}

func linkSilence(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	c := k.call(l, "@sdb", "LOST")
	e := p.greeted(func(h *meshv1.Hello) { h.HeartbeatIntervalMs = 500 })
	e.whole()
	e.silent()
	began := time.Now()
	k.fails(c, maybe, "LINK_BROKEN", 10)
	k.within("the silence", began, 4800*time.Millisecond, 9*time.Second)
	e.ends(3 * time.Second)
	c = k.call(l, "@sdb", "NEXT", waitUp)
	e = p.greeted()
	e.reply(e.whole().session, []byte("x"))
	k.replies(c, []byte("x"))
}

func linkReadingStopped(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	c := k.call(l, "@sdb", "LARGE", fill(24<<20, 1))
	e := p.greeted()
	e.join(e.next())
	e.stopReading()
	time.Sleep(8 * time.Second)
	if c.answered() {
		k.Fatalf("the call ended: %s", c.got.Error)
	}
	e.readAgain()
	w := e.whole()
	e.reply(w.session, []byte("x"))
	k.replies(c, []byte("x"))
	if n := p.count(); n != 1 {
		k.Errorf("%d links, want 1", n)
	}
}

// linkEnds are the cases of Link about its end.
var linkEnds = []testCase{
	{name: "break", run: linkBreak},
	{name: "break-large", run: linkBreakLarge},
	{name: "garbage", run: linkGarbage},
	{name: "goaway", run: linkGoaway},
	{name: "goaway-parts", run: linkGoawayParts},
	{name: "goaway-cancel", run: linkGoawayCancel},
	{name: "leaving", run: linkLeaving},
	{name: "draining", run: linkDraining},
	{name: "half-close", run: linkHalfClose},
}

func linkBreak(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	calls := make([]*pending, 20)
	for i := range calls {
		calls[i] = k.call(l, "@sdb", "ECHO", fill(100, i))
	}
	e := p.greeted(func(h *meshv1.Hello) { h.MaxCalls = 15 })
	sent := map[string]bool{}
	for range 15 {
		sent[string(e.whole().payload)] = true
	}
	e.end(refused(codes.Unavailable, "the puppet breaks"))
	p.echo()
	for i, c := range calls {
		if sent[string(pattern(100, i))] {
			k.fails(c, maybe, "LINK_BROKEN", 10)
		} else {
			k.replies(c, pattern(100, i))
		}
	}
	k.replies(k.call(l, "@sdb", "ECHO", text("x")), []byte("x"))
}

func linkBreakLarge(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	c := k.call(l, "@sdb", "LARGE")
	e := p.greeted()
	n := e.whole().session
	e.say(largeReply(n, 1<<20, partBytes), part(n, make([]byte, partBytes)))
	time.Sleep(100 * time.Millisecond)
	e.end(refused(codes.Unavailable, "the puppet breaks"))
	k.fails(c, maybe, "LINK_BROKEN", 10)
	c = k.call(l, "@sdb", "NEXT", waitUp)
	e = p.greeted()
	w := e.whole()
	e.reply(w.session, pattern(100000, 1))
	k.replies(c, pattern(100000, 1))
}

func linkGarbage(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	c := k.call(l, "@sdb", "LOST")
	e := p.greeted()
	e.whole()
	e.sayRaw([]byte("\x0a\xff\xff\xff\xff this is no protobuf"))
	k.fails(c, maybe, "LINK_BROKEN", 10)
	e.ends(5 * time.Second)
	c = k.call(l, "@sdb", "NEXT", waitUp)
	e = p.greeted()
	e.reply(e.whole().session, []byte("x"))
	k.replies(c, []byte("x"))
}

// made makes calls and pushes one after another and waits until each has come.
func made(k *kit, l string, e func() *end, methods ...string) (calls map[string]*pending, sessions map[string]uint64) {
	k.Helper()
	calls, sessions = map[string]*pending{}, map[string]uint64{}
	for _, m := range methods {
		if strings.HasPrefix(m, "push") {
			calls[m] = k.push(l, "@sdb", m)
		} else {
			calls[m] = k.call(l, "@sdb", m)
		}
		sessions[m] = e().whole().session
	}
	return calls, sessions
}

// greetedOnce takes the next stream when it is first asked.
func (p *puppet) greetedOnce(set ...func(*meshv1.Hello)) func() *end {
	var e *end
	return func() *end {
		if e == nil {
			e = p.greeted(set...)
		}
		return e
	}
}

func linkGoaway(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	old := p.greetedOnce()
	calls, sessions := made(k, l, old, "1", "2", "3", "push4", "5", "6", "push7", "8")
	old().say(goaway(sessions["3"]))
	fresh := p.greetedOnce()
	var again []string
	for _, m := range []string{"5", "6", "8"} {
		k.eventually(m+" comes again or is not sent", func() bool { return calls[m].answered() || len(p.streams) > 0 || p.count() > 1 })
		if calls[m].answered() {
			k.fails(calls[m], notSent, "GOAWAY", 14)
			continue
		}
		w := fresh().whole()
		again = append(again, w.method())
		fresh().reply(w.session, []byte(w.method()))
	}
	for _, m := range again {
		k.replies(calls[m], []byte(m))
	}
	if !slices.IsSorted(again) {
		k.Errorf("they came again as %v", again)
	}
	for _, m := range []string{"2", "1", "3"} {
		if calls[m].answered() {
			k.Fatalf("call %s was taken and has ended: %v %s", m, calls[m].got.OK, calls[m].got.Error)
		}
		old().reply(sessions[m], []byte("old "+m))
		k.replies(calls[m], []byte("old "+m))
	}
	old().end(nil)
	old().ends(5 * time.Second)
	c := k.call(l, "@sdb", "new")
	w := fresh().whole()
	if w.method() != "new" {
		k.Errorf("got %s on the new link, want the new call", w.method())
	}
	fresh().reply(w.session, nil)
	k.ok(c)
	fresh().none(200 * time.Millisecond)
}

func linkGoawayParts(k *kit) {
	p := k.puppet()
	l := k.link(p.addr, fields{"heartbeat_interval_ms": 300})
	c := k.call(l, "@sdb", "LARGE", fill(8<<20, 1))
	e := p.greeted()
	first := e.next()
	e.pause()
	e.say(goaway(first.GetSession()))
	time.Sleep(300 * time.Millisecond)
	e.resume()
	e.join(first)
	w := e.whole()
	if string(w.payload) != string(pattern(8<<20, 1)) {
		k.Errorf("%d bytes, or others", len(w.payload))
	}
	before := e.heartbeats()
	time.Sleep(1500 * time.Millisecond)
	if e.heartbeats() == before {
		k.Error("no heartbeats after a goaway")
	}
	e.reply(w.session, []byte("x"))
	k.replies(c, []byte("x"))
	e.end(nil)
}

func linkGoawayCancel(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	c := k.call(l, "@sdb", "WAIT")
	e := p.greeted()
	n := e.whole().session
	e.say(goaway(n))
	time.Sleep(200 * time.Millisecond)
	k.cancel(c)
	k.fails(c, maybe, "CANCELLED", 1)
	if f := e.next(); f.GetCancel() == nil || f.GetSession() != n {
		k.Errorf("got %s, want a cancel of %d", short(f), n)
	}
	e.say(failure(n, meshv1.Reason_REASON_CANCELLED, codes.Canceled, "cancelled"))
	e.end(nil)
}

func linkLeaving(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	first := k.call(l, "@sdb", "FIRST")
	e := p.greeted()
	e.reply(e.whole().session, nil)
	k.ok(first)
	p.refuses(refused(codes.Unavailable, "leaving"))
	e.say(goaway(1))
	e.end(nil)
	time.Sleep(100 * time.Millisecond)
	calls := make([]*pending, 10)
	for i := range calls {
		calls[i] = k.call(l, "@sdb", "ECHO", fill(10, i))
	}
	time.Sleep(time.Second)
	for _, c := range calls {
		if c.answered() {
			k.Fatalf("a call to a node that is leaving: %s", c.got.Error)
		}
	}
	p.refuses(nil)
	p.echo()
	for i, c := range calls {
		k.replies(c, pattern(10, i))
	}
}

func linkDraining(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	c := k.call(l, "@sdb", "FIRST")
	e := p.greeted()
	e.say(failure(e.whole().session, meshv1.Reason_REASON_DRAINING, codes.Unavailable, "draining"))
	k.fails(c, rejected, "DRAINING", 14)
	c = k.call(l, "@sdb", "SECOND")
	n := e.whole().session
	e.say(goaway(n))
	e.say(failure(n, meshv1.Reason_REASON_DRAINING, codes.Unavailable, "draining"))
	e.end(nil)
	fresh := p.greeted()
	w := fresh.whole()
	fresh.reply(w.session, []byte("x"))
	k.replies(c, []byte("x"))
}

func linkHalfClose(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	e := p.greetedOnce()
	calls, sessions := made(k, l, e, "1", "2")
	closed := k.close(l)
	e().reply(sessions["2"], nil)
	k.ok(calls["2"])
	e().none(300 * time.Millisecond)
	if e().halfClosed() {
		k.Error("half-closed before the last answer")
	}
	e().reply(sessions["1"], nil)
	k.ok(calls["1"])
	e().ends(5 * time.Second)
	if !e().halfClosed() {
		k.Errorf("want a half-close: %s", e().state())
	}
	time.Sleep(200 * time.Millisecond)
	if closed.answered() {
		k.Error("close is over before the stream has ended")
	}
	e().end(nil)
	k.ok(closed)
}
