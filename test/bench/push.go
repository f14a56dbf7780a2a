package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// pushLoad has senders that push as fast as they may. The rate is that of the
// server's handler, from the first push to the arrival of the last.
func pushLoad(senders, size int) load {
	return func(ctx context.Context, b *bout, d time.Duration) (metrics, *faults, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		workers, err := openWorkers(ctx, b.client, senders, 0, size)
		if err != nil {
			return nil, nil, err
		}
		defer closeWorkers(workers)
		g := newGate(cancel)
		p := &pushes{gate: g, limit: maxOperations / int64(senders)}
		if b.contestant.boundless {
			p.window = &pushWindow{server: b.server, size: min(64<<10, int64(64<<20/size))}
		}
		for _, w := range workers {
			g.run(func() { p.send(ctx, w) })
		}
		begun := time.Now()
		if _, err := g.open(ctx, d); err != nil {
			return nil, &g.faults, err
		}
		if err := finish(workers); err != nil {
			g.faults.add(err)
		}
		lost, err := p.arrived(ctx, b.server)
		if err != nil {
			return nil, &g.faults, err
		}
		n, took := float64(p.sent.Load()), time.Since(begun).Seconds()
		return metrics{mOps: n, mRate: n / took, mMBps: n * float64(size) / took / 1e6, mLost: lost}, &g.faults, nil
	}
}

// pushes is what the senders of a sample have sent.
type pushes struct {
	gate   *gate
	window *pushWindow // nil where the contestant has back-pressure of its own
	limit  int64       // a sender's
	sent   atomic.Int64
	sum    atomic.Uint64
}

func (p *pushes) send(ctx context.Context, w *worker) {
	var n int64
	var sum uint64
	defer func() {
		p.sent.Add(n)
		p.sum.Add(sum)
	}()
	for n < p.limit && !p.gate.over.Load() {
		if p.window != nil {
			if err := p.window.enter(ctx); err != nil {
				p.gate.faults.add(err)
				return
			}
		}
		w.next++
		stamp(w.payload, w.next)
		if err := w.caller.push(w.payload); err != nil {
			p.gate.faults.add(err)
			return
		}
		n++
		sum += stampOf(w.payload)
	}
}

// arrived waits for the last push, and checks that each came once.
func (p *pushes) arrived(ctx context.Context, s *serverProcess) (lost float64, err error) {
	var r report
	for end := time.Now().Add(graceTime); ; time.Sleep(time.Millisecond) {
		if r, err = s.ask(askCount); err != nil {
			return 0, err
		}
		if r.Count >= p.sent.Load() || time.Now().After(end) || ctx.Err() != nil {
			break
		}
	}
	if r.Count != p.sent.Load() {
		p.gate.faults.add(fmt.Errorf("%d pushes sent, %d arrived", p.sent.Load(), r.Count))
	} else if r.Sum != p.sum.Load() {
		p.gate.faults.add(fmt.Errorf("%d pushes arrived, but not what was sent", r.Count))
	}
	return float64(p.sent.Load() - r.Count), ctx.Err()
}

// pushWindow bounds the pushes on their way. It asks the server only when the
// bound is reached.
type pushWindow struct {
	server   *serverProcess
	size     int64
	entered  atomic.Int64
	received atomic.Int64
	mu       sync.Mutex // held by the one who asks
}

func (w *pushWindow) enter(ctx context.Context) error {
	n := w.entered.Add(1)
	if n-w.received.Load() <= w.size {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for n-w.received.Load() > w.size {
		r, err := w.server.ask(askCount)
		if err != nil {
			return err
		}
		w.received.Store(r.Count)
		if n-r.Count <= w.size {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Microsecond):
		}
	}
	return nil
}
