package mesh

import (
	"context"
	"sync"

	"go.uber.org/zap"
)

// workload holds the messages that were placed and have not ended: those that
// wait in a service's queue and those whose handlers run.
type workload struct {
	mu      sync.Mutex
	first   *inbound
	n       int
	excused int           // of n: their handlers wait for Close
	less    chan struct{} // closed when one has ended; nil where nobody waits
}

// loadState is where a message stands in the workload.
type loadState struct{ placed, runs, excused bool }

// add notes that a message was placed.
func (w *workload) add(in *inbound) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in.state.placed = true
	in.next = w.first
	if w.first != nil {
		w.first.prev = in
	}
	w.first = in
	w.n++
}

// start notes that its handler runs.
func (w *workload) start(in *inbound) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in.state.runs = true
}

// remove notes that it has ended, once.
func (w *workload) remove(in *inbound) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !in.state.placed {
		return
	}
	if in.prev != nil {
		in.prev.next = in.next
	} else {
		w.first = in.next
	}
	if in.next != nil {
		in.next.prev = in.prev
	}
	in.prev, in.next = nil, nil
	w.n--
	if in.state.excused {
		w.excused--
	}
	in.state = loadState{}
	w.wake()
}

// wake is called under the lock.
func (w *workload) wake() {
	if w.less != nil {
		close(w.less)
		w.less = nil
	}
}

func (w *workload) running() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for in := w.first; in != nil; in = in.next {
		if in.state.runs {
			n++
		}
	}
	return n
}

// left returns what has not ended, but for the excused.
func (w *workload) left() (ins []*inbound) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for in := w.first; in != nil; in = in.next {
		if !in.state.excused {
			ins = append(ins, in)
		}
	}
	return ins
}

// excuse keeps Close from waiting for a handler that waits for Close.
func (w *workload) excuse(in *inbound) {
	w.mu.Lock()
	if in.state.placed && !in.state.excused {
		in.state.excused = true
		w.excused++
		w.wake()
	}
	w.mu.Unlock()
	in.req.Excuse()
}

// pending returns a channel that is closed when something has ended; nil where
// nothing is left but the excused.
func (w *workload) pending() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n == w.excused {
		return nil
	}
	if w.less == nil {
		w.less = make(chan struct{})
	}
	return w.less
}

// wait returns when everything but the excused has ended, or ctx has.
func (w *workload) wait(ctx context.Context) {
	for less := w.pending(); less != nil; less = w.pending() {
		select {
		case <-less:
		case <-ctx.Done():
			return
		}
	}
}

// endAll ends the contexts of the handlers that still run.
func (w *workload) endAll() {
	for _, in := range w.left() {
		in.end(cancelled)
	}
}

// nameLeft names the handlers that run on although their contexts have ended.
func (w *workload) nameLeft(log *zap.Logger) {
	for _, in := range w.left() {
		log.Warn("a handler still runs after the mesh was closed", zap.String("service", in.address()),
			zap.String("method", in.req.Method), zap.String("peer", in.req.Peer.Process))
	}
}
