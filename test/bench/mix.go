package main

import (
	"context"
	"sync/atomic"
	"time"
)

// The callers of a mix.
const (
	mixLarge     = 4
	mixLargeSize = 16 << 20
	mixSmall     = 16
	mixSmallSize = 64
)

// mixLoad has callers of small messages to one target, first alone and then
// beside callers of large messages to the same or the other target.
func mixLoad(otherTarget bool) load {
	large := 0
	if otherTarget {
		large = 1
	}
	return func(ctx context.Context, b *bout, d time.Duration) (metrics, *faults, error) {
		alone, faults, err := mixed(ctx, b, d/2, 0, large)
		if err != nil || faults.count > 0 {
			return nil, faults, err
		}
		m, faults, err := mixed(ctx, b, 2*d, mixLarge, large)
		if err != nil {
			return nil, faults, err
		}
		m[mAloneP50], m[mAloneP99] = alone[mP50], alone[mP99]
		if alone[mP99] > 0 {
			m[mGrowth] = m[mP99] / alone[mP99]
		}
		return m, faults, nil
	}
}

func mixed(ctx context.Context, b *bout, d time.Duration, nLarge, largeTarget int) (metrics, *faults, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	small, err := openWorkers(ctx, b.client, mixSmall, 0, mixSmallSize)
	if err != nil {
		return nil, nil, err
	}
	defer closeWorkers(small)
	large, err := openWorkers(ctx, b.client, nLarge, largeTarget, mixLargeSize)
	if err != nil {
		return nil, nil, err
	}
	defer closeWorkers(large)
	g, lat, largeLat := newGate(cancel), newLatencies(), newLatencies()
	var done, largeDone atomic.Int64
	for _, w := range small {
		g.run(func() { g.loop(w, maxOperations/mixSmall, lat, &done) })
	}
	for _, w := range large {
		w.next += 1 << 39 // the small ones of the same target have other stamps
		g.run(func() { g.loop(w, maxOperations, largeLat, &largeDone) })
	}
	took, err := g.open(ctx, d)
	if err != nil {
		return nil, &g.faults, err
	}
	if err := finish(append(small, large...)); err != nil {
		g.faults.add(err)
	}
	m := metrics{mSmallRate: float64(done.Load()) / took.Seconds()}
	m[mRate] = m[mSmallRate]
	m[mLargeMBps] = float64(largeDone.Load()) * mixLargeSize / took.Seconds() / 1e6
	m[mLargeP50] = quantile(largeLat.merged(), 50)
	putQuantiles(m, lat.merged())
	return m, &g.faults, nil
}
