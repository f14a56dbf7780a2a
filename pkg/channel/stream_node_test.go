package channel

import (
	"sync"
	"testing"
)

// A stream that waits for a place leaves as soon as fill runs. A caller that
// writes its own call must not take it along: its Send is to be small, and it
// does not write what the stream has to say after that.
func TestLinkIsNotQuietWhileAStreamWaitsForItsPlace(t *testing.T) {
	r := newNodeRig(t)
	r.reload("A:1")
	first := r.call()
	p := smallPeer
	p.streams, p.window = 1, 64<<10
	o := r.connected(p)
	r.sent(o)
	r.reply(first)
	if r.want("ok", first); !o.quiet() {
		t.Fatal("not quiet where nothing is in flight")
	}
	var mu sync.Mutex
	for range 2 {
		st := newStream(&mu, &r.n.limits, &budget{limit: 1 << 20})
		st.known = make(chan struct{})
		st.call = &call{Message: Message{Node: "db", Name: "@a", Method: "x"}, stream: st}
		r.n.submit(st.call)
	}
	var b batch
	b.limit = p.batch
	r.n.fill(o, &b, r.now)
	if o.parked.head == nil || o.streams.open != 1 {
		t.Fatalf("%d streams are open, and one is to wait", o.streams.open)
	}
	r.n.received(o, &frame{session: o.session, kind: kindReply}, r.now)
	if !o.idle() || o.quiet() {
		t.Errorf("idle: %v, quiet: %v; a stream waits for its place", o.idle(), o.quiet())
	}
}
