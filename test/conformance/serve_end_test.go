package conformance_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// serveEnds are the cases of Serve about bounds, mistakes and ends.
var serveEnds = []testCase{
	{name: "limit-calls", run: serveLimitCalls},
	{name: "limits", run: serveLimits},
	{name: "spoilt-parts", run: serveSpoiltParts},
	{name: "unknown", run: serveUnknown},
	{name: "session", run: serveSession},
	{name: "heartbeat", slow: true, run: serveHeartbeat},
	{name: "reconnect", run: serveReconnect},
	{name: "goaway", run: serveGoaway},
	{name: "real", run: serveReal},
}

func serveLimitCalls(k *kit) {
	_, s, e := k.serving(fields{"max_calls": 3})
	var events []event
	for n := range uint64(3) {
		e.ask(n+1, "WAIT", nil)
		events = append(events, k.event(s, "request"))
	}
	e.ask(4, "WAIT", nil)
	e.failure(4, meshv1.Reason_REASON_OVERLOADED, codes.ResourceExhausted)
	e.ask(5, "PUSH", nil, push)
	k.answer(k.event(s, "request"))
	k.answer(events[0], text("0"))
	e.answers(1, []byte("0"))
	e.ask(6, "WAIT", nil)
	k.answer(k.event(s, "request"), text("6"))
	e.answers(6, []byte("6"))
}

func serveLimits(k *kit) {
	p := k.puppet()
	s := k.serve(p.addr, fields{"max_message_bytes": 100000, "max_unfinished_bytes": 262144})
	r := k.register(s, "@model")
	e := p.greeted(func(h *meshv1.Hello) { h.MaxMessageBytes, h.MaxUnfinishedBytes = 50000, 131072 })
	e.registers()
	k.ok(r)
	e.ask(1, "LARGE", pattern(100001, 1))
	e.failure(1, meshv1.Reason_REASON_TOO_LARGE, codes.ResourceExhausted)
	a, b, c := requestFrames(2, "@model", "A", pattern(100000, 2)), requestFrames(3, "@model", "B", pattern(100000, 3)), requestFrames(4, "@model", "C", pattern(100000, 4))
	e.say(a[0], b[0], c[0])
	e.failure(4, meshv1.Reason_REASON_OVERLOADED, codes.ResourceExhausted)
	e.say(slices.Concat(a[1:], b[1:])...)
	events := []event{k.event(s, "request"), k.event(s, "request")}
	if events[0].Method == "B" { // handlers run at once
		slices.Reverse(events)
	}
	k.answer(events[0], fill(50001, 1))
	e.failure(2, meshv1.Reason_REASON_REPLY_TOO_LARGE, codes.OutOfRange)
	k.answer(events[1], fill(50000, 1))
	e.answers(3, pattern(50000, 1))
	events = nil
	for n := range uint64(6) {
		e.ask(5+n, "MANY", nil)
		events = append(events, k.event(s, "request"))
	}
	for _, v := range events {
		k.answer(v, fill(40000, 1))
	}
	for range events {
		if w := e.whole(); string(w.payload) != string(pattern(40000, 1)) {
			k.Errorf("session %d: %d bytes, or others", w.session, len(w.payload))
		}
	}
}

func serveSpoiltParts(k *kit) {
	_, s, e := k.serving()
	first := func(n, total uint64, size int) *meshv1.Frame {
		return request(n, "@model", "SPOILT", make([]byte, size), func(q *meshv1.Request) { q.TotalSize = total })
	}
	for i, spoilt := range []func(n uint64) []*meshv1.Frame{
		func(n uint64) []*meshv1.Frame {
			return []*meshv1.Frame{first(n, 1<<20, partBytes), part(n, make([]byte, partBytes+1))}
		},
		func(n uint64) []*meshv1.Frame {
			return []*meshv1.Frame{first(n, 1<<20, partBytes), part(n, make([]byte, 100))}
		},
		func(n uint64) []*meshv1.Frame {
			return []*meshv1.Frame{first(n, 1<<20, partBytes), part(n, nil)}
		},
		func(n uint64) []*meshv1.Frame {
			return []*meshv1.Frame{first(n, partBytes+1, partBytes), part(n, make([]byte, 2))}
		},
		func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{first(n, 1<<20, partBytes-1)} },
		func(n uint64) []*meshv1.Frame { return []*meshv1.Frame{first(n, 10, 10)} },
	} {
		n := uint64(2*i + 1)
		e.say(spoilt(n)...)
		e.failure(n, meshv1.Reason_REASON_INVALID_REQUEST, codes.InvalidArgument)
		e.say(part(n, make([]byte, 10)))
		e.ask(n+1, "NEXT", nil)
		k.answer(k.event(s, "request"), text("x"))
		e.answers(n+1, []byte("x"))
	}
}

func serveUnknown(k *kit) {
	_, s, e := k.serving()
	e.say()
	e.say(&meshv1.Frame{Session: 1})
	e.failure(1, meshv1.Reason_REASON_INVALID_REQUEST, codes.InvalidArgument)
	e.say(unknownBody(2))
	e.failure(2, meshv1.Reason_REASON_INVALID_REQUEST, codes.InvalidArgument)
	e.say(part(77, []byte("of nobody")), cancel(78), unknownBody(0), &meshv1.Frame{})
	strange := request(3, "@model", "ECHO", []byte("x"))
	unknownField(strange.GetRequest())
	e.say(strange)
	v := k.event(s, "request")
	if err := v.holds([]byte("x")); err != nil {
		k.Error(err)
	}
	k.answer(v, text("x"))
	e.answers(3, []byte("x"))
}

func serveSession(k *kit) {
	p, s, e := k.serving()
	e.ask(5, "ECHO", nil)
	k.answer(k.event(s, "request"), text("x"))
	e.answers(5, []byte("x"))
	e.say(request(5, "@model", "AGAIN", nil))
	e.ends(5 * time.Second)
	e = p.greeted()
	e.registers()
	e.ask(1, "ECHO", nil)
	if v := k.event(s, "request"); v.Method != "ECHO" {
		k.Errorf("the request with a session that is not above the last ran: %s", v.Method)
	} else {
		k.answer(v, text("y"))
	}
	e.answers(1, []byte("y"))
}

func serveHeartbeat(k *kit) {
	p := k.puppet()
	s := k.serve(p.addr, fields{"heartbeat_interval_ms": 300})
	r := k.register(s, "@model")
	e := p.greeted(func(h *meshv1.Hello) { h.HeartbeatIntervalMs = 500 })
	e.registers()
	k.ok(r)
	e.ask(1, "WAIT", nil)
	v := k.event(s, "request")
	before := e.heartbeats()
	time.Sleep(3 * time.Second)
	if n := e.heartbeats() - before; n < 7 || n > 30 {
		k.Errorf("%d heartbeats in 3 s, want 10", n)
	}
	time.Sleep(5 * time.Second)
	if p.count() != 1 {
		k.Errorf("%d streams, want 1", p.count())
	}
	e.silent()
	began := time.Now()
	if c := k.event(s, "cancelled"); c.Request != v.Request {
		k.Errorf("request %d was cancelled, want %d", c.Request, v.Request)
	}
	k.within("the silence", began, 4800*time.Millisecond, 9*time.Second)
	e.ends(3 * time.Second)
	p.greeted().registers()
}

func serveReconnect(k *kit) {
	p, s, e := k.serving()
	r := k.register(s, ".local", fields{"shared": true})
	e.registers()
	k.ok(r)
	e.ask(1, "WAIT", nil)
	v := k.event(s, "request")
	p.refuses(refused(codes.Unavailable, "not now"))
	before := p.count()
	e.end(refused(codes.Unavailable, "the puppet breaks"))
	if c := k.event(s, "cancelled"); c.Request != v.Request {
		k.Errorf("request %d was cancelled, want %d", c.Request, v.Request)
	}
	k.eventually("two dials are refused", func() bool { return p.count() >= before+2 })
	times := p.times()[before:]
	if gap := times[1].Sub(times[0]); gap < 40*time.Millisecond || gap > 2*time.Second {
		k.Errorf("%s between two dials", gap)
	}
	p.refuses(nil)
	e = p.greeted()
	names := []string{e.registers().GetName(), e.registers().GetName()}
	slices.Sort(names)
	if !slices.Equal(names, []string{".local", "@model"}) {
		k.Errorf("registered again: %v", names)
	}
	e.ask(1, "ECHO", nil)
	k.answer(k.event(s, "request"), text("x"))
	e.answers(1, []byte("x"))
}

func serveGoaway(k *kit) {
	_, s, e := k.serving()
	e.ask(1, "1", nil)
	e.ask(2, "2", nil)
	events := []event{k.event(s, "request"), k.event(s, "request")} // in any order: handlers run at once
	closed := k.stopServe(s, 10000)
	f := e.next()
	if f.GetGoaway() == nil || f.GetGoaway().GetLastSession() != 2 {
		k.Fatalf("got %s, want a goaway with session 2", short(f))
	}
	e.ask(3, "LATE", nil)
	e.ask(4, "LATE", nil, push)
	k.noEvent(s, 300*time.Millisecond)
	for _, v := range events {
		if e.halfClosed() || closed.answered() {
			k.Fatal("it ended before the last answer")
		}
		k.answer(v, text(v.Method))
		e.answers(uint64(v.Method[0]-'0'), []byte(v.Method))
	}
	e.ends(5 * time.Second)
	if !e.halfClosed() {
		k.Errorf("want a half-close: %s", e.state())
	}
	e.end(nil)
	k.ok(closed)
}

// serveReal has programs behind a real node, and calls them through it.
func serveReal(k *kit) {
	n := k.node(func(o *mesh.Options) { o.AllowServe = true })
	other, err := startDriver(k.command)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() {
		if !other.ended() {
			_ = other.stop()
		}
	})
	doomed := &kit{T: k.T, d: other, serial: k.serial, over: k.over}
	s, s2 := k.serve(n.addr), k.name("serve")
	doomed.ok(other.send(fields{"op": "serve", "serve": s2, "address": n.addr}))
	k.ok(k.register(s, "@model", fields{"shared": true}))
	doomed.ok(doomed.register(s2, "@model", fields{"shared": true}))

	caller, err := mesh.New(mesh.Options{Name: "caller"})
	if err != nil {
		k.Fatal(err)
	}
	defer caller.Close(context.Background())
	if err := caller.Reload(mesh.Table{"ml": n.addr}); err != nil {
		k.Fatal(err)
	}
	calls := make(chan error, 20)
	for i := range cap(calls) {
		go func() {
			got, err := caller.Call(k.Context(), "ml@model", "ECHO", pattern(100000, i))
			if err == nil && string(got) != "done" {
				err = fmt.Errorf("%d bytes came back", len(got))
			}
			calls <- err
		}()
	}
	// They are spread: each program has half. One dies with its calls.
	var mine []event
	for range cap(calls) / 2 {
		mine = append(mine, k.event(s, "request"))
		doomed.event(s2, "request")
	}
	other.kill()
	<-other.gone
	for _, v := range mine {
		k.answer(v, text("done"))
	}
	good, lost := 0, 0
	for range cap(calls) {
		switch err := <-calls; {
		case err == nil:
			good++
		case mesh.VerdictOf(err) == mesh.MaybeExecuted:
			lost++
		default:
			k.Errorf("%v (%s)", err, mesh.VerdictOf(err))
		}
	}
	if good != cap(calls)/2 || lost != cap(calls)/2 {
		k.Errorf("%d calls were answered and %d maybe executed, want %d of each", good, lost, cap(calls)/2)
	}
	k.servesOn(caller, s)
}

// servesOn looks at a cancel, a push, an error and a large call through the node.
func (k *kit) servesOn(caller *mesh.Mesh, s string) {
	k.Helper()
	ctx, cancel := context.WithCancel(k.Context())
	failed := make(chan error, 1)
	go func() { _, err := caller.Call(ctx, "ml@model", "WAIT", nil); failed <- err }()
	k.event(s, "request")
	cancel()
	k.event(s, "cancelled")
	if err := <-failed; status.Code(err) != codes.Canceled {
		k.Errorf("cancelled: %v", err)
	}
	if err := caller.Send(k.Context(), "ml@model", "PUSH", []byte("one way")); err != nil {
		k.Error(err)
	}
	v := k.event(s, "request")
	if !v.Push || v.String() != "one way" {
		k.Errorf("push: %+v", v)
	}
	k.answer(v)
	go func() { _, err := caller.Call(k.Context(), "ml@model", "FAIL", nil); failed <- err }()
	k.answer(k.event(s, "request"), fields{"error": fields{"code": 5, "message": "no such key"}})
	if err := <-failed; status.Code(err) != codes.NotFound || mesh.VerdictOf(err) != mesh.HandlerFailed {
		k.Errorf("failed: %v (%s)", err, mesh.VerdictOf(err))
	}
	got := make(chan []byte, 1)
	go func() { b, _ := caller.Call(k.Context(), "ml@model", "LARGE", pattern(1<<20, 1)); got <- b }()
	v = k.event(s, "request")
	if err := v.holds(pattern(1<<20, 1)); err != nil {
		k.Error(err)
	}
	k.answer(v, fill(1<<20, 2))
	if b := <-got; string(b) != string(pattern(1<<20, 2)) {
		k.Errorf("%d bytes came back, or others", len(b))
	}
}
