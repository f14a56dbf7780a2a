package conformance_test

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// linkLarges are the cases of Link about large messages and the bounds.
var linkLarges = []testCase{
	{name: "backpressure", run: linkBackpressure},
	{name: "parts-up", run: linkPartsUp},
	{name: "parts-down", run: linkPartsDown},
	{name: "spoilt-parts", run: linkSpoiltParts},
	{name: "reply-too-large", run: linkReplyTooLarge},
	{name: "failure-in-parts", run: linkFailureInParts},
	{name: "limit-message", run: linkLimitMessage},
	{name: "limit-unfinished", run: linkLimitUnfinished},
	{name: "limit-calls", run: linkLimitCalls},
	{name: "limit-batch", run: linkLimitBatch},
}

func linkBackpressure(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	big := k.call(l, "@sdb", "BIG", fill(24<<20, 1))
	e := p.greeted()
	first := e.next()
	if first.GetRequest().GetTotalSize() != 24<<20 {
		k.Fatalf("got %s", short(first))
	}
	e.pause()
	time.Sleep(300 * time.Millisecond)
	small := k.call(l, "@other", "SMALL", text("x"))
	time.Sleep(300 * time.Millisecond)
	e.resume()
	e.join(first)
	w := e.whole()
	if w.method() != "SMALL" {
		k.Fatalf("the small call did not come before the large one's last part")
	}
	e.reply(w.session, w.payload)
	k.replies(small, []byte("x"))
	e.reply(e.whole().session, []byte("big"))
	k.replies(big, []byte("big"))
}

func linkPartsUp(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	calls := []*pending{k.call(l, "@a", "0", fill(1<<20, 3)), k.call(l, "@b", "1", fill(1<<20+5, 4))}
	want := [][]byte{pattern(1<<20, 3), pattern(1<<20+5, 4)}
	e := p.greeted()
	for range calls {
		w := e.whole()
		if string(w.payload) != string(want[w.method()[0]-'0']) {
			k.Errorf("call %s: %d bytes, or others", w.method(), len(w.payload))
		}
		e.reply(w.session, []byte(w.method()))
	}
	k.replies(calls[0], []byte("0"))
	k.replies(calls[1], []byte("1"))
}

func linkPartsDown(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	calls := map[string]*pending{}
	for _, m := range []string{"a", "b", "c"} {
		calls[m] = k.call(l, "@sdb", m)
	}
	e := p.greeted()
	session := map[string]uint64{}
	for range calls {
		w := e.whole()
		session[w.method()] = w.session
	}
	a, b := replyFrames(session["a"], pattern(100000, 1)), replyFrames(session["b"], pattern(70000, 2))
	e.say(a[0], b[0])
	e.say(a[1], heartbeat(false), b[1])
	e.say(b[2])
	e.say(reply(session["c"], "small"), a[2])
	e.say(a[3])
	k.replies(calls["a"], pattern(100000, 1))
	k.replies(calls["b"], pattern(70000, 2))
	k.replies(calls["c"], []byte("small"))
	many := make([]*pending, 500)
	for i := range many {
		many[i] = k.call(l, "@sdb", "many", text(fmt.Sprint(i)))
	}
	var frames []*meshv1.Frame
	for range many {
		w := e.whole()
		frames = append(frames, reply(w.session, string(w.payload)))
	}
	e.say(frames...)
	for i, c := range many {
		k.replies(c, []byte(fmt.Sprint(i)))
	}
}

func linkSpoiltParts(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	e := (*end)(nil)
	for name, spoilt := range map[string]func(n uint64) []*meshv1.Frame{
		"a part of 32769": func(n uint64) []*meshv1.Frame {
			return []*meshv1.Frame{largeReply(n, 1<<20, partBytes), part(n, make([]byte, partBytes+1))}
		},
		"a part short before the last": func(n uint64) []*meshv1.Frame {
			return []*meshv1.Frame{largeReply(n, 1<<20, partBytes), part(n, make([]byte, 100))}
		},
		"an empty part": func(n uint64) []*meshv1.Frame {
			return []*meshv1.Frame{largeReply(n, 1<<20, partBytes), part(n, nil)}
		},
		"more than the total": func(n uint64) []*meshv1.Frame {
			return []*meshv1.Frame{largeReply(n, partBytes+1, partBytes), part(n, make([]byte, 2))}
		},
		"a first frame of 32767": func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{largeReply(n, 1<<20, partBytes-1)} },
		"a total of 10":          func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{largeReply(n, 10, 10)} },
	} {
		c := k.call(l, "@sdb", "SPOIL")
		if e == nil {
			e = p.greeted()
		}
		n := e.whole().session
		e.say(spoilt(n)...)
		if f := k.fails(c, maybe, "INVALID_REQUEST", 3); f.Message == "" {
			k.Errorf("%s: no message", name)
		}
		e.say(part(n, make([]byte, 10)), failure(n, meshv1.Reason_REASON_CANCELLED, codes.Canceled, "cancelled"))
		goesOn(k, l, e)
	}
	if n := p.count(); n != 1 {
		k.Errorf("%d links, want 1", n)
	}
}

// goesOn says that the next call works, on this stream. Cancels may come before it.
func goesOn(k *kit, link string, e *end) {
	k.Helper()
	c := k.call(link, "@sdb", "NEXT", text("x"))
	for {
		f := e.next()
		if f.GetCancel() != nil {
			continue
		}
		w := e.join(f)
		if w == nil || w.method() != "NEXT" {
			k.Fatalf("got %s, want the next call", short(f))
		}
		e.reply(w.session, w.payload)
		k.replies(c, []byte("x"))
		return
	}
}

func linkReplyTooLarge(k *kit) {
	p := k.puppet()
	l := k.link(p.addr, fields{"max_message_bytes": 100000})
	e := (*end)(nil)
	for _, total := range []uint64{100001, 1 << 63} {
		c := k.call(l, "@sdb", "LARGE")
		if e == nil {
			e = p.greeted()
		}
		n := e.whole().session
		e.say(largeReply(n, total, partBytes))
		e.say(part(n, make([]byte, partBytes)))
		k.fails(c, ran, "REPLY_TOO_LARGE", 11)
		e.say(failure(n, meshv1.Reason_REASON_CANCELLED, codes.Canceled, "cancelled"))
		goesOn(k, l, e)
	}
	c := k.call(l, "@sdb", "JUST")
	e.reply(e.whole().session, pattern(100000, 5))
	k.replies(c, pattern(100000, 5))
	l = k.link(p.addr, fields{"max_message_bytes": 1000})
	c = k.call(l, "@sdb", "SMALL")
	e = p.greeted()
	e.reply(e.whole().session, make([]byte, 1001))
	k.fails(c, ran, "REPLY_TOO_LARGE", 11)
	goesOn(k, l, e)
}

func linkFailureInParts(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	c := k.call(l, "@sdb", "HALF")
	e := p.greeted()
	n := e.whole().session
	e.say(largeReply(n, 1<<20, partBytes), part(n, make([]byte, partBytes)))
	e.say(failure(n, meshv1.Reason_REASON_HANDLER, codes.Aborted, "broken off"))
	if f := k.fails(c, ran, "", 10); f.Message != "broken off" {
		k.Errorf("message %q", f.Message)
	}
	goesOn(k, l, e)
	c = k.call(l, "@sdb", "BIG", fill(32<<20, 1))
	n = e.next().GetSession()
	e.pause()
	e.say(failure(n, meshv1.Reason_REASON_OVERLOADED, codes.ResourceExhausted, "overloaded: no room"))
	k.fails(c, rejected, "OVERLOADED", 8)
	next := k.call(l, "@sdb", "NEXT", text("x"))
	e.resume()
	after := 0
	for last := false; !last; {
		f := e.next()
		after += len(f.GetPart().GetPayload())
		if last = f.GetRequest().GetMethod() == "NEXT"; last {
			e.reply(f.GetSession(), []byte("x"))
		}
	}
	k.replies(next, []byte("x"))
	for _, f := range e.rest(300 * time.Millisecond) {
		after += len(f.GetPart().GetPayload())
	}
	if after > 4<<20 {
		k.Errorf("%d bytes of parts came after the failure", after)
	}
}

func linkLimitMessage(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	first := k.call(l, "@sdb", "FIRST")
	e := p.greeted(func(h *meshv1.Hello) { h.MaxMessageBytes = 100000 })
	e.reply(e.whole().session, nil)
	k.ok(first)
	k.fails(k.call(l, "@sdb", "LARGE", fill(100001, 1)), notSent, "TOO_LARGE", 8)
	e.none(200 * time.Millisecond)
	c := k.call(l, "@sdb", "JUST", fill(100000, 1))
	w := e.whole()
	if string(w.payload) != string(pattern(100000, 1)) {
		k.Errorf("%d bytes, or others", len(w.payload))
	}
	e.reply(w.session, nil)
	k.ok(c)
}

func linkLimitUnfinished(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	var calls []*pending
	for i := range 5 {
		calls = append(calls, k.call(l, "@a", "LARGE", fill(100000, i)), k.call(l, "@b", "LARGE", fill(40000, i)))
	}
	p.echo(p.greeted(func(h *meshv1.Hello) { h.MaxUnfinishedBytes = 262144 }))
	for i := range 5 {
		k.replies(calls[2*i], pattern(100000, i))
		k.replies(calls[2*i+1], pattern(40000, i))
	}
}

func linkLimitCalls(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	calls := map[string]*pending{}
	call := func(from, to int) {
		for i := from; i < to; i++ {
			calls[fmt.Sprint(i)] = k.call(l, "@sdb", fmt.Sprint(i))
		}
	}
	call(0, 4)
	e := p.greeted(func(h *meshv1.Hello) { h.MaxCalls = 4 })
	var flying []*whole
	for range 4 {
		flying = append(flying, e.whole())
	}
	k.ok(k.push(l, "@sdb", "PUSH"))
	if w := e.whole(); w.method() != "PUSH" {
		k.Errorf("got %s, want the push", w.method())
	}
	call(4, 12)
	e.none(300 * time.Millisecond)
	cancelled := flying[0]
	k.cancel(calls[cancelled.method()])
	k.fails(calls[cancelled.method()], maybe, "CANCELLED", 1)
	if f := e.next(); f.GetCancel() == nil || f.GetSession() != cancelled.session {
		k.Errorf("got %s, want a cancel of %d", short(f), cancelled.session)
	}
	e.none(300 * time.Millisecond)
	e.say(failure(cancelled.session, meshv1.Reason_REASON_CANCELLED, codes.Canceled, "cancelled"))
	flying = append(flying[1:], e.whole())
	for inLine := 7; len(flying) > 0; inLine-- {
		w := flying[0]
		flying = flying[1:]
		e.reply(w.session, []byte(w.method()))
		k.replies(calls[w.method()], []byte(w.method()))
		if inLine > 0 {
			flying = append(flying, e.whole())
		}
	}
}

func linkLimitBatch(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	var calls []*pending
	for i := range 300 {
		calls = append(calls, k.call(l, "@sdb", "ECHO", fill(2000, i)))
	}
	large := k.call(l, "@sdb", "ECHO", fill(200000, 9))
	p.echo(p.greeted(func(h *meshv1.Hello) { h.MaxBatchBytes = 65536 }))
	for i, c := range calls {
		k.replies(c, pattern(2000, i))
	}
	k.replies(large, pattern(200000, 9))
}
