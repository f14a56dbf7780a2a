package channel

import (
	"cmp"
	"slices"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

func (a *agent) base() *link    { return a.link }
func (a *agent) cutConn()       { a.conn() }
func (a *agent) goodbye() error { return nil }

// run is the reader: it runs until the dialler half-closes or the link ends.
func (a *agent) run() {
	cause := a.read(a.in)
	if cause == nil {
		a.halfClosed()
		<-a.ctx.Done()
	}
	a.end(cause)
	a.release()
}

// goaway says that nothing more is taken, and lets what was end (M35).
func (a *agent) goaway(why string) {
	a.mu.Lock()
	if !a.leaving {
		a.leaving, a.why, a.goLast = true, why, a.last
	}
	a.mu.Unlock()
	a.wake()
}

// expel refuses the calls that have not started when the drain time is over.
func (a *agent) expel() {
	for _, r := range a.taken() {
		f := Refuse(meshv1.Reason_REASON_DRAINING, "the node is leaving and the call had not started")
		if !a.refuseUnplaced(r, f) && r.cancel(ErrDraining) {
			r.Fail(f)
		}
	}
}

// taken returns the calls that are not answered, in order.
func (a *agent) taken() []*Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	rs := make([]*Request, 0, len(a.calls))
	for _, r := range a.calls {
		if !r.answered {
			rs = append(rs, r)
		}
	}
	slices.SortFunc(rs, func(a, b *Request) int { return cmp.Compare(a.Session, b.Session) })
	return rs
}

// release ends what the link's end leaves behind (M32): the contexts of its
// handlers, its calls that have not started, its unfinished messages and its
// waiting replies. The reader has returned.
func (a *agent) release() {
	for _, r := range a.joins {
		a.unjoin(r)
	}
	// First those that have not started: a handler that ends starts the next.
	started := slices.DeleteFunc(a.taken(), func(r *Request) bool { return r.cancel(ErrDraining) })
	for _, r := range started {
		r.cancel(ErrLinkBroken)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.m.replies.add(-a.queue.bytes)
	a.m.Counters.RepliesDropped.Add(int64(a.queue.len()))
	a.queue = replyQueue{}
	a.releaseStreams()
	clear(a.calls)
}
