package main

import (
	"context"
	"sync/atomic"
	"time"
)

// bout is one contestant in one cell: a server process and a link to it.
type bout struct {
	contestant contestant
	server     *serverProcess
	client     client
	// closedRate is the rate of 64 closed-loop callers, for open loops.
	closedRate float64
}

// load is what one cell does to a bout for a time.
type load func(ctx context.Context, b *bout, d time.Duration) (metrics, *faults, error)

// closedLoad has callers that call again as soon as they have their reply.
func closedLoad(callers, size int) load {
	return func(ctx context.Context, b *bout, d time.Duration) (metrics, *faults, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		workers, err := openWorkers(ctx, b.client, callers, 0, size)
		if err != nil {
			return nil, nil, err
		}
		defer closeWorkers(workers)
		g, lat := newGate(cancel), newLatencies()
		var done atomic.Int64
		for _, w := range workers {
			g.run(func() { g.loop(w, maxOperations/int64(callers), lat, &done) })
		}
		took, err := g.open(ctx, d)
		if err != nil {
			return nil, &g.faults, err
		}
		if err := finish(workers); err != nil {
			g.faults.add(err)
		}
		n := float64(done.Load())
		m := metrics{mOps: n, mRate: n / took.Seconds(), mMBps: n * float64(size) / took.Seconds() / 1e6}
		putQuantiles(m, lat.merged())
		return m, &g.faults, nil
	}
}

// finish ends callers in order: what they hold open is closed.
func finish(workers []*worker) error {
	for _, w := range workers {
		if err := w.caller.close(); err != nil {
			return err
		}
	}
	return nil
}
