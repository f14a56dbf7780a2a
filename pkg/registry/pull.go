package registry

import "math"

// A pulled service runs nothing: its tasks are taken by whoever hands them on
// to where they run, when there is room for them there. Queue, names, handle
// and ends are those of every service.

// NewPulled returns a service whose tasks are taken with Take and never run
// here. Limits.Concurrency and Limits.Waiting have no meaning for it. Such
// services are made for others, as often as they ask: once half of all handles
// are given it returns nil, so that the process keeps the rest for its own.
func (r *Registry) NewPulled(limits Limits) *Service {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last >= math.MaxUint32/2 {
		return nil
	}
	s := newService(r, limits)
	s.serial, s.slots = false, 0
	r.add(s)
	return s
}

// Take takes the task that waits longest out of the queue of a pulled service,
// if it is a call and calls are wanted, or a push and pushes are. It returns nil
// where there is none. The task is the caller's and gets no other end, unless
// PutBack takes it.
func (s *Service) Take(calls, pushes bool) Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.queue.head
	if e == nil || !(e.Push && pushes || !e.Push && calls) {
		return nil
	}
	s.unqueue(e, taken)
	t := e.task
	e.task = nil
	return t
}

// PutBack returns tasks that Take gave to the head of the queue, in the order in
// which they are given, whatever the bounds. The error is ErrStopped, or the
// reason of a Drain; then they stay the caller's.
func (s *Service) PutBack(tasks ...Task) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusal != nil {
		return s.refusal
	}
	for i := len(tasks) - 1; i >= 0; i-- {
		e := tasks[i].element()
		if e.service.Load() != s || e.state != taken {
			panic("registry: PutBack of a task that was not taken from this service")
		}
		e.task, e.state = tasks[i], queued
		s.queue.pushFront(e)
		s.bytes += e.Size
	}
	return nil
}
