package registry

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func pulled(t *testing.T, l Limits) *Service {
	t.Helper()
	s := New(1).NewPulled(l)
	if s == nil {
		t.Fatal("no service")
	}
	return s
}

// Nothing runs; tasks are taken in order, and a call is not taken for a push.
func TestPulledServiceRunsNothing(t *testing.T) {
	s := pulled(t, Limits{})
	a, b, c := &job{Element: Element{Size: 1}}, &job{Element: Element{Size: 2, Push: true}}, &job{}
	mustPut(t, s, a, b, c)
	wantLoad(t, s, load{queued: 3, bytes: 3})
	if s.Take(false, true) != nil || s.Take(true, true) != Task(a) || s.Take(false, true) != Task(b) || s.Take(false, true) != nil {
		t.Error("not in order")
	}
	wantLoad(t, s, load{queued: 1})
	if s.Remove(a) || !s.Remove(c) || s.Take(true, true) != nil {
		t.Error("a task that was taken can be removed, or one that was not cannot")
	}
	if a.runs+b.runs+c.runs != 0 {
		t.Error("a task ran")
	}
}

// What is put back stands before what came meanwhile, in its old order, though
// the queue be full; Room opens when there is room again.
func TestPutBackIsFirst(t *testing.T) {
	s := pulled(t, Limits{Messages: 2})
	a, b, c, d := &job{}, &job{}, &job{}, &job{Element: Element{Push: true}}
	mustPut(t, s, a, b)
	s.Take(true, true)
	s.Take(true, true)
	mustPut(t, s, c)
	if err := s.PutBack(a, b); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(d); !errors.Is(err, ErrFull) {
		t.Errorf("put into a full queue: %v", err)
	}
	room := s.Room()
	for i, want := range []*job{a, b, c} {
		select {
		case <-room:
			t.Error("room while the queue is full")
		default:
		}
		if got := s.Take(true, true); got != Task(want) {
			t.Errorf("task %d is another one", i)
		}
		if i == 1 {
			<-room
			room = nil
		}
	}
	mustPanic(t, func() { _ = s.PutBack(d) })
}

// Stop and Drain reject what waits and refuse what comes back.
func TestPulledServiceStops(t *testing.T) {
	why := errors.New("closing")
	for want, end := range map[error]func(*Service){ErrStopped: (*Service).Stop, why: func(s *Service) { s.registry.Drain(why) }} {
		s := pulled(t, Limits{})
		a, b := &job{}, &job{}
		mustPut(t, s, a, b)
		s.Take(true, true)
		end(s)
		if !slices.Equal(b.rejected, []error{want}) || a.rejected != nil || !errors.Is(s.PutBack(a), want) || s.Take(true, true) != nil {
			t.Errorf("%v: a %v, b %v", want, a.rejected, b.rejected)
		}
	}
}

// A program may register and unregister for ever: half of the handles stay with
// the process itself.
func TestPulledServicesLeaveHandles(t *testing.T) {
	r := New(1)
	r.last = 1<<31 - 2
	if r.NewPulled(Limits{}) == nil || r.NewPulled(Limits{}) != nil || r.NewService(Limits{}) == nil {
		t.Error("the bound is not half of all handles")
	}
}

// Whatever is done to it, a pulled service is a queue whose head may grow.
func TestPulledServiceIsLikeItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 6).Draw(t, "limit")
		s := New(1).NewPulled(Limits{Messages: limit})
		var queue, out []*job
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"put", "put", "take", "back", "remove"}).Draw(t, "step") {
			case "put":
				j := &job{Element: Element{Size: 1, Push: rapid.Bool().Draw(t, "push")}}
				bound := limit
				if j.Push {
					bound -= limit / 4
				}
				if err := s.Put(j); (err == nil) != (len(queue) < bound) {
					t.Fatalf("%d wait, bound %d: %v", len(queue), bound, err)
				} else if err == nil {
					queue = append(queue, j)
				}
			case "take":
				calls, pushes := rapid.Bool().Draw(t, "calls"), rapid.Bool().Draw(t, "pushes")
				got := s.Take(calls, pushes)
				if len(queue) == 0 || queue[0].Push && !pushes || !queue[0].Push && !calls {
					if got != nil {
						t.Fatal("took what it should not")
					}
					continue
				}
				if got != Task(queue[0]) {
					t.Fatal("not the head")
				}
				out, queue = append(out, queue[0]), queue[1:]
			case "back":
				n := rapid.IntRange(0, len(out)).Draw(t, "n")
				back := make([]Task, n)
				for i, j := range out[len(out)-n:] {
					back[i] = j
				}
				if err := s.PutBack(back...); err != nil {
					t.Fatal(err)
				}
				queue = append(slices.Clone(out[len(out)-n:]), queue...)
				out = out[:len(out)-n]
			case "remove":
				if len(queue) > 0 {
					i := rapid.IntRange(0, len(queue)-1).Draw(t, "i")
					if !s.Remove(queue[i]) {
						t.Fatal("not removed")
					}
					queue = slices.Delete(slices.Clone(queue), i, i+1)
				}
			}
			if n, bytes, _, _ := s.Load(); n != len(queue) || bytes != int64(n) {
				t.Fatalf("%d tasks of %d bytes, want %d", n, bytes, len(queue))
			}
		}
	})
}
