//go:build faults

package faults_test

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meshnode/meshnode/pkg/access"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// A soak's environment, which `make soak` sets.
const (
	durationEnv = "SOAK_DURATION" // how long faults are made; 40 s without it
	seedEnv     = "SOAK_SEED"     // of the plan; random without it, and printed
)

// planned is one fault of a plan.
type planned struct {
	at   time.Duration
	kind string
	node int
	last time.Duration // how long it lasts
}

const soakNodes = 5

// faultKinds are what a soak does, each with its longest time.
var faultKinds = map[string]time.Duration{
	"kill":          500 * time.Millisecond,
	"terminate":     500 * time.Millisecond,
	"stop short":    2 * time.Second,
	"stop long":     8 * time.Second,
	"hole":          8 * time.Second,
	"hole up":       8 * time.Second,
	"hole down":     8 * time.Second,
	"reset":         0,
	"half close":    0,
	"slow line":     3 * time.Second,
	"thin line":     3 * time.Second,
	"corruption":    time.Second,
	"down":          time.Second,
	"absent":        time.Second,
	"move":          time.Second,
	"cancels":       time.Second,
	"large":         2 * time.Second,
	"unknown names": time.Second,
	"new keys":      0,
}

// plan is what a seed says: the same seed gives the same plan.
func plan(seed uint64, d time.Duration) (faults []planned) {
	r := rand.New(rand.NewPCG(seed, 77))
	kinds := slices.Sorted(maps.Keys(faultKinds))
	for at := time.Second; at < d; at += time.Duration(500+r.IntN(2500)) * time.Millisecond {
		kind := kinds[r.IntN(len(kinds))]
		long := faultKinds[kind]
		if long > 0 {
			long = long/4 + time.Duration(r.Int64N(int64(long-long/4)))
		}
		faults = append(faults, planned{at, kind, r.IntN(soakNodes), long})
	}
	return faults
}

// site is one node of a soak, and the proxy before it.
type site struct {
	mu    sync.Mutex // one fault at a time
	node  *node
	proxy *proxy
}

// soak is a run.
type soak struct {
	t     *testing.T
	m     *mesh.Mesh
	sites [soakNodes]*site
	dir   string
	ca    *access.Authority
	log   *bufio.Writer // id, outcome: a line a call
	mu    sync.Mutex    // of log and what follows
	count map[string]int
	made  map[string]int // faults
	back  []time.Duration
	next  atomic.Int64
	wrong atomic.Int64
}

// F50: everything at once, from a seed: no violation, memory and goroutines as
// before, and every node is well at the end.
func TestF50Soak(t *testing.T) {
	d := 40 * time.Second
	if text := os.Getenv(durationEnv); text != "" {
		var err error
		if d, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	if text := os.Getenv(seedEnv); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d DURATION=%s", seed, d)
	if !slices.Equal(plan(seed, d), plan(seed, d)) {
		t.Error("the same seed gives another plan")
	}
	s := newSoak(t)
	s.wellAgain() // with every link up
	s.back = nil
	goroutines := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(context.Background())
	var load, faults sync.WaitGroup
	for i := range 20 {
		load.Go(func() { s.callers(ctx, i) })
	}
	memory := s.watchMemory(ctx, &load, d)
	start := time.Now()
	for _, f := range plan(seed, d) {
		time.Sleep(time.Until(start.Add(f.at)))
		faults.Go(func() { s.make(f) })
	}
	time.Sleep(time.Until(start.Add(d)))
	faults.Wait()
	s.wellAgain()
	cancel()
	load.Wait()
	until(t, "the goroutines of the load are gone", 20*time.Second, func() bool { return runtime.NumGoroutine() <= goroutines+20 })
	early, late, nodes := memory()
	s.report(early, late, nodes, goroutines)
}

func newSoak(t *testing.T) *soak {
	s := &soak{t: t, dir: t.TempDir(), count: make(map[string]int), made: make(map[string]int)}
	var err error
	if s.ca, err = access.NewAuthority("soak", 48*time.Hour); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(s.dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	s.log = bufio.NewWriter(file)
	table := mesh.Table{}
	for i := range s.sites {
		n := newNode(t, fmt.Sprintf("n%d", i))
		n.config.TLS = certificate(t, s.ca, n.name, s.dir)
		n.start()
		s.sites[i] = &site{node: n, proxy: newProxy(t, n.config.Addr)}
		table[n.name] = s.sites[i].proxy.addr()
	}
	s.m = client(t, "client", table, func(o *mesh.Options) { o.TLS = certificate(t, s.ca, "client", s.dir) })
	return s
}

// callers is one caller: calls and pushes to nodes in turn, now and then a large
// one, each with a deadline.
func (s *soak) callers(ctx context.Context, who int) {
	r := rand.New(rand.NewPCG(uint64(who), 1))
	for ctx.Err() == nil {
		size := r.IntN(2000)
		if r.IntN(50) == 0 {
			size = r.IntN(300_000)
		}
		name := []string{"@echo", "@serial", "@slow"}[r.IntN(3)]
		s.call(context.Background(), r.IntN(soakNodes), name, size, 15*time.Second)
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (s *soak) call(ctx context.Context, node int, name string, size int, limit time.Duration) error {
	id := fmt.Sprintf("c%d", s.next.Add(1))
	payload := id + " " + strings.Repeat("x", size)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	reply, err := s.m.Call(ctx, s.sites[node].node.name+name, "GO", []byte(payload))
	outcome := "ok"
	switch {
	case err != nil:
		outcome = mesh.VerdictOf(err).String()
	case string(reply) != payload:
		s.wrong.Add(1)
		s.t.Errorf("%s has the reply of another", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count[outcome]++
	fmt.Fprintf(s.log, "%s %s\n", id, strings.ReplaceAll(outcome, " ", "-"))
	return err
}

// make makes one fault, and mends it.
func (s *soak) make(f planned) {
	x := s.sites[f.node]
	x.mu.Lock()
	defer x.mu.Unlock()
	s.mu.Lock()
	s.made[f.kind]++
	s.mu.Unlock()
	pause := func() { time.Sleep(f.last) }
	lanes := []*lane{&x.proxy.up, &x.proxy.down}
	switch f.kind {
	case "kill":
		x.node.kill()
		pause()
		x.node.start()
	case "terminate":
		x.node.signal(syscall.SIGTERM)
		x.node.exit(x.node.config.Drain + 5*time.Second)
		pause()
		x.node.start()
	case "stop short", "stop long":
		x.node.signal(syscall.SIGSTOP)
		pause()
		x.node.signal(syscall.SIGCONT)
	case "hole up":
		lanes = lanes[:1]
		fallthrough
	case "hole":
		s.during(lanes, func(l *lane, on bool) { l.hole.Store(on) }, pause)
	case "hole down":
		s.during(lanes[1:], func(l *lane, on bool) { l.hole.Store(on) }, pause)
	case "reset":
		x.proxy.reset()
	case "half close":
		x.proxy.finish()
	case "slow line":
		s.during(lanes, func(l *lane, on bool) { l.delay.Store(amount(on, int64(150*time.Millisecond))) }, pause)
	case "thin line":
		s.during(lanes, func(l *lane, on bool) { l.rate.Store(amount(on, 200_000)) }, pause)
	case "corruption":
		s.during(lanes, func(l *lane, on bool) { l.corrupt.Store(amount(on, 50_000)) }, pause)
	default:
		s.stir(f, x, pause)
		return
	}
	s.reconnects(f.node)
}

// stir makes the faults that are of the mesh's own making.
func (s *soak) stir(f planned, x *site, pause func()) {
	table := func(v any) {
		if err := s.m.Reload(mesh.Table{x.node.name: v}); err != nil {
			s.t.Error(err)
		}
	}
	switch f.kind {
	case "down":
		table(false)
		pause()
		table(x.proxy.addr())
	case "absent":
		table(nil)
		pause()
		table(x.proxy.addr())
	case "move":
		table(x.node.config.Addr)
		pause()
		table(x.proxy.addr())
	case "cancels":
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { _ = s.call(context.Background(), f.node, "@hold", 10, f.last/4) })
		}
		wg.Wait()
	case "large":
		_ = s.call(context.Background(), f.node, "@echo", 4<<20, 15*time.Second)
	case "unknown names":
		for i := range 500 {
			ctx, cancel := context.WithTimeout(context.Background(), f.last)
			_ = s.m.Send(ctx, x.node.name+"@nobody"+strconv.Itoa(i), "GO", nil)
			cancel()
		}
	case "new keys":
		certificate(s.t, s.ca, x.node.name, s.dir)
	}
	s.reconnects(f.node)
}

func amount(on bool, n int64) int64 {
	if on {
		return n
	}
	return 0
}

func (s *soak) during(lanes []*lane, set func(*lane, bool), pause func()) {
	for _, l := range lanes {
		set(l, true)
	}
	pause()
	for _, l := range lanes {
		set(l, false)
	}
}

// reconnects notes how long it takes from the end of a fault to a success.
func (s *soak) reconnects(node int) {
	start := time.Now()
	for s.call(context.Background(), node, "@echo", 10, 10*time.Second) != nil {
		if time.Since(start) > 30*time.Second {
			s.t.Errorf("node %d did not come back in 30 s", node)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.mu.Lock()
	s.back = append(s.back, time.Since(start))
	s.mu.Unlock()
}

// wellAgain waits until every node answers.
func (s *soak) wellAgain() {
	for i := range s.sites {
		s.reconnects(i)
	}
}

// watchMemory samples what this process holds. The result is the most after the
// first third, and the most before.
func (s *soak) watchMemory(ctx context.Context, wg *sync.WaitGroup, d time.Duration) func() (early, late, nodes int64) {
	var early, late, nodes int64
	start := time.Now()
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			if held := int64(m.HeapAlloc); time.Since(start) < min(d/3, time.Minute) {
				early = max(early, held)
			} else {
				late = max(late, held)
			}
			for _, x := range s.sites {
				if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", x.pid())); err == nil {
					var pages, resident int64
					if _, err := fmt.Sscan(string(text), &pages, &resident); err == nil {
						nodes = max(nodes, resident*int64(os.Getpagesize()))
					}
				}
			}
		}
	})
	return func() (int64, int64, int64) { return early, late, nodes }
}

// pid is of the life that runs now; 0 while a fault is being made.
func (x *site) pid() int {
	if !x.mu.TryLock() {
		return 0
	}
	defer x.mu.Unlock()
	return x.node.cmd.Process.Pid
}

// report holds the run against its history, and prints what it was.
func (s *soak) report(early, late, nodes int64, goroutines int) {
	if err := s.log.Flush(); err != nil {
		s.t.Fatal(err)
	}
	violations := s.judge()
	faults := 0
	for _, n := range s.made {
		faults += n
	}
	slices.Sort(s.back)
	at := func(p int) time.Duration { return s.back[(len(s.back)-1)*p/100].Round(time.Millisecond) }
	s.t.Logf("calls by outcome: %v", s.count)
	s.t.Logf("%d faults of %d kinds: %v", faults, len(s.made), s.made)
	s.t.Logf("from the end of a fault to a success: p50 %s, p90 %s, p99 %s, most %s", at(50), at(90), at(99), at(100))
	s.t.Logf("heap of the caller: at most %d KiB in the first third (a minute at most), %d KiB after it; largest node %d MiB; goroutines %d, %d at the start",
		early>>10, late>>10, nodes>>20, runtime.NumGoroutine(), goroutines)
	s.t.Logf("violations: %d", violations)
	if late > 2*early+8<<20 {
		s.t.Errorf("memory grew: %d KiB, then %d KiB", early>>10, late>>10)
	}
	if violations+int(s.wrong.Load()) > 0 {
		s.t.Error("the mesh broke a promise")
	}
}

// judge counts what history.check counts, from files.
func (s *soak) judge() (violations int) {
	began := make(map[string]int)
	for _, x := range s.sites {
		for _, id := range x.node.begun() {
			began[id]++
		}
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "calls"))
	if err != nil {
		s.t.Fatal(err)
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		id, outcome, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, wrong := began[id], ""
		switch {
		case seen[id]:
			wrong = "has two outcomes"
		case n > 1:
			wrong = "ran more than once"
		case outcome == "unknown":
			wrong = "has no verdict"
		case n > 0 && (outcome == "not-sent" || outcome == "rejected"):
			wrong = "ran"
		case n == 0 && (outcome == "ok" || outcome == "handler-failed"):
			wrong = "did not run"
		}
		seen[id] = true
		if wrong != "" {
			if violations++; violations < 10 {
				s.t.Errorf("%s: told %s, and %s", id, outcome, wrong)
			}
		}
	}
	if int64(len(seen)) != s.next.Load() {
		violations++
		s.t.Errorf("%d calls, %d outcomes", s.next.Load(), len(seen))
	}
	return violations
}
