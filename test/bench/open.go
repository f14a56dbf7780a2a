package main

import (
	"context"
	"errors"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The shape of an open loop.
const (
	openWorkersMax = 1024                   // at most so many calls at once; more wait, and their waiting counts
	openTick       = 100 * time.Microsecond // calls begin in groups so far apart, unless they are rarer
)

// openLoad starts calls at a fixed rate, whether earlier ones have ended or
// not. A latency counts from the moment at which the call was due, so that what
// is late because the system is slow counts as slow (no coordinated omission).
func openLoad(rate func(*bout) float64, size int) load {
	return func(ctx context.Context, b *bout, d time.Duration) (metrics, *faults, error) {
		offered := rate(b)
		if offered <= 0 {
			return nil, nil, errors.New("there is no closed-loop rate to take a share of")
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		workers, err := openWorkers(ctx, b.client, openWorkersMax, 0, size)
		if err != nil {
			return nil, nil, err
		}
		defer closeWorkers(workers)
		g, lat := newGate(cancel), newLatencies()
		p := &pacer{gate: g, rate: offered, due: make(chan time.Time, 1<<16), lag: hdrhistogram.New(500, int64(maxLatency), 3)}
		go paced(func(sleep func(time.Duration)) { p.run(ctx, d, sleep) })
		for _, w := range workers {
			g.run(func() { serveDue(g, w, p.due, lat) })
		}
		took, err := g.open(ctx, d+graceTime)
		if err != nil {
			return nil, &g.faults, err
		}
		if err := finish(workers); err != nil {
			g.faults.add(err)
		}
		h := lat.merged()
		n := float64(h.TotalCount())
		m := metrics{mOps: n, mRate: n / took.Seconds(), mOffered: offered, mLag: quantile(p.lag, 99)}
		m[mMBps] = m[mRate] * float64(size) / 1e6
		putQuantiles(m, h)
		return m, &g.faults, nil
	}
}

func serveDue(g *gate, w *worker, due <-chan time.Time, lat *latencies) {
	for at := range due {
		if g.over.Load() {
			g.faults.add(errors.New("the offered rate was too much: calls were never made"))
			continue
		}
		if err := w.call(); err != nil {
			g.faults.add(err)
			continue
		}
		lat.record(w.id, time.Since(at))
	}
}

// pacer says when calls are due.
type pacer struct {
	gate *gate
	rate float64
	due  chan time.Time // closed when the time is over
	lag  *hdrhistogram.Histogram
}

func (p *pacer) run(ctx context.Context, d time.Duration, sleep func(time.Duration)) {
	defer close(p.due)
	<-p.gate.start
	tick := max(openTick, time.Duration(float64(time.Second)/p.rate))
	begun, made := time.Now(), int64(0)
	for k := int64(1); ; k++ {
		offset := time.Duration(k) * tick
		if offset > d || made >= maxOperations || ctx.Err() != nil {
			return
		}
		at := begun.Add(offset)
		if wait := time.Until(at); wait > 0 {
			sleep(wait)
		}
		_ = p.lag.RecordValue(int64(min(max(time.Since(at), 0), maxLatency)))
		for ; made < int64(p.rate*offset.Seconds()); made++ {
			p.due <- at // workers take it until the channel is closed
		}
	}
}
