package channel

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// replyGate counts the replies that wait in the whole process and tells links
// that do not read when there is room again.
type replyGate struct {
	limit int64
	bytes atomic.Int64

	mu   sync.Mutex
	room chan struct{} // closed when bytes falls below limit
}

func (g *replyGate) init(limit int64) { g.limit, g.room = limit, make(chan struct{}) }

func (g *replyGate) add(n int64) {
	now := g.bytes.Add(n)
	if now < g.limit && now-n >= g.limit {
		g.mu.Lock()
		close(g.room)
		g.room = make(chan struct{})
		g.mu.Unlock()
	}
}

func (g *replyGate) full() bool { return g.bytes.Load() >= g.limit }

// wait is taken before looking at full.
func (g *replyGate) wait() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.room
}

// replyQueue holds the answers that wait for a link: small ones in order, large
// ones until the peer has room for them.
type replyQueue struct {
	small   []*Request
	blocked []*Request
	bulk    bulk[*Request]
	bytes   int64
}

func (q *replyQueue) empty() bool {
	return len(q.small) == 0 && len(q.blocked) == 0 && len(q.bulk.turn) == 0
}

// put queues the answer of r.
func (q *replyQueue) put(r *Request) {
	r.queued = int64(len(r.reply.Payload)+messageOverhead) + headerBytes(r.reply.Headers) + headerBytes(r.reply.Trailers)
	if r.fail != nil {
		r.queued += int64(len(r.fail.Message)) + maxDetailBytes
	}
	q.bytes += r.queued
	if len(r.reply.Payload) > partBytes {
		r.parcel = parcel{session: r.Session, bytes: r.reply.Payload}
		q.blocked = append(q.blocked, r)
		return
	}
	q.small = append(q.small, r)
}

// putFirst queues the failure that breaks off a large reply. It leaves before
// the next large one begins, for which the peer has no room until then.
func (q *replyQueue) putFirst(r *Request) {
	q.put(r)
	n := len(q.small) - 1
	copy(q.small[1:], q.small[:n])
	q.small[0] = r
}

// withdraw takes a large reply back that has not been sent to its end.
func (q *replyQueue) withdraw(r *Request) bool {
	i := slices.Index(q.blocked, r)
	if i >= 0 {
		q.blocked = slices.Delete(q.blocked, i, i+1)
	} else if !q.bulk.stop(r) {
		return false
	}
	q.bytes -= r.queued
	return true
}

// fill adds what may be sent now and returns the answers that are complete.
func (q *replyQueue) fill(b *batch) (done []*Request) {
	for len(q.small) > 0 {
		f := q.small[0].frame()
		room := 8
		if len(q.bulk.turn) > 0 || len(q.blocked) > 0 && q.bulk.mayBegin(len(q.blocked[0].reply.Payload)) {
			room += frameRoom
		}
		if !b.fits(f.size() + room) {
			break
		}
		b.add(&f)
		done = append(done, q.small[0])
		q.small[0] = nil
		q.small = q.small[1:]
	}
	for len(q.blocked) > 0 && q.bulk.mayBegin(len(q.blocked[0].reply.Payload)) {
		f := q.blocked[0].frame()
		if !b.fits(f.size() + 8) {
			break
		}
		b.add(&f)
		q.bulk.begin(q.blocked[0])
		q.blocked[0] = nil
		q.blocked = q.blocked[1:]
	}
	done = append(done, q.bulk.fill(b)...)
	for _, r := range done {
		q.bytes -= r.queued
	}
	return done
}

// choked says that too many answers wait for this link to read on (M56).
func (a *agent) choked() bool {
	return a.queue.bytes >= a.opt.Limits.LinkReplyBytes || a.queue.bytes > fairReplyBytes && a.m.replies.full()
}

// awaitReplyRoom stops the reading while too many answers wait.
func (a *agent) awaitReplyRoom() error {
	stopped := false
	for {
		gate := a.m.replies.wait() // before the look, so that no change is missed
		a.mu.Lock()
		if !a.choked() {
			a.mu.Unlock()
			if stopped {
				a.readOn()
			}
			return nil
		}
		if a.room == nil {
			a.room = make(chan struct{})
		}
		room := a.room
		a.mu.Unlock()
		if !stopped {
			stopped = true
			a.stop()
		}
		select {
		case <-room:
		case <-gate:
		case <-a.ctx.Done():
			return context.Cause(a.ctx)
		}
	}
}
