package registry

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// crowd is a service under everything at once, with a count of what became of
// each task.
type crowd struct {
	service *Service
	open    sync.WaitGroup // tasks that were taken and have no end yet
	strays  sync.WaitGroup // goroutines that tasks left behind
	inside  atomic.Int32   // tasks between their waits
	tooMany atomic.Bool
	state   int // what the turn of a serial service guards; -race tells
}

// mob is one task of it.
type mob struct {
	Element
	crowd *crowd
	kind  int
	taken bool
	ends  atomic.Int32
}

func (m *mob) Reject(error) { m.ended() }

func (m *mob) ended() {
	m.ends.Add(1)
	m.crowd.open.Done()
}

func (m *mob) Run() {
	defer m.ended()
	m.work()
	switch m.kind {
	case 0, 1: // waits twice
		for range 2 {
			if m.Yield() {
				runtime.Gosched()
				m.Retake()
			}
			m.work()
		}
	case 2: // leaves a goroutine behind that gives the turn away
		m.crowd.strays.Go(func() {
			if m.Yield() {
				runtime.Gosched()
				m.Retake()
			}
		})
	case 3:
		runtime.Goexit()
	}
}

// work is what no two tasks of a serial service do at once.
func (m *mob) work() {
	c := m.crowd
	if int(c.inside.Add(1)) > c.service.slots {
		c.tooMany.Store(true)
	}
	if c.service.serial {
		c.state++
	}
	c.inside.Add(-1)
}

// put puts m as a link would: a push waits for room, a call gives up.
func (m *mob) put() {
	m.crowd.open.Add(1)
	for {
		err := m.crowd.service.Put(m)
		if err == nil {
			m.taken = true
			return
		}
		if !m.Push || !errors.Is(err, ErrFull) {
			m.crowd.open.Done()
			return
		}
		<-m.crowd.service.Room()
	}
}

// M21, M22, M26, M27, M48: each task that was taken has exactly one end,
// whatever happens at the same time, and nothing stays behind.
func TestEachTaskHasOneEnd(t *testing.T) {
	for name, limits := range map[string]Limits{
		"serial":     {Messages: 16, Waiting: 3},
		"concurrent": {Messages: 16, Concurrency: 3},
	} {
		for how, end := range map[string]func(*Registry, *Service){
			"runs out": func(*Registry, *Service) {},
			"stop":     func(_ *Registry, s *Service) { s.Stop() },
			"drain":    func(r *Registry, _ *Service) { r.Drain(errLeaving) },
		} {
			t.Run(name+", "+how, func(t *testing.T) { stress(t, limits, end) })
		}
	}
}

func stress(t *testing.T, limits Limits, end func(*Registry, *Service)) {
	const putters, each = 4, 200
	r := New(1)
	c := &crowd{service: r.NewService(limits)}
	mobs := make([]mob, putters*each)
	var wg sync.WaitGroup
	for p := range putters {
		wg.Go(func() {
			for i := range each {
				m := &mobs[p*each+i]
				m.crowd, m.kind, m.Push = c, rand.IntN(6), rand.IntN(2) == 0
				m.put()
				// Sometimes its own, which may have started; mostly too late.
				if m.taken && rand.IntN(4) == 0 && c.service.Remove(m) {
					m.ended()
				}
				if p == 0 && i == each/2 {
					wg.Go(func() { end(r, c.service) })
				}
			}
		})
	}
	wg.Wait()
	c.open.Wait()
	c.strays.Wait()
	for i := range mobs {
		m := &mobs[i]
		if n := m.ends.Load(); (n == 1) != m.taken || n > 1 {
			t.Fatalf("task %d, taken: %v, has %d ends", i, m.taken, n)
		}
	}
	if c.tooMany.Load() {
		t.Error("more ran at once than may")
	}
	// Run has said that it ended before the service knows: ask the service.
	c.service.Stop()
	for loadOf(c.service) != (load{}) {
		runtime.Gosched()
	}
}
