package registry

import (
	"fmt"
	"testing"
)

func BenchmarkByName(b *testing.B) {
	r := New(1)
	for i := range 1000 {
		if err := r.Register(fmt.Sprint("service", i), r.NewService(Limits{})); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.ByName("@service500"); err != nil {
				b.Error(err)
			}
		}
	})
}

// Registering costs the same however many names there are.
func BenchmarkRegister(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			names := make([]string, n)
			for i := range names {
				names[i] = fmt.Sprint("@service", i)
			}
			b.ReportAllocs()
			for b.Loop() {
				r := New(1)
				for _, name := range names {
					if err := r.Register(name, r.NewService(Limits{})); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/name")
		})
	}
}

// Put into the queue of a service that is busy, and out again.
func BenchmarkPutRemove(b *testing.B) {
	s := New(1).NewService(Limits{})
	first, open := gate()
	defer open()
	if err := s.Put(first); err != nil {
		b.Fatal(err)
	}
	j := new(job)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Put(j); err != nil {
			b.Fatal(err)
		}
		if !s.Remove(j) {
			b.Fatal("not removed")
		}
		j.Element = Element{}
	}
}

// Put to an idle service: each task starts a goroutine.
func BenchmarkPutIdle(b *testing.B) {
	s := New(1).NewService(Limits{})
	done := make(chan struct{})
	j := &job{run: func() { done <- struct{}{} }}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Put(j); err != nil {
			b.Fatal(err)
		}
		<-done
		for loadOf(s).running > 0 { // Run has ended a moment before the task
		}
		j.Element = Element{}
	}
}

// Put as fast as tasks run: the goroutine of the service lives on.
func BenchmarkPutBusy(b *testing.B) {
	for _, n := range []int{0, 4} {
		b.Run(fmt.Sprint("concurrency", n), func(b *testing.B) {
			s := New(1).NewService(Limits{Concurrency: n})
			jobs := make([]job, b.N)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range jobs {
				for s.Put(&jobs[i]) != nil {
					<-s.Room()
				}
			}
			for loadOf(s) != (load{}) {
				<-s.Room()
			}
		})
	}
}

func BenchmarkYieldRetake(b *testing.B) {
	s := New(1).NewService(Limits{})
	done := make(chan struct{})
	j := &job{}
	j.run = func() {
		defer close(done)
		for b.Loop() {
			if j.Yield() {
				j.Retake()
			}
		}
	}
	b.ReportAllocs()
	if err := s.Put(j); err != nil {
		b.Fatal(err)
	}
	<-done
}
