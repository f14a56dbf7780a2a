package conformance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// sizes are those at which a payload changes its shape.
var sizes = []int{0, 1, 32767, 32768, 32769, 65536, 65537, 98304, 1 << 20, 1<<20 + 1}

// linkReal are the cases of Link with a real node.
var linkReal = []testCase{
	{name: "sizes", run: linkSizes},
	{name: "at-once", run: linkAtOnce},
	{name: "order", run: linkOrder},
	{name: "handle", run: linkHandle},
	{name: "names", run: linkNames},
	{name: "unknown-method", run: linkUnknownMethod},
	{name: "handler-error", run: linkHandlerError},
	{name: "panic", run: linkPanic},
	{name: "headers", run: linkHeaders},
	{name: "too-many-headers", run: linkTooManyHeaders},
	{name: "deadline", run: linkDeadline},
	{name: "cancel", run: linkCancel},
	{name: "close", run: linkClose},
	{name: "restart", slow: true, run: linkRestart},
	{name: "kill", run: linkKill},
}

func linkSizes(k *kit) {
	n := k.node()
	l := k.link(n.addr)
	for i, size := range sizes {
		k.replies(k.call(l, "@sdb", "ECHO", fill(size, i)), pattern(size, i))
		k.ok(k.push(l, "@serial", "KEEP", fill(size, i)))
	}
	k.eventually("all pushes are kept", func() bool { return len(n.keeps()) == len(sizes) })
	for i, got := range n.keeps() {
		if !bytes.Equal(got.payload, pattern(sizes[i], i)) {
			k.Errorf("push %d of %d bytes: %d bytes arrived, or others", i, sizes[i], len(got.payload))
		}
	}
}

func linkAtOnce(k *kit) {
	l := k.link(k.node().addr)
	calls := make([]*pending, 200)
	for i := range calls {
		calls[i] = k.call(l, "@sdb", "ECHO", fill(i*10, i))
	}
	for i, p := range calls {
		k.replies(p, pattern(i*10, i))
	}
}

func linkOrder(k *kit) {
	n := k.node()
	l := k.link(n.addr)
	const count, big = 300, 150
	for i := range count {
		payload := text(strconv.Itoa(i))
		if i == big {
			payload = fill(200000, 1)
		}
		k.push(l, "@serial", "KEEP", payload)
	}
	k.ok(k.call(l, "@serial", "KEEP", text("last")))
	got := n.keeps()
	if len(got) != count+1 || string(got[count].payload) != "last" {
		k.Fatalf("the call was dispatched after %d pushes, want %d", len(got)-1, count)
	}
	for i, m := range got[:count] {
		if i == big && len(m.payload) == 200000 {
			continue
		}
		if string(m.payload) != strconv.Itoa(i) {
			k.Fatalf("in place %d: %.20q", i, m.payload)
		}
	}
}

func linkHandle(k *kit) {
	l := k.link(k.node().addr)
	query := func(name string) *pending {
		return k.d.send(fields{"op": "query", "link": l, "name": name, "timeout_ms": 5000})
	}
	h := k.ok(query("@sdb")).Handle
	if len(h) != 16 || strings.Trim(h, "0123456789abcdef") != "" {
		k.Fatalf("a handle is 16 hex digits, got %q", h)
	}
	k.replies(k.call(l, ":"+h, "ECHO", text("by handle")), []byte("by handle"))
	k.fails(query("@nobody"), rejected, "NAME_NOT_FOUND", 5)
	k.fails(k.call(l, ":0000000100000001", "ECHO"), rejected, "STALE_HANDLE", 9)
}

func linkNames(k *kit) {
	l := k.link(k.node().addr)
	e := k.fails(k.call(l, "@nobody", "ECHO"), rejected, "NAME_NOT_FOUND", 5)
	if e.Message == "" {
		k.Error("the failure's sentence is lost")
	}
	for _, name := range []string{"@a\nb", "@", "@" + strings.Repeat("x", 255)} {
		e := k.outcome(k.call(l, name, "ECHO")).Error
		if e == nil || !oneOf(e.Verdict, "rejected|not sent") || !oneOf(e.Reason, "INVALID_NAME|INVALID_TARGET|NAME_NOT_FOUND") {
			k.Errorf("the name %.10q: %s", name, e)
		}
	}
	k.replies(k.call(l, ".local", "ECHO", text("x")), []byte("x"))
}

func linkUnknownMethod(k *kit) {
	l := k.link(k.node().addr)
	k.fails(k.call(l, "@db", "/simpledb.v1.SimpleDBService/Nothing"), rejected, "UNKNOWN_METHOD", 12)
}

func linkHandlerError(k *kit) {
	l := k.link(k.node().addr)
	e := k.fails(k.call(l, "@sdb", "FAIL"), ran, "", 15)
	if e.Message != "lost: "+umlauts {
		k.Errorf("message %q", e.Message)
	}
	if !slices.Equal(e.Headers.all("head"), []string{"of a failure"}) || !slices.Equal(e.Trailers.all("tail-bin"), []string{"AP8="}) {
		k.Errorf("headers %v, trailers %v", e.Headers, e.Trailers)
	}
	want := []proto.Message{&meshv1.PingRequest{Payload: []byte("first")}, &meshv1.QueryRequest{Name: "second"}}
	if len(e.Details) != len(want) {
		k.Fatalf("%d details, want %d", len(e.Details), len(want))
	}
	for i, d := range e.Details {
		got, err := (&anypb.Any{TypeUrl: d.TypeURL, Value: unbase64(k, d.Value)}).UnmarshalNew()
		if err != nil || !proto.Equal(got, want[i]) {
			k.Errorf("detail %d: %v, %v", i, got, err)
		}
	}
	for code := 1; code <= 16; code++ {
		e := k.fails(k.call(l, "@sdb", "CODE", text(strconv.Itoa(code))), ran, "", code)
		if e.Message != fmt.Sprintf("code %d", code) {
			k.Errorf("code %d: message %q", code, e.Message)
		}
	}
}

func linkPanic(k *kit) {
	l := k.link(k.node().addr)
	other := k.call(l, "@sdb", "SLEEP", text("300"))
	e := k.fails(k.call(l, "@sdb", "PANIC"), ran, "PANIC", 13)
	if strings.Contains(e.Message, "canary") {
		k.Errorf("the message has the handler's text: %q", e.Message)
	}
	k.replies(other, []byte("300"))
}

func linkHeaders(k *kit) {
	n := k.node()
	l := k.link(n.addr)
	a := k.ok(k.call(l, "@sdb", "HEADERS", fields{"headers": pairs{{"key", "one"}, {"other", umlautFree}, {"key", "two"}, {"raw-bin", "AP7/"}}}))
	var in map[string][]string
	if err := json.Unmarshal([]byte(a.String()), &in); err != nil {
		k.Fatal(err)
	}
	if !slices.Equal(in["key"], []string{"one", "two"}) || !slices.Equal(in["other"], []string{umlautFree}) || len(in["raw-bin"]) != 1 {
		k.Errorf("the handler found %v", in)
	}
	if !slices.Equal(a.Headers.all("head"), []string{"1", "2"}) || !slices.Equal(a.Headers.all("head-bin"), []string{"AP7/"}) || !slices.Equal(a.Trailers.all("tail"), []string{"3", "4"}) {
		k.Errorf("headers %v, trailers %v", a.Headers, a.Trailers)
	}
	k.ok(k.call(l, "@sdb", "KEEP", fields{"trace_tag": "(a-b-1)tag"}))
	if got := n.keeps()[0].traceTag; got != "(a-b-1)tag" {
		k.Errorf("trace tag %q", got)
	}
}

const umlautFree = "plain text, with spaces"

func linkTooManyHeaders(k *kit) {
	l := k.link(k.node().addr)
	k.fails(k.call(l, "@sdb", "ECHO", fields{"headers": pairs{{"key", strings.Repeat("v", 9<<10)}}}), "rejected|not sent", "INVALID_REQUEST", 3)
	k.replies(k.call(l, "@sdb", "ECHO", text("x")), []byte("x"))
}

func linkDeadline(k *kit) {
	n := k.node()
	l := k.link(n.addr)
	k.ok(k.call(l, "@sdb", "ECHO")) // so that the link stands
	left, err := strconv.Atoi(k.ok(k.call(l, "@sdb", "LEFT", timeout(4000))).String())
	if err != nil || left > 4000 || left < 2500 {
		k.Errorf("of 4000 ms the handler has %d: %v", left, err)
	}
	k.replies(k.call(l, "@sdb", "LEFT"), []byte("none"))
	began := time.Now()
	k.fails(k.call(l, "@sdb", "WAIT", timeout(400)), "maybe executed|rejected", "DEADLINE_EXCEEDED|EXPIRED", 4)
	k.within("a call of 400 ms", began, 350*time.Millisecond, 2*time.Second)
	k.eventually("the handler's context ends", func() bool { return n.waitsEnded() == 1 })
	k.replies(k.call(l, "@sdb", "ECHO", text("x")), []byte("x"))
}

func linkCancel(k *kit) {
	n := k.node()
	l := k.link(n.addr)
	k.ok(k.call(l, "@sdb", "ECHO"))
	p := k.call(l, "@sdb", "WAIT")
	time.Sleep(200 * time.Millisecond) // until it has been sent, or the verdict would be another one
	began := time.Now()
	k.cancel(p)
	k.fails(p, maybe, "CANCELLED", 1)
	k.within("the cancelled call", began, 0, time.Second)
	k.eventually("the handler's context ends", func() bool { return n.waitsEnded() == 1 })
	k.replies(k.call(l, "@sdb", "ECHO", text("x")), []byte("x"))
}

func linkClose(k *kit) {
	n := k.node()
	l := k.link(n.addr)
	for i := range 100 {
		k.push(l, "@serial", "KEEP", text(strconv.Itoa(i)))
	}
	calls := make([]*pending, 5)
	for i := range calls {
		calls[i] = k.call(l, "@sdb", "SLEEP", text("300"))
	}
	k.ok(k.call(l, "@sdb", "ECHO")) // the calls have been made
	k.ok(k.close(l))
	for _, p := range calls {
		k.replies(p, []byte("300"))
	}
	k.eventually("all pushes are dispatched", func() bool { return len(n.keeps()) == 100 })
	k.fails(k.call(l, "@sdb", "ECHO"), notSent, "CLOSED", 14)
	k.ok(k.close(l))
}

func linkRestart(k *kit) {
	n, err := startNode("127.0.0.1:0")
	if err != nil {
		k.Fatal(err)
	}
	l := k.link(n.addr)
	var calls []*pending
	for began := time.Now(); time.Since(began) < 3*time.Second; time.Sleep(10 * time.Millisecond) {
		calls = append(calls, k.call(l, "@sdb", "SLEEP", text("50")))
		if len(calls) == 50 {
			old := n
			go old.close()
			time.Sleep(300 * time.Millisecond)
			k.eventually("the address is free", func() bool { n, err = startNode(old.addr); return err == nil })
		}
	}
	defer n.close()
	again := 0
	for i, p := range calls {
		if a := k.outcome(p); a.OK {
			continue
		} else if a.Error.Verdict != notSent || a.Error.Reason != "GOAWAY" {
			k.Errorf("call %d of %d: %s", i, len(calls), a.Error)
		} else {
			again++
		}
	}
	k.Logf("%d calls, %d of them were not sent", len(calls), again)
}

func linkKill(k *kit) {
	addr, kill := k.nodeProcess("127.0.0.1:0")
	l := k.link(addr)
	k.ok(k.call(l, "@sdb", "ECHO"))
	calls := make([]*pending, 20)
	for i := range calls {
		calls[i] = k.call(l, "@sdb", "WAIT")
	}
	time.Sleep(300 * time.Millisecond) // until they have been sent
	began := time.Now()
	kill()
	for _, p := range calls {
		k.fails(p, maybe, "LINK_BROKEN", 10)
	}
	k.within("the calls in flight", began, 0, 2*time.Second)
	began = time.Now()
	p := k.call(l, "@sdb", "ECHO", text("again"), waitUp, timeout(10000))
	k.nodeProcess(addr)
	k.replies(p, []byte("again"))
	k.within("the first call to the node that came back", began, 0, 5*time.Second)
}
