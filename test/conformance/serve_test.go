package conformance_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// serves are the cases of Serve with a puppet, but for its end.
var serves = []testCase{
	{name: "hello", run: serveHello},
	{name: "register", run: serveRegister},
	{name: "unregister", run: serveUnregister},
	{name: "sizes", run: serveSizes},
	{name: "concurrent", run: serveConcurrent},
	{name: "error", run: serveError},
	{name: "panic", run: servePanic},
	{name: "headers", run: serveHeaders},
	{name: "push", run: servePush},
	{name: "deadline", run: serveDeadline},
	{name: "cancel", run: serveCancel},
	{name: "unknown-name", run: serveUnknownName},
}

// serve makes a program that serves at addr, which is closed when the case ends.
func (k *kit) serve(addr string, options ...fields) string {
	k.Helper()
	name := k.name("serve")
	k.ok(k.d.send(fields{"op": "serve", "serve": name, "address": addr}.with(options...)))
	k.Cleanup(func() { k.settle(k.stopServe(name, 1000)) })
	return name
}

func (k *kit) stopServe(serve string, ms int) *pending {
	return k.d.send(fields{"op": "close", "serve": serve, "timeout_ms": ms})
}

func (k *kit) register(serve, name string, more ...fields) *pending {
	return k.d.send(fields{"op": "register", "serve": serve, "name": name}.with(more...))
}

// event is the driver's next one of this serve, which has to be of this kind.
func (k *kit) event(serve, kind string) event {
	k.Helper()
	k.d.mu.Lock()
	events := k.d.eventsOf(serve)
	k.d.mu.Unlock()
	select {
	case e := <-events:
		if e.Event != kind {
			k.Fatalf("got the event %s of request %d (%s), want %s", e.Event, e.Request, e.Method, kind)
		}
		return e
	case <-time.After(patience):
		k.Fatalf("no event %s within %s", kind, patience)
		return event{}
	}
}

// noEvent says that none comes for d.
func (k *kit) noEvent(serve string, d time.Duration) {
	k.Helper()
	k.d.mu.Lock()
	events := k.d.eventsOf(serve)
	k.d.mu.Unlock()
	select {
	case e := <-events:
		k.Fatalf("an event that should not come: %s %s", e.Event, e.Method)
	case <-time.After(d):
	}
}

func (k *kit) answer(e event, more ...fields) {
	k.Helper()
	k.ok(k.d.send(fields{"op": "answer", "request": e.Request}.with(more...)))
}

func registered(session, handle uint64) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Registered{Registered: &meshv1.Registered{Handle: handle}}}
}

// registers takes the next frame, a register, and answers it.
func (e *end) registers() *meshv1.Register {
	e.k.Helper()
	f := e.next()
	if f.GetRegister() == nil {
		e.k.Fatalf("got %s, want a register", short(f))
	}
	e.say(registered(f.GetSession(), 0x700000000+f.GetSession()))
	return f.GetRegister()
}

// serving makes a program that has registered @model at a puppet.
func (k *kit) serving(options ...fields) (*puppet, string, *end) {
	k.Helper()
	p := k.puppet()
	s := k.serve(p.addr, options...)
	r := k.register(s, "@model")
	e := p.greeted()
	e.registers()
	k.ok(r)
	return p, s, e
}

// ask sends a request of any size, in as many messages as frames.
func (e *end) ask(session uint64, method string, payload []byte, set ...func(*meshv1.Request)) {
	for _, f := range requestFrames(session, "@model", method, payload, set...) {
		e.say(f)
	}
}

// failure is the next frame, a failure of this session.
func (e *end) failure(session uint64, reason meshv1.Reason, code codes.Code) *meshv1.Failure {
	e.k.Helper()
	f := e.next()
	got := f.GetFailure()
	if got == nil || f.GetSession() != session || got.GetReason() != reason || codes.Code(got.GetCode()) != code {
		e.k.Fatalf("got %s, want for session %d the failure %s, %s", short(f), session, reason, code)
	}
	return got
}

// answers is the next frame, a whole reply of this session.
func (e *end) answers(session uint64, want []byte) *whole {
	e.k.Helper()
	w := e.whole()
	if w.session != session || string(w.payload) != string(want) {
		e.k.Errorf("session %d: %d bytes, want session %d and %d bytes", w.session, len(w.payload), session, len(want))
	}
	return w
}

func serveHello(k *kit) {
	p := k.puppet()
	s := k.serve(p.addr, fields{"process": "driver-1.x", "heartbeat_interval_ms": 700, "max_calls": 7, "max_message_bytes": 1234567, "max_unfinished_bytes": 2345678})
	r := k.register(s, "@model")
	e := p.accept()
	h := e.takeHello()
	if h.GetProcess() != "driver-1.x" || h.GetHeartbeatIntervalMs() != 700 || h.GetMaxCalls() != 7 || h.GetMaxMessageBytes() != 1234567 || h.GetMaxUnfinishedBytes() != 2345678 {
		k.Errorf("hello: %v", h)
	}
	e.none(300 * time.Millisecond)
	e.sayHello(unknownHello)
	e.registers()
	k.ok(r)
}

func unknownHello(h *meshv1.Hello) {
	h.Features = []string{"later"}
	unknownField(h)
}

func serveRegister(k *kit) {
	p := k.puppet()
	s := k.serve(p.addr)
	r := k.register(s, "@model")
	e := p.greeted()
	if got := e.registers(); got.GetName() != "@model" || got.GetShared() {
		k.Errorf("register: %v", got)
	}
	if h := k.ok(r).Handle; h != "0000000700000001" && len(h) != 16 {
		k.Errorf("handle %q", h)
	}
	r = k.register(s, ".local", fields{"shared": true})
	if got := e.registers(); got.GetName() != ".local" || !got.GetShared() {
		k.Errorf("register: %v", got)
	}
	k.ok(r)
	r = k.register(s, "@taken")
	f := e.next()
	e.say(failure(f.GetSession(), meshv1.Reason_REASON_NAME_TAKEN, codes.AlreadyExists, "the name is taken"))
	if got := k.fails(r, rejected, "NAME_TAKEN", 6); !strings.Contains(got.Message, "the name is taken") {
		k.Errorf("message %q", got.Message)
	}
	e.say(request(1, "@taken", "M", nil))
	e.failure(1, meshv1.Reason_REASON_NAME_NOT_FOUND, codes.NotFound)
}

func serveUnregister(k *kit) {
	_, s, e := k.serving()
	e.ask(1, "BEFORE", nil)
	before := k.event(s, "request")
	u := k.d.send(fields{"op": "unregister", "serve": s, "name": "@model"})
	f := e.next()
	if f.GetUnregister().GetName() != "@model" {
		k.Fatalf("got %s, want an unregister", short(f))
	}
	e.say(registered(f.GetSession(), 0x700000001))
	k.ok(u)
	k.answer(before, text("done"))
	e.answers(1, []byte("done"))
	e.ask(2, "AFTER", nil)
	e.failure(2, meshv1.Reason_REASON_NAME_NOT_FOUND, codes.NotFound)
}

func serveSizes(k *kit) {
	_, s, e := k.serving()
	for i, size := range sizes {
		n := uint64(i + 1)
		e.ask(n, "ECHO", pattern(size, i))
		v := k.event(s, "request")
		if err := v.holds(pattern(size, i)); err != nil || v.Name != "@model" || v.Method != "ECHO" || v.Push {
			k.Errorf("event %+v: %v", v, err)
		}
		k.answer(v, fill(size, i+100))
		e.answers(n, pattern(size, i+100))
	}
}

func serveConcurrent(k *kit) {
	_, s, e := k.serving()
	var events []event
	for n := range uint64(50) {
		e.ask(n+1, fmt.Sprint(n), nil)
	}
	for range 50 {
		events = append(events, k.event(s, "request"))
	}
	slices.Reverse(events)
	for _, v := range events {
		k.answer(v, text(v.Method))
	}
	for range events {
		if w := e.whole(); string(w.payload) != fmt.Sprint(w.session-1) {
			k.Errorf("session %d: %q", w.session, w.payload)
		}
	}
}

func serveError(k *kit) {
	_, s, e := k.serving()
	e.ask(1, "FAIL", nil)
	k.answer(k.event(s, "request"), fields{
		"error":   fields{"code": 15, "message": "lost: " + umlauts, "details": []fields{{"type_url": "type.googleapis.com/mesh.v1.PingRequest", "value": "CgVmaXJzdA=="}}},
		"headers": pairs{{"head", "1"}, {"head", "2"}}, "trailers": pairs{{"tail-bin", "AP8="}},
	})
	f := e.failure(1, meshv1.Reason_REASON_HANDLER, codes.DataLoss)
	if f.GetMessage() != "lost: "+umlauts || len(f.GetDetails()) != 1 {
		k.Errorf("message %q, %d details", f.GetMessage(), len(f.GetDetails()))
	} else if m, err := f.GetDetails()[0].UnmarshalNew(); err != nil || string(m.(*meshv1.PingRequest).GetPayload()) != "first" {
		k.Errorf("detail %v, %v", m, err)
	}
	if h := f.GetHeaders(); len(h) != 2 || string(h[1].GetValue()) != "2" || len(f.GetTrailers()) != 1 || string(f.GetTrailers()[0].GetValue()) != "\x00\xff" {
		k.Errorf("headers %v, trailers %v", h, f.GetTrailers())
	}
	e.ask(2, "LONG", nil)
	k.answer(k.event(s, "request"), fields{"error": fields{"code": 5, "message": strings.Repeat("ä", 3000)}})
	if f := e.failure(2, meshv1.Reason_REASON_HANDLER, codes.NotFound); len(f.GetMessage()) > 1024 || len(f.GetMessage()) < 1000 {
		k.Errorf("a message of %d bytes, want it cut to 1 KiB", len(f.GetMessage()))
	}
}

func servePanic(k *kit) {
	_, s, e := k.serving()
	e.ask(1, "OTHER", nil)
	other := k.event(s, "request")
	e.ask(2, "PANIC", nil)
	k.answer(k.event(s, "request"), fields{"panic": "canary of the handler"})
	if f := e.failure(2, meshv1.Reason_REASON_PANIC, codes.Internal); strings.Contains(f.GetMessage(), "canary") || f.GetMessage() == "" {
		k.Errorf("message %q", f.GetMessage())
	}
	k.answer(other, text("x"))
	e.answers(1, []byte("x"))
}

func serveHeaders(k *kit) {
	_, s, e := k.serving()
	e.ask(1, "HEADERS", nil, func(q *meshv1.Request) {
		q.Headers = []*meshv1.Header{{Key: "key", Value: []byte("1")}, {Key: "key", Value: []byte("2")}, {Key: "raw-bin", Value: []byte("\x00\xff")}}
		q.TraceTag = "(a-b-1)tag"
	})
	v := k.event(s, "request")
	if !slices.Equal(v.Headers.all("key"), []string{"1", "2"}) || !slices.Equal(v.Headers.all("raw-bin"), []string{"AP8="}) || v.TraceTag != "(a-b-1)tag" || v.TimeLeftMS != 0 {
		k.Errorf("event %+v", v)
	}
	k.answer(v, text("x"), fields{"headers": pairs{{"head-bin", "AP8="}}, "trailers": pairs{{"tail", "1"}, {"tail", "2"}}})
	r := e.answers(1, []byte("x")).frame.GetReply()
	if len(r.GetHeaders()) != 1 || string(r.GetHeaders()[0].GetValue()) != "\x00\xff" || len(r.GetTrailers()) != 2 || string(r.GetTrailers()[1].GetValue()) != "2" {
		k.Errorf("reply %v", r)
	}
}

func servePush(k *kit) {
	_, s, e := k.serving()
	for i, answer := range []fields{text("x"), {"error": fields{"code": 5, "message": "nobody hears"}}, {"panic": "nobody hears"}} {
		e.ask(uint64(i+1), "PUSH", pattern(40000, i), push)
		v := k.event(s, "request")
		if err := v.holds(pattern(40000, i)); err != nil || !v.Push {
			k.Errorf("event %+v: %v", v, err)
		}
		k.answer(v, answer)
	}
	e.none(300 * time.Millisecond)
}

func serveDeadline(k *kit) {
	_, s, e := k.serving()
	e.ask(1, "WAIT", nil, func(q *meshv1.Request) { q.TimeLeftUs = 300000 })
	v := k.event(s, "request")
	if v.TimeLeftMS <= 0 || v.TimeLeftMS > 300 {
		k.Errorf("%v ms left of 300", v.TimeLeftMS)
	}
	if c := k.event(s, "cancelled"); c.Request != v.Request {
		k.Errorf("request %d was cancelled, want %d", c.Request, v.Request)
	}
	f := e.next()
	if code := codes.Code(f.GetFailure().GetCode()); f.GetSession() != 1 || code != codes.DeadlineExceeded && code != codes.Canceled {
		k.Errorf("got %s, want a failure with DEADLINE_EXCEEDED", short(f))
	}
	e.none(200 * time.Millisecond)
}

func serveCancel(k *kit) {
	_, s, e := k.serving()
	e.ask(1, "WAIT", nil)
	v := k.event(s, "request")
	e.say(cancel(1))
	if c := k.event(s, "cancelled"); c.Request != v.Request {
		k.Errorf("request %d was cancelled, want %d", c.Request, v.Request)
	}
	e.failure(1, meshv1.Reason_REASON_CANCELLED, codes.Canceled)
	k.answer(v, text("late"))
	e.none(200 * time.Millisecond)
	large := requestFrames(2, "@model", "HALF", pattern(100000, 1))
	e.say(large[0], cancel(2))
	e.failure(2, meshv1.Reason_REASON_CANCELLED, codes.Canceled)
	e.say(large[1:]...)
	k.noEvent(s, 200*time.Millisecond)
	e.none(0)
}

func serveUnknownName(k *kit) {
	_, s, e := k.serving()
	e.say(request(1, "@nobody", "M", nil), request(2, "@nobody", "M", nil, push))
	e.failure(1, meshv1.Reason_REASON_NAME_NOT_FOUND, codes.NotFound)
	q := request(3, "", "M", nil)
	q.GetRequest().Address = &meshv1.Request_Handle{Handle: 0x100000001}
	e.say(q)
	e.failure(3, meshv1.Reason_REASON_STALE_HANDLE, codes.FailedPrecondition)
	e.ask(4, "ECHO", nil)
	k.answer(k.event(s, "request"), text("x"))
	e.answers(4, []byte("x"))
	k.noEvent(s, 100*time.Millisecond)
}
