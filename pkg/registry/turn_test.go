package registry

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// waiter is a job that gives its turn away until it is told to go on, and
// then runs until it is told to end.
type waiter struct {
	job
	goOn, end chan struct{}
	back      bool
}

func newWaiter() *waiter {
	w := &waiter{goOn: make(chan struct{}), end: make(chan struct{})}
	w.run = func() {
		if !w.Yield() {
			panic("no turn to give")
		}
		<-w.goOn
		w.Retake()
		w.back = true
		<-w.end
	}
	return w
}

// M26: while a task waits, the next one starts.
func TestYieldStartsTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{})
		w := newWaiter()
		next := &job{}
		if err := s.Put(w); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantLoad(t, s, load{waiting: 1})
		mustPut(t, s, next)
		synctest.Wait()
		if next.runs != 1 || w.back {
			t.Error("the next one did not run meanwhile")
		}
		close(w.goOn)
		synctest.Wait()
		if !w.back {
			t.Error("a free turn was not taken back")
		}
		wantLoad(t, s, load{running: 1})
		close(w.end)
		synctest.Wait()
		wantLoad(t, s, load{})
	})
}

// M26: who comes back goes first, in the order of coming back, before any
// message that has not started, and one at a time.
func TestReturningTasksGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{})
		a, b := newWaiter(), newWaiter()
		for _, w := range []*waiter{a, b} {
			if err := s.Put(w); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		holder, open := gate()
		last := &job{}
		mustPut(t, s, holder, last)
		close(b.goOn)
		synctest.Wait()
		close(a.goOn)
		synctest.Wait()
		wantLoad(t, s, load{queued: 1, running: 1, waiting: 2})
		open()
		synctest.Wait()
		if !b.back || a.back || last.runs != 0 {
			t.Fatal("the turn did not go to the one that came back first")
		}
		close(b.end)
		synctest.Wait()
		if !a.back || last.runs != 0 {
			t.Fatal("the turn did not go to the other one that came back")
		}
		close(a.end)
		synctest.Wait()
		if last.runs != 1 {
			t.Fatal("the turn was lost")
		}
	})
}

// M26: at most Waiting tasks are away; then the next does not start.
func TestWaitingTasksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{Waiting: 2})
		var ws []*waiter
		for range 4 {
			w := newWaiter()
			ws = append(ws, w)
			if err := s.Put(w); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		wantLoad(t, s, load{queued: 2, waiting: 2})
		// One is back: it has the turn, so still none starts.
		close(ws[0].goOn)
		synctest.Wait()
		wantLoad(t, s, load{queued: 2, running: 1, waiting: 1})
		// It gives the turn away once more, and its place is gone again.
		if !ws[0].Yield() {
			t.Fatal("no turn to give")
		}
		synctest.Wait()
		wantLoad(t, s, load{queued: 2, waiting: 2})
		ws[0].Retake()
		close(ws[0].end)
		synctest.Wait()
		wantLoad(t, s, load{queued: 1, waiting: 2})
		for i, w := range ws {
			if i > 0 {
				close(w.goOn)
				close(w.end)
			}
		}
		synctest.Wait()
		wantLoad(t, s, load{})
	})
}

// M26: a wait gives only a turn that is there.
func TestYieldWithoutATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{})
		holder, open := gate()
		waiting := &job{}
		mustPut(t, s, holder, waiting)
		if (&job{}).Yield() || waiting.Yield() {
			t.Error("a task that has not started gave a turn away")
		}
		(&job{}).Retake() // returns
		if !s.Remove(waiting) || waiting.Yield() {
			t.Error("a task that was removed gave a turn away")
		}
		if !holder.Yield() || holder.Yield() {
			t.Error("a turn is given away once")
		}
		holder.Retake()
		open()
		synctest.Wait()
		if holder.Yield() {
			t.Error("a task that has ended gave a turn away")
		}
		wantLoad(t, s, load{})
	})
}

// M26: of goroutines that wait with one context at once, one gives the turn.
func TestOnlyOneOfManyYields(t *testing.T) {
	s := New(1).NewService(Limits{})
	var mu sync.Mutex
	given := 0
	done := make(chan struct{})
	j := &job{}
	j.run = func() {
		defer close(done)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if j.Yield() {
					mu.Lock()
					given++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		j.Retake()
	}
	mustPut(t, s, j)
	<-done
	if given != 1 {
		t.Errorf("%d of them gave the turn away", given)
	}
}

// M26: a task that ends while its turn is away leaves the turn where it is,
// and the Retake of what it left behind returns: pending, or still to come.
func TestTaskEndsWhileItsTurnIsAway(t *testing.T) {
	for name, pending := range map[string]bool{"retake pending": true, "retake later": false} {
		for how, leave := range map[string]func(){"return": func() {}, "goexit": runtime.Goexit} {
			t.Run(name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := New(1).NewService(Limits{Waiting: 2})
					end := make(chan struct{})
					a := &job{run: func() { <-end; leave() }}
					b, open := gate()
					c := &job{}
					mustPut(t, s, a, b, c)
					if !a.Yield() {
						t.Fatal("no turn to give")
					}
					returned := make(chan struct{})
					retake := func() { a.Retake(); close(returned) }
					synctest.Wait()
					wantLoad(t, s, load{queued: 1, running: 1, waiting: 1})
					if pending {
						go retake()
						synctest.Wait()
					}
					close(end)
					synctest.Wait()
					wantLoad(t, s, load{queued: 1, running: 1})
					if !pending {
						go retake()
					}
					<-returned
					wantLoad(t, s, load{queued: 1, running: 1})
					if c.runs != 0 || a.Yield() {
						t.Error("the turn was given twice")
					}
					open()
					synctest.Wait()
					if c.runs != 1 {
						t.Error("the turn was lost")
					}
					wantLoad(t, s, load{})
				})
			})
		}
	}
}

// M26: the place of a task that ends while away lets the next one start, on
// the goroutine that has become free.
func TestEndWhileAwayFreesItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{Waiting: 1})
		a, open := gate()
		b := &job{}
		mustPut(t, s, a)
		if !a.Yield() {
			t.Fatal("no turn to give")
		}
		mustPut(t, s, b)
		synctest.Wait()
		wantLoad(t, s, load{queued: 1, waiting: 1})
		open()
		synctest.Wait()
		if b.runs != 1 {
			t.Error("the turn lies free beside a task that could start")
		}
	})
}

// M48: a service that was stopped still gives its turns back.
func TestTurnsGoOnAfterStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1).NewService(Limits{})
		var order []int
		var goOns []chan struct{}
		for i := range 3 {
			goOn := make(chan struct{})
			goOns = append(goOns, goOn)
			j := &job{}
			j.run = func() {
				j.Yield()
				<-goOn
				j.Retake()
				order = append(order, i)
			}
			mustPut(t, s, j)
		}
		synctest.Wait()
		s.Stop()
		wantLoad(t, s, load{waiting: 3})
		for _, i := range []int{2, 0, 1} {
			close(goOns[i])
			synctest.Wait()
		}
		if !slices.Equal(order, []int{2, 0, 1}) {
			t.Errorf("came back in the order %v", order)
		}
		wantLoad(t, s, load{})
	})
}
