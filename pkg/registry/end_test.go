package registry

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

var errLeaving = errors.New("leaving")

// M57
func TestRoomOpensAtTheEnd(t *testing.T) {
	for name, end := range map[string]func(*Registry, *Service){
		"stop":  func(_ *Registry, s *Service) { s.Stop() },
		"drain": func(r *Registry, _ *Service) { r.Drain(errLeaving) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := New(1)
				s := r.NewService(Limits{Messages: 1})
				first, open := gate()
				mustPut(t, s, first, &job{})
				room := s.Room()
				go end(r, s)
				<-room
				if err := s.Put(&job{}); err == nil || errors.Is(err, ErrFull) {
					t.Errorf("Put at the end: %v", err)
				}
				if !closed(s.Room()) {
					t.Error("someone would wait for ever")
				}
				open()
			})
		})
	}
}

// M48
func TestStopRejectsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(1)
		s := r.NewService(Limits{})
		if err := r.Register("sdb", s); err != nil {
			t.Fatal(err)
		}
		first, open := gate()
		var order []int
		waiting := []*job{{}, {}, {}}
		waiting[1].Size = 5
		for i, j := range waiting {
			j.onReject = func() {
				order = append(order, i)
				wantLoad(t, s, load{running: 1}) // no lock is held
			}
		}
		mustPut(t, s, first)
		mustPut(t, s, waiting...)
		s.Stop()
		s.Stop()
		if !slices.Equal(order, []int{0, 1, 2}) || !errors.Is(waiting[0].rejected[0], ErrStopped) {
			t.Errorf("rejected %v, %v", order, waiting[0].rejected)
		}
		if err := s.Put(&job{}); !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
		if _, err := r.ByName("@sdb"); !errors.Is(err, ErrNameNotFound) {
			t.Error(err)
		}
		if _, err := r.ByHandle(s.Handle()); !errors.Is(err, ErrStaleHandle) {
			t.Error(err)
		}
		if err := r.Register("again", s); !errors.Is(err, ErrStopped) || s.Names() != nil || s.Remove(waiting[0]) {
			t.Error("a stopped service is not out of the registry")
		}
		// A Drain that found the service just before its Stop.
		s.refuse(errLeaving)
		if err := s.Put(&job{}); !errors.Is(err, ErrStopped) {
			t.Errorf("drained after a stop: %v", err)
		}
		open()
		synctest.Wait()
		wantLoad(t, s, load{})
	})
}

// M35: drained services reject what waits and what comes; what runs goes on.
func TestDrainRejectsWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(1)
		a, b := r.NewService(Limits{}), r.NewService(Limits{Concurrency: 1})
		if err := r.Register("a", a); err != nil {
			t.Fatal(err)
		}
		var resumed bool
		wait := make(chan struct{})
		holder := &job{}
		holder.run = func() {
			if holder.Yield() {
				<-wait
				holder.Retake()
				resumed = true
			}
		}
		gateA, openA := gate()
		gateB, openB := gate()
		ja, jb := &job{}, &job{}
		mustPut(t, a, holder)
		synctest.Wait()
		mustPut(t, a, gateA, ja)
		mustPut(t, b, gateB, jb)
		ja.onReject = func() {
			if err := b.Put(&job{}); !errors.Is(err, errLeaving) {
				t.Errorf("another service still takes: %v", err)
			}
		}
		jb.onReject = func() { _ = a.Put(&job{}) }
		r.Drain(errLeaving)
		r.Drain(errors.New("later"))
		for _, j := range []*job{ja, jb} {
			if len(j.rejected) != 1 || !errors.Is(j.rejected[0], errLeaving) {
				t.Errorf("rejected with %v", j.rejected)
			}
		}
		late := r.NewService(Limits{})
		for _, s := range []*Service{a, b, late} {
			if err := s.Put(&job{}); !errors.Is(err, errLeaving) {
				t.Errorf("Put after Drain: %v", err)
			}
		}
		if s, err := r.ByName("@a"); s != a || err != nil {
			t.Error("Drain took a name away")
		}
		close(wait)
		openA()
		openB()
		synctest.Wait()
		if !resumed {
			t.Error("a task that had started did not go on")
		}
		a.Stop()
		if err := a.Put(&job{}); !errors.Is(err, ErrStopped) {
			t.Errorf("stopped after a drain: %v", err)
		}
		mustPanic(t, func() { r.Drain(nil) })
	})
}
