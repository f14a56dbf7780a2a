package mesh

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/meshnode/meshnode/pkg/registry"
)

// workload holds the messages that were placed and have not ended: those that
// wait in a service's queue and those whose handlers run.
type workload struct {
	mu   sync.Mutex
	all  map[*inbound]bool // whether its handler runs
	less chan struct{}     // closed when one has ended; nil where nobody waits

	excused map[*inbound]bool // their handlers wait for Close
}

// add notes that a message was placed.
func (w *workload) add(in *inbound) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = make(map[*inbound]bool)
	}
	w.all[in] = false
}

// start notes that its handler runs.
func (w *workload) start(in *inbound) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[in] = true
}

// remove notes that it has ended.
func (w *workload) remove(in *inbound) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, in)
	if w.less != nil {
		close(w.less)
		w.less = nil
	}
}

func (w *workload) running() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, runs := range w.all {
		if runs {
			n++
		}
	}
	return n
}

// left returns what has not ended, but for the excused.
func (w *workload) left() []*inbound {
	w.mu.Lock()
	defer w.mu.Unlock()
	ins := make([]*inbound, 0, len(w.all))
	for in := range w.all {
		if !w.excused[in] {
			ins = append(ins, in)
		}
	}
	return ins
}

// excuse keeps Close from waiting for a handler that waits for Close.
func (w *workload) excuse(in *inbound) {
	w.mu.Lock()
	if w.excused == nil {
		w.excused = make(map[*inbound]bool)
	}
	w.excused[in] = true
	if w.less != nil {
		close(w.less)
		w.less = nil
	}
	w.mu.Unlock()
	in.req.Excuse()
}

// pending returns a channel that is closed when something has ended; nil where
// nothing is left but the excused.
func (w *workload) pending() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.all)
	for in := range w.excused {
		if _, there := w.all[in]; there {
			n--
		}
	}
	if n == 0 {
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
		in.end(context.Canceled)
	}
}

// nameLeft names the handlers that run on although their contexts have ended.
func (w *workload) nameLeft(log *zap.Logger) {
	for _, in := range w.left() {
		log.Warn("a handler still runs after the mesh was closed", zap.String("service", in.address()),
			zap.String("method", in.req.Method), zap.String("peer", in.req.Peer.Process))
	}
}

// serviceMap finds the Service of what the registry found.
type serviceMap struct{ m sync.Map }

// Store adds a service.
func (s *serviceMap) Store(r *registry.Service, v *Service) { s.m.Store(r, v) }

// Delete forgets one.
func (s *serviceMap) Delete(r *registry.Service) { s.m.Delete(r) }

// Load finds one.
func (s *serviceMap) Load(r *registry.Service) (*Service, bool) {
	v, ok := s.m.Load(r)
	if !ok {
		return nil, false
	}
	return v.(*Service), true
}
