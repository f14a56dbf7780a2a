package registry

// A slot is the right to run. A concurrent service has n of them; a serial one
// has a single slot, which is what its tasks call their turn. Whoever frees a
// slot passes it on under the same lock, by next: so it is never lost and never
// given twice, and nobody has to wake up to find that it is gone.

// work runs e, and after it whatever the queue gives to its slot. Each call is
// a goroutine of the service; it ends when there is nothing left to run here.
func (s *Service) work(e *Element) {
	defer func() {
		// Not nil: Run was left by runtime.Goexit, which cannot be stopped.
		// This goroutine dies, so the slot goes on with a fresh one.
		if e != nil {
			s.start(s.restart(s.ended(e)))
		}
	}()
	s.start(s.started())
	for e != nil {
		e.task.Run()
		e = s.ended(e)
	}
}

// start runs e on a goroutine of its own; nil is nothing to do. It is called
// with what nextStart returned, once mu is released.
func (s *Service) start(e *Element) {
	if e != nil {
		go s.work(e)
	}
}

// nextStart is next for a goroutine that the caller is to start. While one is on
// its way to run it starts no other: that one does, where anything is queued
// when it comes. So quick tasks need few goroutines, and slow ones have as many
// as there are slots.
func (s *Service) nextStart() *Element {
	if s.starting > 0 {
		return nil
	}
	return s.counted(s.next())
}

func (s *Service) counted(e *Element) *Element {
	if e != nil {
		s.starting++
	}
	return e
}

// restart counts the goroutine that takes the place of one that died.
func (s *Service) restart(e *Element) *Element {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counted(e)
}

// started notes that a goroutine has come to run, and returns what the next one
// is to run.
func (s *Service) started() *Element {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting--
	return s.nextStart()
}

// next gives a free slot, if there is one, to whom it belongs: first to the
// task that waits longest to go on, then to the head of the queue, which it
// returns for the caller to run. It is called under mu after every change that
// may have freed a slot or made one useful, one change at a time.
func (s *Service) next() *Element {
	if s.running == s.slots {
		return nil
	}
	if e := s.returning.head; e != nil {
		s.returning.remove(e)
		s.takeBack(e)
		close(e.wake)
		return nil
	}
	// A task that starts may give its turn away, so there has to be a place
	// for it among those that are away.
	e := s.queue.head
	if e == nil || s.away >= s.limits.Waiting {
		return nil
	}
	s.running++
	s.unqueue(e, running)
	return e
}

// takeBack gives the free turn to a task that is away, under mu.
func (s *Service) takeBack(e *Element) {
	s.away--
	s.running++
	e.state = running
}

// ended takes note that Run of e has returned, and returns the task that the
// caller is to run next.
//
// A task may end while its turn is away: a goroutine that it left behind gave
// the turn away and has not got it back. The turn is elsewhere by now and stays
// there; the task only stops to count as waiting, and the Retake that is
// pending, or still to come, returns at once and without a turn, as there is no
// task any more that could have one.
func (s *Service) ended(e *Element) *Element {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.state {
	case running:
		s.running--
	case returning:
		s.returning.remove(e)
		close(e.wake)
		s.away--
	case away:
		s.away--
	}
	e.state = ended
	e.task = nil
	return s.next()
}

// Yield gives the turn of a serial service's running task away, so that the
// service goes on with other tasks while this one waits for something. It
// returns true if it did; then the same goroutine calls Retake when the wait is
// over. It returns false, and there is nothing to take back, where the task has
// no turn to give: its service is concurrent, its turn is away already, it has
// not started, or it has ended.
//
// Any goroutine may call it; of several at once, one gets true. A goroutine
// other than the task's own gives the turn away under the task's feet: it may
// do so only while the task itself touches nothing that the turn protects.
func (e *Element) Yield() bool {
	s := e.service.Load()
	if s == nil || !s.serial {
		return false
	}
	s.mu.Lock()
	if e.state != running {
		s.mu.Unlock()
		return false
	}
	e.state = away
	s.running--
	s.away++
	next := s.counted(s.next())
	s.mu.Unlock()
	s.start(next)
	return true
}

// Retake waits until the turn that Yield gave away is back. Those who wait get
// it in the order of their calls, and before any task that has not started. It
// has no other end: a task that gave its turn away goes on only with it. Where
// Run has returned meanwhile it returns at once, without a turn.
//
// It is called once after each Yield that returned true, and not otherwise.
func (e *Element) Retake() {
	s := e.service.Load()
	if s == nil {
		return
	}
	s.mu.Lock()
	if e.state != away {
		s.mu.Unlock()
		return
	}
	if s.running < s.slots {
		s.takeBack(e)
		s.mu.Unlock()
		return
	}
	wake := make(chan struct{})
	e.wake = wake
	e.state = returning
	s.returning.push(e)
	s.mu.Unlock()
	<-wake
}
