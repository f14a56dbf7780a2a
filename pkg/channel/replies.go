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

// answer is the answer of a call on its way out: a reply or a failure.
type answer struct {
	r     *Request
	reply Reply
	fail  *Failure
	size  int64 // what it counts against the bounds
}

// frame makes the frame that answers the call, or the first of a large reply.
func (w *answer) frame() frame {
	if w.fail != nil {
		return frame{session: w.r.Session, kind: kindFailure, failure: w.fail.wire()}
	}
	f := frame{session: w.r.Session, kind: kindReply, payload: w.reply.Payload, headers: w.reply.Headers, trailers: w.reply.Trailers}
	if len(f.payload) > partBytes {
		f.total, f.payload = uint64(len(f.payload)), f.payload[:partBytes]
	}
	return f
}

// bound is at least the length of the answer's first frame in a batch.
func (w *answer) bound() int {
	if w.fail != nil {
		n := 3*min(len(w.fail.Message), maxErrorText) + int(headerBytes(w.fail.Headers)+headerBytes(w.fail.Trailers)) + 64
		if len(w.fail.Details) > 0 {
			n += maxDetailBytes
		}
		return n
	}
	return min(len(w.reply.Payload), partBytes) + int(headerBytes(w.reply.Headers)+headerBytes(w.reply.Trailers)) + 64
}

// largeAnswer is a reply that travels in parts.
type largeAnswer struct {
	answer
	parcel parcel
}

func (l *largeAnswer) large() *parcel { return &l.parcel }

// replyQueue holds the answers that wait for a link: small ones in order, large
// ones until the peer has room for them.
type replyQueue struct {
	small   []answer
	spare   []answer // the array that small has next
	blocked []*largeAnswer
	bulk    bulk[*largeAnswer]
	bytes   int64
	keep    int // room of a batch that is left to others
}

func (q *replyQueue) len() int { return len(q.small) + len(q.blocked) + len(q.bulk.turn) }

// put queues an answer and returns what it counts.
func (q *replyQueue) put(w answer) int64 {
	w.size = int64(len(w.reply.Payload)+messageOverhead) + headerBytes(w.reply.Headers) + headerBytes(w.reply.Trailers)
	if w.fail != nil {
		w.size += int64(len(w.fail.Message)) + maxDetailBytes
	}
	q.bytes += w.size
	if len(w.reply.Payload) > partBytes {
		q.blocked = append(q.blocked, &largeAnswer{w, parcel{session: w.r.Session, bytes: w.reply.Payload}})
	} else {
		q.small = append(q.small, w)
	}
	return w.size
}

// putFirst queues the failure that breaks off a large reply. It leaves before
// the next large one begins, for which the peer has no room until then.
func (q *replyQueue) putFirst(w answer) int64 {
	size := q.put(w)
	n := len(q.small) - 1
	w = q.small[n]
	copy(q.small[1:], q.small[:n])
	q.small[0] = w
	return size
}

// withdraw takes a large reply back that has not been sent to its end, and
// returns what it counted; 0 where there is none.
func (q *replyQueue) withdraw(r *Request) int64 {
	of := func(l *largeAnswer) bool { return l.r == r }
	var l *largeAnswer
	if i := slices.IndexFunc(q.blocked, of); i >= 0 {
		l = q.blocked[i]
		q.blocked = slices.Delete(q.blocked, i, i+1)
	} else if i := slices.IndexFunc(q.bulk.turn, of); i >= 0 {
		l = q.bulk.turn[i]
		q.bulk.stop(l)
	} else {
		return 0
	}
	q.bytes -= l.size
	return l.size
}

// takeSmall takes out what the batch has room for, leaving some for a large
// answer where one may go on. The caller encodes it, and gives it back.
func (q *replyQueue) takeSmall(b *batch) (out []answer) {
	room := q.keep
	if len(q.bulk.turn) > 0 || len(q.blocked) > 0 && q.bulk.mayBegin(len(q.blocked[0].reply.Payload)) {
		room += frameRoom
	}
	n, size := 0, 0
	for n < len(q.small) && (n == 0 && b.empty() || b.fitMore(n+1, size+q.small[n].bound()+room)) {
		size += q.small[n].bound()
		q.bytes -= q.small[n].size
		n++
	}
	if out, q.small = q.small[:n:n], q.small[n:]; len(q.small) == 0 {
		q.small, q.spare = q.spare, nil
	}
	return out
}

// keptAnswers is how long a list a link keeps for the answers to come.
const keptAnswers = 256

// giveBack takes the list of takeSmall again.
func (q *replyQueue) giveBack(out []answer) {
	clear(out)
	if q.spare == nil && cap(out) > 0 && cap(out) <= keptAnswers {
		q.spare = out[:0]
	}
}

// fillLarge begins large answers that the peer has room for, adds a round of
// parts, and returns the answers that are complete.
func (q *replyQueue) fillLarge(b *batch) (done []*largeAnswer) {
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
	done = q.bulk.fill(b)
	for _, l := range done {
		q.bytes -= l.size
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
