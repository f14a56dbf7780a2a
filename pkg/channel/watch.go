package channel

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Watcher is told of the changes of nodes, in order. A slow one misses nothing
// but states of a node that were followed by another of the same node (M38).
type Watcher struct {
	m     *Manager
	nodes map[string]bool // nil: every node
	wake  chan struct{}   // has room for one

	mu      sync.Mutex
	pending map[string]NodeInfo
	order   []string
}

// Watch begins to watch nodes, and keeps those that it names linked until Stop
// (M16). It begins with their present states; without names, with every node
// that is not absent. Stop must be called.
func (m *Manager) Watch(nodes ...string) *Watcher {
	w := &Watcher{m: m, wake: make(chan struct{}, 1), pending: make(map[string]NodeInfo)}
	if len(nodes) > 0 {
		w.nodes = make(map[string]bool, len(nodes)) // never changed once it is known to others
		for _, n := range nodes {
			w.nodes[n] = true
		}
	}
	m.mu.Lock()
	m.watchers[w] = struct{}{}
	m.mu.Unlock()
	if w.nodes == nil {
		for _, s := range m.all() {
			w.present(s, false)
		}
		return w
	}
	seen := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		if !seen[n] {
			seen[n] = true
			w.present(m.sender(n), true)
		}
	}
	return w
}

// present tells the state of a node now, under the sender's lock, so that no
// change comes between.
func (w *Watcher) present(s *sender, named bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.node.info(); named || i.State != StateAbsent {
		w.put(i)
	}
	if named {
		s.node.want()
	}
}

// Stop ends the watching and lets go of the nodes.
func (w *Watcher) Stop() {
	w.m.mu.Lock()
	delete(w.m.watchers, w)
	w.m.mu.Unlock()
	for n := range w.nodes {
		s := w.m.sender(n)
		s.mu.Lock()
		s.node.unwant()
		s.mu.Unlock()
	}
}

// Next waits for the next change. It returns false when ctx or the manager has
// ended.
func (w *Watcher) Next(ctx context.Context) (NodeInfo, bool) {
	for {
		w.mu.Lock()
		if len(w.order) > 0 {
			i := w.pending[w.order[0]]
			delete(w.pending, w.order[0])
			w.order = w.order[1:]
			w.mu.Unlock()
			return i, true
		}
		w.mu.Unlock()
		select {
		case <-w.wake:
		case <-ctx.Done():
			return NodeInfo{}, false
		case <-w.m.ctx.Done():
			return NodeInfo{}, false
		}
	}
}

func (w *Watcher) put(i NodeInfo) {
	if _, named := w.nodes[i.Node]; w.nodes != nil && !named {
		return
	}
	w.mu.Lock()
	if _, waits := w.pending[i.Node]; !waits {
		w.order = append(w.order, i.Node)
	}
	w.pending[i.Node] = i
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (m *Manager) tell(i NodeInfo) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for w := range m.watchers {
		w.put(i)
	}
}

// stateLog writes changes of state into the log. They come under a sender's
// lock, where nobody may wait for a log that blocks: a goroutine writes them,
// for as long as there are some.
type stateLog struct {
	mu      sync.Mutex
	waiting []NodeInfo
	runs    bool
	rests   chan struct{} // closed when it does not run any more
}

// maxWaitingStates bounds the changes that wait for a log that blocks; more are
// not logged, and counted.
const maxWaitingStates = 1024

func (m *Manager) logState(i NodeInfo) {
	l := &m.states
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) >= maxWaitingStates {
		m.Counters.LogLost.Add(1)
		return
	}
	l.waiting = append(l.waiting, i)
	if !l.runs {
		l.runs, l.rests = true, make(chan struct{})
		go m.writeStates()
	}
}

func (m *Manager) writeStates() {
	l := &m.states
	for {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.runs = false
			close(l.rests)
			l.mu.Unlock()
			return
		}
		i := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.mu.Unlock()
		log := m.opt.Logger.Info
		if i.State == StateLost {
			log = m.opt.Logger.Warn
		}
		log("node "+i.State.String(), zap.String("node", i.Node), zap.String("addr", i.Addr),
			zap.String("peer", i.Process), zap.Uint32("incarnation", i.Incarnation), zap.String("reason", i.Reason))
	}
}

// flush waits until what was told is written, if the log takes it soon.
func (l *stateLog) flush() {
	l.mu.Lock()
	runs, rests := l.runs, l.rests
	l.mu.Unlock()
	if !runs {
		return
	}
	bound := time.NewTimer(logBound)
	defer bound.Stop()
	select {
	case <-rests:
	case <-bound.C:
	}
}

// logBound is how long the end of a process waits for a log that blocks.
const logBound = 200 * time.Millisecond
