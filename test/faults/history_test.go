//go:build faults

package faults_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// entry is one call as its caller saw it.
type entry struct {
	id         string
	start, end time.Time
	err        error
	done       bool
}

// history is what all callers of a test saw, and the nodes that they called.
type history struct {
	t     *testing.T
	nodes []*node

	mu      sync.Mutex
	entries []*entry
	next    atomic.Int64
}

func newHistory(t *testing.T, nodes ...*node) *history {
	return &history{t: t, nodes: nodes}
}

// call makes one call with an id of its own and notes its outcome.
func (h *history) call(ctx context.Context, m *mesh.Mesh, target string, size int, opts ...grpc.CallOption) error {
	return h.method(ctx, m, target, "GO", size, opts...)
}

func (h *history) method(ctx context.Context, m *mesh.Mesh, target, method string, size int, opts ...grpc.CallOption) error {
	e := &entry{id: fmt.Sprintf("%s-%d", m.Name(), h.next.Add(1)), start: time.Now()}
	h.mu.Lock()
	h.entries = append(h.entries, e)
	h.mu.Unlock()
	payload := e.id + " "
	if n := size - len(payload); n > 0 {
		payload += strings.Repeat("x", n)
	}
	reply, err := m.Call(ctx, target, method, []byte(payload), opts...)
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.done {
		h.t.Errorf("%s has a second outcome: %v", e.id, err)
	}
	e.end, e.err, e.done = time.Now(), err, true
	if err == nil && string(reply) != payload {
		h.t.Errorf("%s has the reply of another: %.40q", e.id, reply)
	}
	return err
}

// count is how many calls ended with each verdict; "ok" is a reply.
func (h *history) count() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := make(map[string]int)
	for _, e := range h.entries {
		n[e.outcome()]++
	}
	return n
}

func (e *entry) outcome() string {
	switch {
	case !e.done:
		return "none"
	case e.err == nil:
		return "ok"
	default:
		return mesh.VerdictOf(e.err).String()
	}
}

// check holds what callers saw against what handlers began (M21, M22, M23): one
// outcome each, at most one execution each, none for what was not sent or
// rejected, exactly one for what has a reply.
func (h *history) check() {
	h.t.Helper()
	began := make(map[string]int)
	for _, n := range h.nodes {
		for _, id := range n.begun() {
			began[id]++
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	wrong := make(map[string][]string)
	note := func(what, id string) { wrong[what] = append(wrong[what], id) }
	for _, e := range h.entries {
		n := began[e.id]
		if n > 1 {
			note("ran more than once", e.id)
		}
		switch verdict := mesh.VerdictOf(e.err); {
		case !e.done:
			note("has no outcome", e.id)
		case e.err == nil && n == 0:
			note("has a reply, and no handler began", e.id)
		case e.err == nil:
		case verdict == 0:
			note("has an error without a verdict: "+e.err.Error(), e.id)
		case (verdict == mesh.NotSent || verdict == mesh.Rejected) && n > 0:
			note("was told "+verdict.String()+", and ran", e.id)
		case verdict == mesh.HandlerFailed && n == 0:
			note("was told that its handler failed, and none began", e.id)
		}
		delete(began, e.id)
	}
	for id := range began {
		if !strings.HasPrefix(id, "push-") {
			note("ran, and nobody called it", id)
		}
	}
	for what, ids := range wrong {
		slices.Sort(ids)
		h.t.Errorf("%d calls: %s: %v", len(ids), what, ids[:min(len(ids), 5)])
	}
}

// load calls a target from some callers until it is stopped.
type load struct {
	h      *history
	cancel context.CancelFunc
	wg     sync.WaitGroup
	made   atomic.Int64
	ok     atomic.Int64
}

// begin starts callers that call again and again, each call within limit.
func (h *history) begin(m *mesh.Mesh, target string, callers, size int, limit time.Duration, opts ...grpc.CallOption) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{h: h, cancel: cancel}
	for range callers {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				one, done := context.WithTimeout(context.Background(), limit)
				err := h.call(one, m, target, size, opts...)
				done()
				l.made.Add(1)
				if err == nil {
					l.ok.Add(1)
				} else if !errors.Is(err, context.DeadlineExceeded) {
					time.Sleep(time.Millisecond) // a failing caller does not spin
				}
			}
		})
	}
	h.t.Cleanup(l.stop)
	return l
}

// stop lets the callers finish the call that they are in.
func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}

// goesOn waits until n more calls have succeeded.
func (l *load) goesOn(n int64, d time.Duration) {
	l.h.t.Helper()
	want := l.ok.Load() + n
	until(l.h.t, fmt.Sprintf("%d more calls succeed (%v)", n, l.h.count()), d, func() bool { return l.ok.Load() >= want })
}

// client is the mesh of the test's own process.
func client(t *testing.T, name string, table mesh.Table, set ...func(*mesh.Options)) *mesh.Mesh {
	t.Helper()
	o := mesh.Options{Name: name, DrainTime: 2 * time.Second}
	for _, f := range set {
		f(&o)
	}
	m, err := mesh.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := m.Reload(table); err != nil {
		t.Fatal(err)
	}
	return m
}

// timed fails the test where f takes longer than d, and returns how long it took.
func timed(t *testing.T, what string, d time.Duration, f func()) time.Duration {
	t.Helper()
	start := time.Now()
	f()
	took := time.Since(start)
	if took > d {
		t.Errorf("%s took %s; at most %s", what, took, d)
	}
	return took
}
