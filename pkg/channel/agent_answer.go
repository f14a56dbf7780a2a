package channel

import (
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

func cancelFailure() *Failure {
	return Refuse(meshv1.Reason_REASON_CANCELLED, "the caller cancelled")
}

// answer queues the one answer of a call. The only call of a link has its answer
// sent by its own goroutine, where that cannot block: it saves waking the writer.
func (a *agent) answer(w answer) {
	if w.r.Push {
		return
	}
	a.mu.Lock()
	switch queued := a.answerOnce(w); {
	case !queued:
		a.mu.Unlock()
	case len(a.calls) == 1 && len(a.queue.small) == 1 && a.queue.len() == 1 && !a.writing && !a.direct && a.sent.all():
		a.direct = true
		a.mu.Unlock()
		a.writeDirect()
	default:
		a.mu.Unlock()
		a.wake()
	}
}

// writeDirect is the writer for once.
func (a *agent) writeDirect() {
	b := a.batch()
	if a.fillBatch(b); !b.empty() {
		_ = a.send(b) // where it fails, the reader knows why
	}
	a.mu.Lock()
	a.direct = false
	more := a.queue.len() > 0 || len(a.streams.ready) > 0 || a.leaving || a.eof || a.pulse.beat.Load()
	a.mu.Unlock()
	if more {
		a.wake()
	}
}

// refuseUnplaced refuses a call whose parts still arrive: it will not be placed.
func (a *agent) refuseUnplaced(r *Request, f *Failure) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.job != nil {
		return false
	}
	if a.answerOnce(answer{r: r, fail: f}) {
		a.wake()
	}
	return true
}

// answerOnce is called under the lock. It returns true where the writer has
// something to send.
func (a *agent) answerOnce(w answer) bool {
	r := w.r
	if r.answered {
		return false
	}
	r.answered = true
	if a.ctx.Err() != nil {
		a.m.Counters.RepliesDropped.Add(1)
		return false
	}
	switch {
	case r.cancelled:
		w = answer{r: r, fail: cancelFailure()}
	case r.stream != nil && r.stream.broken != nil:
		w = answer{r: r, fail: r.stream.broken}
	}
	if r.stream != nil {
		a.answerStream(w)
		return true
	}
	a.m.replies.add(a.queue.put(w))
	return true
}

// fill gives the writer what may be sent. It returns true when the link is done.
func (a *agent) fill(b *batch) bool {
	a.mu.Lock()
	a.writing = !a.direct
	direct := a.direct
	a.mu.Unlock()
	if direct {
		return false // writeDirect wakes the writer when it is done
	}
	done := a.fillBatch(b)
	a.mu.Lock()
	a.writing = !b.empty()
	a.mu.Unlock()
	return done
}

// fillBatch takes what may be sent, for the writer or writeDirect. The small
// answers are encoded without the lock, which handlers and the reader want.
func (a *agent) fillBatch(b *batch) bool {
	a.addBeat(b)
	a.mu.Lock()
	if a.leaving && !a.said {
		a.said = true
		b.add(&frame{kind: kindGoaway, goaway: &meshv1.Goaway{LastSession: a.goLast, Message: a.why}})
	}
	a.queue.keep = 0
	if len(a.streams.ready) > 0 {
		a.queue.keep = partRoom
	}
	small := a.queue.takeSmall(b)
	for i := range small {
		a.left(&small[i])
	}
	a.mu.Unlock()
	for i := range small {
		f := small[i].frame()
		b.add(&f)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue.giveBack(small)
	if !a.direct { // what may be more than a Send that cannot block takes is the writer's
		for _, l := range a.queue.fillLarge(b) {
			a.left(&l.answer)
		}
		if len(a.streams.ready) > 0 {
			a.fillStreams(b)
		}
	}
	if a.room != nil && !a.choked() {
		close(a.room)
		a.room = nil
	}
	return a.done()
}

// left notes that an answer leaves, under the lock.
func (a *agent) left(w *answer) {
	if a.calls[w.r.Session] == w.r {
		delete(a.calls, w.r.Session)
	}
	a.m.replies.add(-w.size)
}
