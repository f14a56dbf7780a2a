package main

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestMain lets the test binary be the processes that startServer and runPoint
// start.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "server") || slices.Contains(os.Args, "point") {
		main()
		return
	}
	os.Exit(m.Run())
}

func testRunner() *runner {
	return &runner{rounds: 3, time: 50 * time.Millisecond, contestants: contestants, progress: os.Stderr, results: &results{Contestants: map[string]string{}}}
}

// Every contestant echoes, pushes and serves an open loop without an error, in
// processes of its own.
func TestEveryContestantIsRight(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	cells, err := chooseCells("closed/1KiB/16,closed/256KiB/16,open-same/64B/30,push/64B/64", false)
	if err != nil {
		t.Fatal(err)
	}
	r := testRunner()
	if err := r.run(t.Context(), cells, func(*cellResult) {}); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.results.Cells {
		for _, s := range c.Scores {
			if s.Errors > 0 {
				t.Errorf("%s %s: %d errors: %v", c.Name, s.Name, s.Errors, s.ErrorTexts)
			}
			if s.Skipped == "" && len(s.Rounds) != r.rounds {
				t.Errorf("%s %s: %d rounds of %d", c.Name, s.Name, len(s.Rounds), r.rounds)
			}
		}
	}
	dir := t.TempDir()
	if n, err := writeCharts(dir, r.results); err != nil || n == 0 {
		t.Errorf("%d charts, %v", n, err)
	}
	if err := r.results.write(filepath.Join(dir, "results.json")); err != nil {
		t.Error(err)
	}
}

// liar answers with another call's reply, or loses a byte.
type liar struct{ lie func([]byte) []byte }

func (l liar) call(p []byte) ([]byte, error) { return l.lie(slices.Clone(p)), nil }
func (liar) push([]byte) error               { return nil }
func (liar) close() error                    { return nil }

func TestWrongRepliesAreErrors(t *testing.T) {
	for name, lie := range map[string]func([]byte) []byte{
		"short":   func(b []byte) []byte { return b[:len(b)-1] },
		"other's": func(b []byte) []byte { stamp(b, 1); return b },
		"changed": func(b []byte) []byte { b[len(b)-1]++; return b },
	} {
		w := &worker{caller: liar{lie}, payload: filled(64), next: 1 << 40}
		if err := w.call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	w := &worker{caller: liar{func(b []byte) []byte { return b }}, payload: filled(64)}
	if err := w.call(); err != nil {
		t.Error(err)
	}
}

// A pause of the system counts for all calls that were due in it.
func TestOpenLoopOmitsNothing(t *testing.T) {
	pause := 100 * time.Millisecond
	first := true
	c := pausing{func() {
		if first {
			first = false
			time.Sleep(pause)
		}
	}}
	g, lat := newGate(func() {}), newLatencies()
	p := &pacer{gate: g, rate: 1000, due: make(chan time.Time, 1<<10), lag: newLatencies().merged()}
	go paced(func(sleep func(time.Duration)) { p.run(context.Background(), 2*pause, sleep) })
	w := &worker{caller: c, payload: filled(64)}
	g.run(func() { serveDue(g, w, p.due, lat) })
	if _, err := g.open(context.Background(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	h := lat.merged()
	if h.TotalCount() < 190 {
		t.Errorf("%d calls of 200", h.TotalCount())
	}
	// Half of the calls were due during the pause; a loop that waits for each
	// reply would count it once.
	if p75 := quantile(h, 75); p75 < 20_000 {
		t.Errorf("p75 is %.0f µs", p75)
	}
}

type pausing struct{ f func() }

func (p pausing) call(b []byte) ([]byte, error) {
	p.f()
	return b, nil
}
func (pausing) push([]byte) error { return nil }
func (pausing) close() error      { return nil }

func TestMedianAndRatios(t *testing.T) {
	if m := median([]metrics{{mRate: 1}, {mRate: 9}, {mRate: 2}}); m[mRate] != 2 {
		t.Errorf("median %v", m)
	}
	if m := median([]metrics{{mRate: 1}, {mRate: 2}}); m[mRate] != 1.5 {
		t.Errorf("median of two %v", m)
	}
	c := &cellResult{Scores: []*score{
		{Name: "mesh", Group: groupMesh, Rounds: []metrics{{mRate: 80, mP99: 10}}},
		{Name: "wire", Group: groupWire, Rounds: []metrics{{mRate: 100, mP99: 5}}},
		{Name: "nats", Group: groupPeer, Rounds: []metrics{{mRate: 40, mP99: 20}}},
		{Name: "grpc-unary", Group: groupPeer, Rounds: []metrics{{mRate: 20, mP99: 8}}},
		{Name: "protoactor", Group: groupPeer, Errors: 1, Rounds: []metrics{{mRate: 400, mP99: 1}}},
	}}
	c.rate(cell{headline: mRate})
	mesh := c.Scores[0].Ratios
	for to, want := range map[string]metrics{toWire: {mRate: 0.8, mP99: 2}, toPeer: {mRate: 2, mP99: 1.25}} {
		for k, v := range want {
			if math.Abs(mesh[to][k]-v) > 1e-9 {
				t.Errorf("%s to %s: %v, want %v", k, to, mesh[to][k], v)
			}
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, x := range []struct {
		patterns, name string
		want           bool
	}{
		{"", "closed/64B/1", true}, {"closed", "closed/64B/1", true}, {"closed/64B", "closed/64B/1", true},
		{"closed/*/64", "closed/1KiB/64", true}, {"closed/*/64", "closed/1KiB/1", false}, {"push,mix/*", "mix/same", true}, {"open", "open-same/64B/30", false},
	} {
		if got, err := matches(x.patterns, x.name); got != x.want || err != nil {
			t.Errorf("%q %q: %v, %v", x.patterns, x.name, got, err)
		}
	}
}
