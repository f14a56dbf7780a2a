package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// The metrics of waitingStudy: times for all callers, in ms.
const (
	mEnter   = "enter_ms"    // until all stand in the line
	mRelease = "release_ms"  // from the reload that brings the address to the last reply
	mRefuse  = "refuse_ms"   // from the reload that turns __nowaiting on to the last error
	mCancel  = "cancel_ms"   // from the end of a context that all share to the last error
	mOneGone = "one_gone_us" // from the end of one caller's context to its error
)

// waitingStudy has callers that wait for a node that the table does not have.
func waitingStudy() study {
	return study{
		name: "waiting", about: "callers that wait for an absent node: what each holds, and how long it takes to let all go", unit: "callers",
		sizes: []int{10, 100, 1000, 10_000}, seconds: 0.8,
		variants: []variant{
			{name: "mesh", about: "Mesh.Call of 64 B with a context that can end", run: waiting},
			{name: "goroutines", about: "control: goroutines that wait for a channel and a context", run: waitingControl},
		},
		columns: []column{{"B a caller", mMemory, ""}, {"all in line ms", mEnter, ""}, {"all released ms", mRelease, ""}, {"all refused ms", mRefuse, ""}, {"all cancelled ms", mCancel, ""}, {"one leaves µs", mOneGone, ""}},
		charts: []scaleChart{
			{name: "waiting", title: "Letting all waiting callers go", about: "by callers; released: dial, call and reply included", yTitle: "ms (log)", lines: []scaleLine{{"released", "mesh", mRelease}, {"refused", "mesh", mRefuse}, {"cancelled", "mesh", mCancel}}},
			{name: "waiting-memory", title: "Memory of a caller that waits", about: "its goroutine, its stack, its context, and its place in the line", yTitle: "bytes", linear: true, lines: []scaleLine{{"mesh", "mesh", mMemory}, {"goroutines", "goroutines", mMemory}}},
		},
	}
}

// crowd is n callers that wait.
type crowd struct {
	running sync.WaitGroup
	cancel  context.CancelFunc // ends the wait of all
	one     context.CancelFunc // ends the wait of the one in the middle
	oneGone chan time.Time     // when that one returned
	right   atomic.Int64       // replies that are what was asked
	failed  atomic.Int64
	faults  faults // errors that were not expected
}

// enter lets n callers call; expected says which error is one that they are to
// get.
func enter(ctx context.Context, n int, call func(context.Context, *worker) error, expected func(error) bool) *crowd {
	c := &crowd{oneGone: make(chan time.Time, 1)}
	ctx, c.cancel = context.WithCancel(ctx)
	for i := range n {
		own, cancel := context.WithCancel(ctx)
		if i == n/2 {
			c.one = cancel
		}
		c.running.Go(func() {
			defer cancel()
			err := call(own, &worker{payload: filled(64), next: uint64(i) << 40})
			switch {
			case err == nil:
				c.right.Add(1)
			case expected(err):
				c.failed.Add(1)
			default:
				c.faults.add(err)
			}
			if i == n/2 {
				c.oneGone <- time.Now()
			}
		})
	}
	return c
}

// leave waits for all, and tells whether each got what it should: replies, or
// errors of the kind that was expected.
func (c *crowd) leave(replies, failures int64) error {
	c.running.Wait()
	c.cancel()
	if err := firstFault(&c.faults, nil); err != nil {
		return err
	}
	if c.right.Load() != replies || c.failed.Load() != failures {
		return fmt.Errorf("%d replies and %d failures; %d and %d were to be", c.right.Load(), c.failed.Load(), replies, failures)
	}
	return nil
}

func waiting(ctx context.Context, n int) (metrics, error) {
	_, addr, err := echoMesh(mesh.Options{Name: "listener"})
	if err != nil {
		return nil, err
	}
	m, err := mesh.New(mesh.Options{Name: "caller"})
	if err != nil {
		return nil, err
	}
	call := func(ctx context.Context, w *worker) error {
		w.caller = meshCaller{m, ctx, "later@echo"}
		return w.call()
	}
	inLine := func() error {
		for end := time.Now().Add(linkTime); m.Stats().Waiting < n; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("%d of %d callers stand in the line", m.Stats().Waiting, n)
			}
		}
		return nil
	}
	figures, before := metrics{}, measureFootprint()
	begun := time.Now()
	c := enter(ctx, n, call, func(err error) bool { return errors.Is(err, context.Canceled) })
	if err := inLine(); err != nil {
		return nil, err
	}
	figures[mEnter] = milliseconds(time.Since(begun))
	before.put(figures, n)
	begun = time.Now()
	c.one()
	figures[mOneGone] = float64((<-c.oneGone).Sub(begun).Nanoseconds()) / 1e3
	figures[mCancel], err = timed(1, func(int) error { c.cancel(); return c.leave(0, int64(n)) })
	if err != nil {
		return nil, err
	}
	c = enter(ctx, n, call, func(err error) bool { return errors.Is(err, mesh.ErrAbsent) })
	if err := inLine(); err != nil {
		return nil, err
	}
	figures[mRefuse], err = timed(1, func(int) error {
		return errors.Join(m.Reload(mesh.Table{"__nowaiting": true}), c.leave(0, int64(n)))
	})
	if err != nil {
		return nil, err
	}
	if err := m.Reload(mesh.Table{"__nowaiting": false}); err != nil {
		return nil, err
	}
	c = enter(ctx, n, call, func(error) bool { return false })
	if err := inLine(); err != nil {
		return nil, err
	}
	figures[mRelease], err = timed(1, func(int) error {
		return errors.Join(m.Reload(mesh.Table{"later": addr}), c.leave(int64(n), 0))
	})
	if err == nil && m.Stats().Dials != 1 {
		err = fmt.Errorf("%d dials for one node", m.Stats().Dials)
	}
	return figures, err
}

// waitingControl has goroutines that wait for a channel or a context: less than
// that no caller can hold.
func waitingControl(ctx context.Context, n int) (metrics, error) {
	figures, before := metrics{}, measureFootprint()
	open := make(chan struct{})
	var waits atomic.Int64
	call := func(ctx context.Context, w *worker) error {
		waits.Add(1)
		select {
		case <-open:
			stamp(w.payload, w.next)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c := enter(ctx, n, call, func(error) bool { return false })
	for waits.Load() < int64(n) {
		time.Sleep(time.Millisecond)
	}
	before.put(figures, n)
	var err error
	figures[mRelease], err = timed(1, func(int) error { close(open); return c.leave(int64(n), 0) })
	return figures, err
}
