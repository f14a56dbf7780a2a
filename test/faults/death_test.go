//go:build faults

package faults_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// holding starts n calls that their node holds, and waits until all have begun.
func holding(t *testing.T, h *history, m *mesh.Mesh, n *node, calls int, limit time.Duration) *sync.WaitGroup {
	t.Helper()
	before := len(n.begun())
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			_ = h.call(ctx, m, "db@hold", 0)
		})
	}
	until(t, "all calls have begun", 30*time.Second, func() bool { return len(n.begun()) == before+calls })
	return &wg
}

// F1: a peer is killed with 10,000 calls in flight: 10,000 outcomes, each once,
// all maybe executed, at once.
func TestF1Kill(t *testing.T) {
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	wg := holding(t, h, m, n, 10_000, time.Minute)
	took := timed(t, "10,000 outcomes", time.Second+slack, func() { n.kill(); wg.Wait() })
	t.Logf("all outcomes %s after the kill; process: %s", took.Round(time.Millisecond), n.cmd.ProcessState)
	if s := n.cmd.ProcessState.String(); s != "signal: killed" {
		t.Errorf("the process was not killed: %s", s)
	}
	if c := h.count(); c["maybe executed"] != 10_000 {
		t.Errorf("%v", c)
	}
	for _, e := range h.entries {
		if status.Code(e.err) != codes.Aborted || !errors.Is(e.err, mesh.ErrLinkBroken) {
			t.Fatalf("%s: %v", e.id, e.err)
		}
	}
	h.check()
}

// F2, F6: a peer is killed and started again under load, five times: what was
// told not sent did not run, nothing runs twice, the first success comes within
// B and a second, and each life is seen to come and to go.
func TestF2F6KillAndRestart(t *testing.T) {
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	var lives []uint32
	watch, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		for i := range m.Watch(watch) {
			if i.State == mesh.Up {
				lives = append(lives, i.Incarnation)
			}
		}
	})
	l := h.begin(m, "db@echo", 64, 100, 20*time.Second)
	l.goesOn(200, 20*time.Second)
	for range 5 {
		n.kill()
		n.start()
		timed(t, "the first success after a restart", backoff+time.Second+slack, func() { l.goesOn(1, 20*time.Second) })
		l.goesOn(200, 20*time.Second)
	}
	l.stop()
	stop()
	watching.Wait()
	seen := make(map[uint32]bool)
	for _, life := range lives {
		seen[life] = true
	}
	if len(seen) != 6 {
		t.Errorf("6 lives, seen %x", lives)
	}
	if c := h.count(); c["maybe executed"] == 0 {
		t.Errorf("no kill hit a call: %v", c)
	}
	t.Logf("%v, %+v dials", h.count(), m.Stats().Dials)
	h.check()
}

// F3: a stopped peer is found within P and T; deadlines are kept meanwhile; late
// replies complete nothing twice.
func TestF3Stop(t *testing.T) {
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	held := holding(t, h, m, n, 1000, time.Minute)
	n.signal(syscall.SIGSTOP)
	t.Cleanup(func() { _ = n.cmd.Process.Signal(syscall.SIGCONT) })
	until(t, "the process is stopped", slack, func() bool { return n.state() == "T" })
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	timed(t, "a call with a deadline of 1 s", time.Second+slack, func() {
		if err := h.call(ctx, m, "db@echo", 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	held.Wait()
	if took := time.Since(start); took < silence-beat || took > silence+beat+slack {
		t.Errorf("the peer was found after %s", took)
	} else {
		t.Logf("found after %s", took.Round(time.Millisecond))
	}
	n.signal(syscall.SIGCONT)
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := h.call(ctx, m, "db@echo", 0, mesh.WaitUp); err != nil {
		t.Error(err)
	}
	h.check()
}

// F4: a peer that is stopped for a third of T is late and not lost.
func TestF4ShortStop(t *testing.T) {
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	l := h.begin(m, "db@echo", 16, 100, 20*time.Second)
	l.goesOn(100, 20*time.Second)
	n.signal(syscall.SIGSTOP)
	until(t, "the process is stopped", slack, func() bool { return n.state() == "T" })
	time.Sleep(silence / 3) // the fault itself
	n.signal(syscall.SIGCONT)
	l.goesOn(1000, 20*time.Second)
	l.stop()
	if s := m.Stats(); s.LinksLost != 0 || h.count()["ok"] != int(l.made.Load()) {
		t.Errorf("%d links lost, %v", s.LinksLost, h.count())
	}
	h.check()
}

// F5: a peer that is told to end under load finishes what it took; calls after
// its goaway wait for its next life; it exits with 0 in time, and at once at a
// second signal.
func TestF5Terminate(t *testing.T) {
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	l := h.begin(m, "db@slow", 64, 100, 25*time.Second)
	l.goesOn(200, 20*time.Second)
	for range 3 {
		n.signal(syscall.SIGTERM)
		if code := n.exit(n.config.Drain + time.Second + slack); code != 0 {
			t.Errorf("exit code %d", code)
		}
		n.start()
		l.goesOn(200, 20*time.Second)
	}
	l.stop()
	if c := h.count(); c["ok"] != int(l.made.Load()) {
		t.Errorf("an orderly restart failed calls: %v", c)
	}
	if m.Stats().LinksLost != 0 {
		t.Errorf("%d links broke", m.Stats().LinksLost)
	}
	held := holding(t, h, m, n, 1, time.Minute)
	n.signal(syscall.SIGTERM)
	until(t, "the goaway is seen", slack, func() bool { return m.Node("db").State == mesh.Leaving })
	n.signal(syscall.SIGTERM)
	if code := n.exit(slack); code != 143 {
		t.Errorf("after a second signal: exit code %d", code)
	}
	held.Wait()
	h.check()
}

// F5: three nodes restart in turn under 64 callers, and no call fails.
func TestF5RollingRestart(t *testing.T) {
	var nodes []*node
	table := mesh.Table{}
	for i := range 3 {
		n := newNode(t, fmt.Sprintf("db%d", i)).start()
		nodes = append(nodes, n)
		table[n.name] = n.addr
	}
	h := newHistory(t, nodes...)
	m := client(t, "client", table)
	var loads []*load
	for _, n := range nodes {
		loads = append(loads, h.begin(m, n.name+"@slow", 22, 100, 25*time.Second))
	}
	for _, n := range nodes {
		for _, l := range loads {
			l.goesOn(100, 20*time.Second)
		}
		n.signal(syscall.SIGTERM)
		if code := n.exit(n.config.Drain + time.Second + slack); code != 0 {
			t.Errorf("exit code %d", code)
		}
		n.start()
	}
	for _, l := range loads {
		l.goesOn(100, 20*time.Second)
		l.stop()
	}
	c := h.count()
	if len(c) != 1 || c["ok"] == 0 {
		t.Errorf("%v", c)
	}
	t.Log(c)
	h.check()
}

// F7: a peer that dies every 300 ms for 10 s is dialled no faster than backoff
// allows, and is well afterwards.
func TestF7CrashLoop(t *testing.T) {
	n := newNode(t, "db")
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.config.Addr})
	l := h.begin(m, "db@echo", 4, 100, 20*time.Second)
	lives := 0
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); lives++ {
		n.start()
		time.Sleep(300 * time.Millisecond) // the fault itself
		n.kill()
	}
	dials := m.Stats().Dials
	// 100, 200, 400 ... at half their length, and 1.5 s at least from the sixth on.
	if dials > 20 {
		t.Errorf("%d dials in 10 s", dials)
	}
	n.start()
	l.goesOn(100, 20*time.Second)
	l.stop()
	t.Logf("%d lives, %d dials, %v", lives, dials, h.count())
	h.check()
}

// F8: handlers panic, with a text, with an error, with nil: their callers get
// INTERNAL and no word of it; 99 calls beside them succeed.
func TestF8Panics(t *testing.T) {
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for range 99 {
		wg.Go(func() {
			if err := h.call(ctx, m, "db@slow", 0); err != nil {
				t.Error(err)
			}
		})
	}
	for _, method := range []string{"text", "error", "nil"} {
		err := h.method(ctx, m, "db@panic", method, 0)
		if status.Code(err) != codes.Internal || !errors.Is(err, mesh.ErrPanic) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", method, err)
		}
	}
	wg.Wait()
	if s := n.stats(); s.Panics != 3 {
		t.Errorf("%d panics are counted", s.Panics)
	}
	h.check()
}

// F9: a handler that ignores its context for ever: its caller's deadline is
// kept, its place stays counted, and the end of the process comes in time.
func TestF9DeafHandler(t *testing.T) {
	n := newNode(t, "db")
	n.config.Drain = time.Second
	n.start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	timed(t, "the deadline", 550*time.Millisecond+slack, func() {
		if err := h.call(ctx, m, "db@deaf", 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	if s := n.stats(); s.Running != 1 {
		t.Errorf("%d handlers run", s.Running)
	}
	n.signal(syscall.SIGTERM)
	if code := n.exit(n.config.Drain + time.Second + slack); code != 0 {
		t.Errorf("exit code %d", code)
	}
	h.check()
}

// F10: a hub with 200 clients dies and comes back: all are back within 10 s, and
// their dials are spread.
func TestF10HubDies(t *testing.T) {
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	const clients = 200
	all := make([]*mesh.Mesh, clients)
	for i := range all {
		all[i] = client(t, fmt.Sprintf("client-%d", i), mesh.Table{"db": n.addr})
	}
	reach := func(limit time.Duration) {
		t.Helper()
		var wg sync.WaitGroup
		var back atomic.Int64
		for _, m := range all {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				defer cancel()
				if err := h.call(ctx, m, "db@echo", 0, mesh.WaitUp); err == nil {
					back.Add(1)
				} else {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if back.Load() != clients {
			t.Errorf("%d of %d are back", back.Load(), clients)
		}
	}
	reach(30 * time.Second)
	n.kill()
	until(t, "the kill is seen by all", 10*time.Second, func() bool {
		for _, m := range all {
			if m.Stats().LinksLost == 0 {
				return false
			}
		}
		return true
	})
	n.start()
	timed(t, "the return of 200 clients", 10*time.Second, func() { reach(20 * time.Second) })
	h.check()
}
