package registry

import (
	"testing"

	"go.uber.org/goleak"
)

// Every service of every test must be without goroutines in the end.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// job is the task of the tests. Its fields are read after synctest.Wait, or
// after whatever else shows that it has ended.
type job struct {
	Element
	run      func()
	onReject func()

	runs     int
	rejected []error
}

func (j *job) Run() {
	j.runs++
	if j.run != nil {
		j.run()
	}
}

func (j *job) Reject(reason error) {
	j.rejected = append(j.rejected, reason)
	if j.onReject != nil {
		j.onReject()
	}
}

// gate is a job that runs until it is opened.
func gate() (j *job, open func()) {
	ch := make(chan struct{})
	return &job{run: func() { <-ch }}, func() { close(ch) }
}

func mustPut(t *testing.T, s *Service, tasks ...*job) {
	t.Helper()
	for i, task := range tasks {
		if err := s.Put(task); err != nil {
			t.Fatalf("Put of task %d: %v", i, err)
		}
	}
}

type load struct {
	queued  int
	bytes   int64
	running int
	waiting int
}

func loadOf(s *Service) load {
	var l load
	l.queued, l.bytes, l.running, l.waiting = s.Load()
	return l
}

func wantLoad(t *testing.T, s *Service, want load) {
	t.Helper()
	if got := loadOf(s); got != want {
		t.Fatalf("load is %+v, want %+v", got, want)
	}
}

func mustPanic(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	f()
}
