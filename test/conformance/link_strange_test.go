package conformance_test

import (
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// linkStranges are the cases of Link about what a helper does not know.
var linkStranges = []testCase{
	{name: "unknown", run: linkUnknown},
	{name: "late", run: linkLate},
	{name: "second-hello", run: linkSecondHello},
}

// unknownField gives a message fields of a later version.
func unknownField(m proto.Message) {
	b := protowire.AppendTag(nil, 1000, protowire.BytesType)
	b = protowire.AppendBytes(b, []byte("later"))
	b = protowire.AppendTag(b, 1001, protowire.VarintType)
	b = protowire.AppendVarint(b, 1<<40)
	m.ProtoReflect().SetUnknown(b)
}

// unknownBody is a frame whose body has a field that no version has yet.
func unknownBody(session uint64) *meshv1.Frame {
	f := &meshv1.Frame{Session: session}
	b := protowire.AppendTag(nil, 31, protowire.BytesType)
	f.ProtoReflect().SetUnknown(protowire.AppendBytes(b, []byte("a body of a later version")))
	return f
}

func linkUnknown(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	e := p.greetedOnce()
	calls, sessions := made(k, l, e, "1", "2", "3", "4", "5")
	e().say()
	e().say(unknownBody(sessions["1"]), unknownBody(0), &meshv1.Frame{}, &meshv1.Frame{Session: sessions["1"]})
	beat := heartbeat(false)
	unknownField(beat.GetHeartbeat())
	unknownField(beat)
	e().say(beat)
	strange := reply(sessions["1"], "fine")
	strange.GetReply().Headers = []*meshv1.Header{{Key: "key", Value: []byte("value")}}
	unknownField(strange.GetReply())
	unknownField(strange.GetReply().GetHeaders()[0])
	e().say(strange)
	if a := k.replies(calls["1"], []byte("fine")); len(a.Headers.all("key")) != 1 {
		k.Errorf("headers %v", a.Headers)
	}
	later := failure(sessions["2"], 99, codes.NotFound, "later")
	unknownField(later.GetFailure())
	e().say(later)
	if f := k.fails(calls["2"], ran, "", 5); f.Message != "later" {
		k.Errorf("message %q", f.Message)
	}
	e().say(failure(sessions["3"], meshv1.Reason_REASON_HANDLER, 0, "no code"))
	k.fails(calls["3"], ran, "", 2)
	e().say(failure(sessions["4"], meshv1.Reason_REASON_HANDLER, 99, "a code of a later version"))
	k.fails(calls["4"], ran, "", 2)
	e().say(failure(sessions["5"], meshv1.Reason_REASON_UNSPECIFIED, codes.Aborted, "no reason"))
	k.fails(calls["5"], ran, "", 10)
	goesOn(k, l, e())
	if n := p.count(); n != 1 {
		k.Errorf("%d links, want 1", n)
	}
}

func linkLate(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	e := p.greetedOnce()
	calls, sessions := made(k, l, e, "1", "2", "3")
	n := sessions["1"]
	e().say(part(n, []byte("before a reply")), reply(n+1000, "of the future"), reply(0, "of nobody"), reply(math.MaxUint64, "of the end"),
		failure(n+1000, 99, 2, "of the future"), part(n+1000, []byte("of the future")),
		request(n, "@sdb", "UP", nil), cancel(n), &meshv1.Frame{Session: n, Body: &meshv1.Frame_Register{Register: &meshv1.Register{Name: "@x"}}},
		&meshv1.Frame{Session: n, Body: &meshv1.Frame_Message{Message: &meshv1.StreamMessage{Payload: []byte("of no stream")}}})
	e().say(reply(n, "first"), reply(n, "second"), failure(n, meshv1.Reason_REASON_PANIC, 13, "third"), part(n, []byte("fourth")))
	k.replies(calls["1"], []byte("first"))
	k.cancel(calls["2"])
	k.fails(calls["2"], maybe, "CANCELLED", 1)
	if f := e().next(); f.GetCancel() == nil {
		k.Errorf("got %s, want a cancel", short(f))
	}
	for _, f := range replyFrames(sessions["2"], pattern(100000, 1)) {
		e().say(f)
	}
	e().reply(sessions["3"], []byte("third"))
	k.replies(calls["3"], []byte("third"))
	goesOn(k, l, e())
	if n := p.count(); n != 1 {
		k.Errorf("%d links, want 1", n)
	}
}

func linkSecondHello(k *kit) {
	p := k.puppet()
	l := k.link(p.addr)
	e := p.greetedOnce()
	calls, sessions := made(k, l, e, "1")
	e().reply(sessions["1"], nil)
	k.ok(calls["1"])
	e().sayHello()
	time.Sleep(300 * time.Millisecond)
	p.echo(e())
	k.replies(k.call(l, "@sdb", "NEXT", text("x"), waitUp), []byte("x"))
}
