package conformance_test

import (
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// linkHellos are the cases of Link about how a link begins.
var linkHellos = []testCase{
	{name: "hello", run: linkHello},
	{name: "hello-late-features", run: linkHelloLateFeatures},
	{name: "hello-refused", run: linkHelloRefused},
	{name: "hello-wrong", run: linkHelloWrong},
	{name: "hello-never", run: linkHelloNever},
	{name: "nobody", run: linkNobody},
	{name: "backoff", slow: true, run: linkBackoff},
	{name: "wait-up", slow: true, run: linkWaitUp},
	{name: "one-link", run: linkOneLink},
}

func linkHello(k *kit) {
	p := k.puppet()
	l := k.link(p.addr, fields{"process": "driver-1.x", "heartbeat_interval_ms": 700, "max_batch_bytes": 131072, "max_message_bytes": 1234567, "max_unfinished_bytes": 2345678})
	c := k.call(l, "@sdb", "ECHO", text("x"))
	e := p.accept()
	h := e.takeHello()
	if h.GetProcess() != "driver-1.x" || h.GetNode() != "db" || h.GetHeartbeatIntervalMs() != 700 || h.GetMaxBatchBytes() != 131072 || h.GetMaxMessageBytes() != 1234567 || h.GetMaxUnfinishedBytes() != 2345678 {
		k.Errorf("hello: %v", h)
	}
	e.none(500 * time.Millisecond)
	e.sayHello()
	e.reply(e.whole().session, []byte("y"))
	k.replies(c, []byte("y"))
	e.breaks(refused(codes.Unavailable, "once more"))
	c = k.call(l, "@sdb", "ECHO", waitUp)
	again := p.greeted()
	if again.hello.GetIncarnation() != h.GetIncarnation() {
		k.Errorf("incarnation %d, and %d before", again.hello.GetIncarnation(), h.GetIncarnation())
	}
	again.reply(again.whole().session, nil)
	k.ok(c)
}

func linkHelloLateFeatures(k *kit) {
	p := k.puppet()
	c := k.call(k.link(p.addr), "@sdb", "ECHO")
	e := p.greeted(func(h *meshv1.Hello) {
		h.Features = []string{"later", "latest"}
		unknownField(h)
	})
	e.reply(e.whole().session, []byte("y"))
	k.replies(c, []byte("y"))
}

func linkHelloRefused(k *kit) {
	p := k.puppet()
	c := k.call(k.link(p.addr), "@sdb", "ECHO")
	e := p.accept()
	e.takeHello()
	e.end(refused(codes.PermissionDenied, "not you, use another name"))
	f := k.fails(c, notSent, "CONNECT_FAILED", 14)
	if !strings.Contains(f.Message, "not you, use another name") {
		k.Errorf("the listener's sentence is lost: %q", f.Message)
	}
}

func linkHelloWrong(k *kit) {
	for name, answer := range map[string]func(e *end){
		"a reply":       func(e *end) { e.say(reply(1, "early")) },
		"version 2":     func(e *end) { e.sayHello(func(h *meshv1.Hello) { h.Version = 2 }) },
		"incarnation 0": func(e *end) { e.sayHello(func(h *meshv1.Hello) { h.Incarnation = 0 }) },
		"an end":        func(e *end) { e.end(nil) },
	} {
		p := k.puppet()
		c := k.call(k.link(p.addr), "@sdb", "ECHO")
		e := p.accept()
		e.takeHello()
		answer(e)
		if f := k.fails(c, notSent, "CONNECT_FAILED", 14); f.Message == "" {
			k.Errorf("%s: no message", name)
		}
		e.ends(5 * time.Second)
	}
}

func linkHelloNever(k *kit) {
	p := k.puppet()
	began := time.Now()
	c := k.call(k.link(p.addr, fields{"connect_timeout_ms": 700}), "@sdb", "ECHO")
	e := p.accept()
	e.takeHello()
	k.fails(c, notSent, "CONNECT_FAILED", 14)
	k.within("the dial", began, 500*time.Millisecond, 2500*time.Millisecond)
	e.ends(5 * time.Second)
}

func linkNobody(k *kit) {
	began := time.Now()
	k.fails(k.call(k.link(k.freeAddr()), "@sdb", "ECHO"), notSent, "CONNECT_FAILED", 14)
	k.within("the call", began, 0, 5*time.Second)
}

func linkBackoff(k *kit) {
	p := k.puppet()
	p.refuses(refused(codes.Unavailable, "not now"))
	l := k.link(p.addr)
	k.fails(k.call(l, "@sdb", "ECHO", waitUp, timeout(6000)), notSent, "DEADLINE_EXCEEDED", 4)
	times := p.times()
	if n := len(times); n < 4 || n > 30 {
		k.Errorf("%d dials in 6 s, want 4 to 30", n)
	}
	for i := range len(times) - 1 {
		if gap := times[i+1].Sub(times[i]); gap < 40*time.Millisecond || gap > 4500*time.Millisecond {
			k.Errorf("%s between two dials, want 100 ms to 3 s with jitter", gap)
		}
	}
	p.refuses(nil)
	c := k.call(l, "@sdb", "ECHO", waitUp, timeout(10000))
	began := time.Now()
	e := p.greeted()
	e.reply(e.whole().session, nil)
	k.ok(c)
	k.within("the node that came back", began, 0, 4500*time.Millisecond)
	// The backoff begins anew after a link that lived for longer than 3 s.
	time.Sleep(3200 * time.Millisecond)
	p.refuses(refused(codes.Unavailable, "once more"))
	e.breaks(refused(codes.Unavailable, "leaving"))
	before := p.count()
	c = k.call(l, "@sdb", "ECHO", waitUp, timeout(10000))
	k.eventually("a dial is refused", func() bool { return p.count() > before })
	p.refuses(nil)
	began = time.Now()
	e = p.greeted()
	e.reply(e.whole().session, nil)
	k.ok(c)
	k.within("the dial after the first pause", began, 0, 1500*time.Millisecond)
}

func linkWaitUp(k *kit) {
	addr := k.freeAddr()
	l := k.link(addr)
	c := k.call(l, "@sdb", "ECHO", waitUp, timeout(10000))
	time.Sleep(time.Second)
	if c.answered() {
		k.Fatalf("the call did not wait: %s", c.got.Error)
	}
	p := k.puppetAt(addr)
	e := p.greeted()
	e.reply(e.whole().session, []byte("up"))
	k.replies(c, []byte("up"))
	e.none(300 * time.Millisecond)
	began := time.Now()
	k.fails(k.call(k.link(k.freeAddr()), "@sdb", "ECHO", waitUp, timeout(500)), notSent, "DEADLINE_EXCEEDED", 4)
	k.within("a call of 500 ms", began, 450*time.Millisecond, 2*time.Second)
}

func linkOneLink(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	calls := make([]*pending, 50)
	for i := range calls {
		calls[i] = k.call(l, "@sdb", "ECHO", fill(10, i))
	}
	p.echo(p.greeted())
	for i, c := range calls {
		k.replies(c, pattern(10, i))
	}
	if n := p.count(); n != 1 {
		k.Errorf("%d links for 50 calls, want 1", n)
	}
}
