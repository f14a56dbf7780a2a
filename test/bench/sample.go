package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// metrics are the figures of a sample, or medians of several, by name.
type metrics map[string]float64

// The names of metrics. Times are in µs.
const (
	mOps       = "operations"
	mRate      = "rate"   // calls or pushes a second
	mMBps      = "mb_s"   // payload bytes of requests and pushes, in 10^6 a second
	mP50       = "p50_us" // of the calls; in mixes of the small ones
	mP90       = "p90_us"
	mP99       = "p99_us"
	mP999      = "p999_us"
	mMax       = "max_us"
	mCPU       = "cpu_us" // a call or push, both processes: the least noisy of all
	mClientCPU = "client_cpu_us"
	mServerCPU = "server_cpu_us"
	mClientMem = "client_allocs"
	mServerMem = "server_allocs"
	mOffered   = "offered_rate"  // open loop
	mLag       = "pacer_p99_us"  // open loop: how late the load itself was
	mAloneP50  = "alone_p50_us"  // mixes: the small calls without the large ones
	mAloneP99  = "alone_p99_us"  //
	mGrowth    = "p99_growth"    // mixes: p99 by p99 alone
	mLargeMBps = "large_mb_s"    // mixes
	mLargeP50  = "large_p50_us"  // mixes
	mSmallRate = "small_rate"    // mixes
	mLost      = "lost_or_extra" // pushes that did not arrive, or twice
)

// lowerIsBetter tells for which metrics.
func lowerIsBetter(metric string) bool {
	switch metric {
	case mRate, mMBps, mLargeMBps, mSmallRate, mOffered:
		return false
	}
	return true
}

// The bounds of a sample, whatever happens.
const (
	graceTime      = 10 * time.Second // for what is on its way when its time is over
	leaveTime      = 5 * time.Second  // for callers to return once cancelled
	maxOperations  = 50_000_000
	maxErrorsACall = 5 // a caller stops
	keptErrors     = 3 // texts
)

var (
	errNoPushes = errors.New("it has no pushes")
	errHung     = errors.New("callers did not return when their context ended")
)

// faults counts errors and keeps the first texts.
type faults struct {
	mu    sync.Mutex
	count int64
	texts []string
}

func (f *faults) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if len(f.texts) < keptErrors && !slices.Contains(f.texts, err.Error()) {
		f.texts = append(f.texts, err.Error())
	}
}

// latencies is a histogram that many goroutines fill.
type latencies struct{ shards [16]latencyShard }

type latencyShard struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
	_  [48]byte // a cache line each
}

// maxLatency is recorded for what took longer.
const maxLatency = time.Minute

func newLatencies() *latencies {
	l := &latencies{}
	for i := range l.shards {
		l.shards[i].h = hdrhistogram.New(500, int64(maxLatency), 3)
	}
	return l
}

func (l *latencies) record(shard int, d time.Duration) {
	s := &l.shards[shard%len(l.shards)]
	s.mu.Lock()
	_ = s.h.RecordValue(int64(min(max(d, 0), maxLatency))) // in range
	s.mu.Unlock()
}

func (l *latencies) merged() *hdrhistogram.Histogram {
	h := hdrhistogram.New(500, int64(maxLatency), 3)
	for i := range l.shards {
		l.shards[i].mu.Lock()
		h.Merge(l.shards[i].h)
		l.shards[i].mu.Unlock()
	}
	return h
}

func quantile(h *hdrhistogram.Histogram, q float64) float64 {
	return float64(h.ValueAtQuantile(q)) / 1e3
}

func putQuantiles(m metrics, h *hdrhistogram.Histogram) {
	m[mP50], m[mP90], m[mP99] = quantile(h, 50), quantile(h, 90), quantile(h, 99)
	m[mP999], m[mMax] = quantile(h, 99.9), float64(h.Max())/1e3
}

// worker is one caller with its payload; its requests are all different.
type worker struct {
	id      int
	caller  caller
	cancel  context.CancelFunc
	payload []byte
	next    uint64
}

// openWorkers makes n callers, each with a context of its own, as the callers
// of a program have.
func openWorkers(ctx context.Context, c client, n, target, size int) ([]*worker, error) {
	workers := make([]*worker, 0, n)
	for i := range n {
		own, cancel := context.WithCancel(ctx)
		call, err := c.caller(own, target)
		if err != nil {
			cancel()
			closeWorkers(workers)
			return nil, err
		}
		w := &worker{id: i, caller: call, cancel: cancel, payload: filled(size), next: uint64(target)<<52 | uint64(i)<<40}
		workers = append(workers, w)
	}
	return workers, nil
}

func closeWorkers(workers []*worker) {
	for _, w := range workers {
		w.cancel()
	}
}

func filled(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = 'a' + byte(i*7%26)
	}
	return b
}

// call sends the next request and checks its reply: the length and the stamp of
// every one, and all bytes of small ones and of a sample of the others.
func (w *worker) call() error {
	w.next++
	stamp(w.payload, w.next)
	reply, err := w.caller.call(w.payload)
	if err != nil {
		return err
	}
	if len(reply) != len(w.payload) {
		return fmt.Errorf("wrong reply: %d bytes for a request of %d", len(reply), len(w.payload))
	}
	if stampOf(reply) != stampOf(w.payload) {
		return errors.New("wrong reply: it is another call's")
	}
	if (len(reply) <= 1<<10 || w.next%16 == 1) && !bytes.Equal(reply, w.payload) {
		return errors.New("wrong reply: its bytes are not the request's")
	}
	return nil
}

// gate lets all callers of a load begin at once, and ends them.
type gate struct {
	start   chan struct{} // closed when the load begins
	ended   chan struct{} // closed when the last has returned
	running sync.WaitGroup
	over    atomic.Bool // they start nothing more
	faults  faults
	cancel  context.CancelFunc
}

func newGate(cancel context.CancelFunc) *gate {
	return &gate{start: make(chan struct{}), ended: make(chan struct{}), cancel: cancel}
}

func (g *gate) run(f func()) {
	g.running.Go(func() {
		<-g.start
		f()
	})
}

// open begins the load and returns when its time is over and all have
// returned, and how long it took.
func (g *gate) open(ctx context.Context, d time.Duration) (time.Duration, error) {
	go func() {
		g.running.Wait()
		close(g.ended)
	}()
	begun := time.Now()
	close(g.start)
	if !g.wait(ctx, d) {
		g.over.Store(true)
		if !g.wait(ctx, graceTime) {
			g.faults.add(fmt.Errorf("calls were still on their way %v after the end: cancelled", graceTime))
			cause := ctx.Err()
			g.cancel()
			if !g.wait(context.Background(), leaveTime) {
				return time.Since(begun), errHung
			}
			return time.Since(begun), cause // of the end of the run, if that was it
		}
	}
	return time.Since(begun), ctx.Err()
}

func (g *gate) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-g.ended:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// loop calls until the gate is over, and counts what succeeded.
func (g *gate) loop(w *worker, limit int64, lat *latencies, done *atomic.Int64) {
	var failed int
	var n int64
	defer func() { done.Add(n) }()
	last := time.Now()
	for n < limit && !g.over.Load() {
		if err := w.call(); err != nil {
			g.faults.add(err)
			if failed++; failed >= maxErrorsACall {
				return
			}
			last = time.Now()
			continue
		}
		now := time.Now()
		lat.record(w.id, now.Sub(last))
		last = now
		n++
	}
}

// median is the middle of each metric, or the mean of the two in the middle.
func median(rounds []metrics) metrics {
	all := map[string][]float64{}
	for _, r := range rounds {
		for k, v := range r {
			all[k] = append(all[k], v)
		}
	}
	m := metrics{}
	for k, v := range all {
		slices.Sort(v)
		m[k] = (v[(len(v)-1)/2] + v[len(v)/2]) / 2
	}
	return m
}
