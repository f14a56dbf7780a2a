package registry

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
)

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// M26
func TestSerialRunsOneAtATimeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{})
		first, open := gate()
		mustPut(t, s, first)
		var order []int
		for i := range 10 {
			mustPut(t, s, &job{Element: Element{Size: 3}, run: func() { order = append(order, i) }})
		}
		synctest.Wait()
		wantLoad(t, s, load{queued: 10, bytes: 30, running: 1})
		open()
		synctest.Wait()
		if !slices.Equal(order, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}) {
			t.Errorf("ran in the order %v", order)
		}
		wantLoad(t, s, load{})
	})
}

// M27
func TestConcurrentRunsUpToN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{Concurrency: 3})
		var opens []func()
		var jobs []*job
		for range 5 {
			j, open := gate()
			jobs, opens = append(jobs, j), append(opens, open)
		}
		mustPut(t, s, jobs...)
		synctest.Wait()
		wantLoad(t, s, load{queued: 2, running: 3})
		if jobs[0].Yield() {
			t.Error("a concurrent service has no turns")
		}
		// The second passes the first; the place goes to the fourth.
		opens[1]()
		synctest.Wait()
		if jobs[3].runs != 1 || jobs[4].runs != 0 {
			t.Error("not taken in order")
		}
		for _, i := range []int{0, 2, 3, 4} {
			opens[i]()
		}
		synctest.Wait()
		wantLoad(t, s, load{})
	})
}

// M56, M57: a push finds the queue full at three quarters, a call at the bound.
func TestQueueIsBoundedInMessages(t *testing.T) {
	for _, c := range []struct{ messages, pushes int }{{8, 6}, {4, 3}, {3, 3}, {2, 2}, {1, 1}, {0, 12288}} {
		synctest.Test(t, func(t *testing.T) {
			s := New(1).NewService(Limits{Messages: c.messages})
			first, open := gate()
			mustPut(t, s, first)
			var pushes, calls int
			for s.Put(&job{Element: Element{Push: true}}) == nil {
				pushes++
			}
			for s.Put(&job{}) == nil {
				calls++
			}
			want := c.messages
			if want == 0 {
				want = 16384
			}
			if pushes != c.pushes || pushes+calls != want {
				t.Errorf("bound %d: %d pushes, then %d calls", c.messages, pushes, calls)
			}
			if err := s.Put(&job{}); !errors.Is(err, ErrFull) {
				t.Error(err)
			}
			open()
		})
	}
}

// M56: a message is admitted while the bound is not reached, whatever its size.
func TestQueueIsBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{Bytes: 100})
		first, open := gate()
		first.Size = 1 << 40 // runs, so it does not count
		mustPut(t, s, first)
		push := func(size int64) *job { return &job{Element: Element{Size: size, Push: true}} }
		call := func(size int64) *job { return &job{Element: Element{Size: size}} }
		mustPut(t, s, push(74), push(1))
		if err := s.Put(push(1)); !errors.Is(err, ErrFull) {
			t.Errorf("push at three quarters: %v", err)
		}
		mustPut(t, s, call(24), call(1000))
		if err := s.Put(call(0)); !errors.Is(err, ErrFull) {
			t.Errorf("call at the bound: %v", err)
		}
		wantLoad(t, s, load{queued: 4, bytes: 1099, running: 1})
		open()
		synctest.Wait()
		wantLoad(t, s, load{})
	})
}

// A task that was refused is as before; one that was taken is not put again.
func TestTaskIsTakenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(1)
		s, other := r.NewService(Limits{Messages: 1}), r.NewService(Limits{})
		first, open := gate()
		queuedJob, refused := &job{}, &job{}
		mustPut(t, s, first, queuedJob)
		if err := s.Put(refused); !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		if s.Remove(refused) || refused.Yield() {
			t.Error("a refused task belongs to the service")
		}
		mustPanic(t, func() { _ = other.Put(queuedJob) })
		if other.Remove(queuedJob) {
			t.Error("removed from a service that never had it")
		}
		mustPut(t, other, refused)
		open()
		synctest.Wait()
		if refused.runs != 1 || queuedJob.runs != 1 {
			t.Error("not run once each")
		}
		mustPanic(t, func() { _ = s.Put(refused) })
		wantLoad(t, s, load{}) // and no lock is left behind
	})
}

// M57: no wake-up is lost, and none comes while there is no room.
func TestRoomOpensWhenAPushFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{Messages: 4})
		if !closed(s.Room()) {
			t.Fatal("no room in an empty queue")
		}
		first, open := gate()
		jobs := []*job{{}, {}, {}, {}}
		mustPut(t, s, first)
		mustPut(t, s, jobs...)
		room := s.Room()
		if !s.Remove(jobs[3]) || closed(room) {
			t.Fatal("woken for a place that only a call may take")
		}
		if !s.Remove(jobs[1]) || !closed(room) || !closed(s.Room()) {
			t.Fatal("not woken by Remove")
		}
		mustPut(t, s, &job{})
		room = s.Room()
		if closed(room) {
			t.Fatal("room in a queue that is full for pushes")
		}
		open()
		<-room // woken by the start of the next task
	})
}

// M31, M58: what was taken out will not run, and its place is free at once.
func TestRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{Messages: 3})
		first, open := gate()
		a, b, c := &job{}, &job{}, &job{}
		b.Size = 10
		mustPut(t, s, first, a, b, c)
		for _, j := range []*job{first, {}} {
			if s.Remove(j) {
				t.Error("removed a task that was not queued")
			}
		}
		if !s.Remove(b) || s.Remove(b) {
			t.Error("a queued task is removed once")
		}
		wantLoad(t, s, load{queued: 2, running: 1})
		d := &job{}
		mustPut(t, s, d)
		open()
		synctest.Wait()
		if a.runs+c.runs+d.runs != 3 || b.runs != 0 || b.rejected != nil || s.Remove(a) {
			t.Error("not exactly the others ran")
		}
	})
}

// M30: runtime.Goexit ends one task, not the service.
func TestGoexitDoesNotEndTheService(t *testing.T) {
	for _, n := range []int{0, 2} {
		synctest.Test(t, func(t *testing.T) {
			s := New(1).NewService(Limits{Concurrency: n})
			var jobs []*job
			for range 10 {
				jobs = append(jobs, &job{run: runtime.Goexit})
			}
			mustPut(t, s, jobs...)
			synctest.Wait()
			for i, j := range jobs {
				if j.runs != 1 {
					t.Errorf("task %d ran %d times", i, j.runs)
				}
			}
			wantLoad(t, s, load{})
		})
	}
}

// The place in the queue is in the task: beside the goroutine that an idle
// service starts, Put allocates nothing.
func TestPutDoesNotAllocate(t *testing.T) {
	s := New(1).NewService(Limits{})
	first, open := gate()
	done := make(chan struct{})
	mustPut(t, s, first)
	jobs := make([]job, 101)
	if n := testing.AllocsPerRun(100, func() {
		_ = s.Put(&jobs[0])
		jobs = jobs[1:]
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	mustPut(t, s, &job{run: func() { close(done) }})
	open()
	<-done
}
