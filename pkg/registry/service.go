package registry

import (
	"errors"
	"sync"
)

// What a zero field of Limits means.
const (
	defaultMessages = 16384
	defaultBytes    = 128 << 20
	defaultWaiting  = 1024
)

// Limits says how a service runs its tasks and how many it holds. The zero
// value is a serial service with the defaults of M56. A value below zero
// counts as zero.
type Limits struct {
	// Concurrency is how many tasks run at once. Zero is a serial service:
	// one at a time, with turns that can be given away. A service with 1 also
	// runs one at a time, but without turns: nothing runs while its task waits.
	Concurrency int
	// Messages bounds the tasks that wait for their start; zero is 16,384.
	Messages int
	// Bytes bounds their Size together; zero is 128 MiB.
	Bytes int64
	// Waiting bounds the tasks of a serial service that have given their turn
	// away; zero is 1,024. When so many wait, no other task starts.
	Waiting int
}

func (l Limits) withDefaults() Limits {
	l.Concurrency = max(l.Concurrency, 0)
	if l.Messages <= 0 {
		l.Messages = defaultMessages
	}
	if l.Bytes <= 0 {
		l.Bytes = defaultBytes
	}
	if l.Waiting <= 0 {
		l.Waiting = defaultWaiting
	}
	return l
}

// Service is a queue of tasks and the rule by which they run. It is made by
// Registry.NewService and ends with Stop.
type Service struct {
	// Owner is for whoever made the service. It is set before the service gets
	// a name or its handle is told, and not changed after.
	Owner any

	registry *Registry
	handle   uint64
	limits   Limits
	serial   bool
	slots    int // tasks that may run at once: 1 where serial

	names [nameKinds]string // by kind, "" is none; under registry.mu

	// mu guards what follows, and the elements of the tasks that were taken.
	// Between two holders of mu this is true: where a slot is free, no task
	// is returning, and either none is queued, limits.Waiting are away, or a
	// goroutine is starting.
	mu        sync.Mutex
	queue     list  // tasks that have not started, in the order of Put
	bytes     int64 // their Size together
	running   int   // tasks that hold a slot
	starting  int   // goroutines that have a task and have not come to run yet
	away      int   // tasks that gave theirs away, the returning ones too
	returning list  // tasks that wait in Retake, in the order of the calls
	refusal   error // what Put returns; nil while tasks are taken
	room      chan struct{}
}

func newService(r *Registry, limits Limits) *Service {
	limits = limits.withDefaults()
	return &Service{
		registry: r,
		limits:   limits,
		serial:   limits.Concurrency == 0,
		slots:    max(limits.Concurrency, 1),
	}
}

// Handle is the service's handle: the incarnation of its process in the upper
// 32 bits, a counter from 1 in the lower ones. It is never given again.
func (s *Service) Handle() uint64 { return s.handle }

// Names lists the names that the service has now, its cluster name first. It
// has one of each kind at most, and none once it is stopped.
func (s *Service) Names() []string {
	s.registry.mu.RLock()
	defer s.registry.mu.RUnlock()
	var names []string
	for _, name := range s.names {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Put takes a task into the queue, behind those of earlier calls, and starts
// it at once where nothing is before it and the service is free. It never
// blocks.
//
// A task is taken while the bounds of Limits are not reached, whatever its own
// size; for a push they are three quarters of those, rounded up. The error is
// ErrFull, ErrStopped, or the reason of a Drain; then the task is the caller's
// as before, and neither Run nor Reject will be called. It panics on a task
// that was taken before.
func (s *Service) Put(t Task) error {
	e := t.element()
	s.mu.Lock()
	if s.refusal != nil || s.full(e.Push) {
		err := s.refusal
		s.mu.Unlock()
		if err == nil {
			err = ErrFull
		}
		return err
	}
	if !e.service.CompareAndSwap(nil, s) {
		s.mu.Unlock()
		panic("registry: Put of a task that was taken before")
	}
	e.task = t
	e.state = queued
	s.queue.push(e)
	s.bytes += e.Size
	next := s.nextStart()
	s.mu.Unlock()
	s.start(next)
	return nil
}

// full says whether the queue takes no push, or no call, at the moment.
func (s *Service) full(push bool) bool {
	messages, bytes := s.limits.Messages, s.limits.Bytes
	if push {
		// Rounded up: a queue for one message takes a push.
		messages -= messages / 4
		bytes -= bytes / 4
	}
	return s.queue.n >= messages || s.bytes >= bytes
}

// Room returns a channel that is closed when a push may be worth putting
// again: there is room, or Put has something else to say than ErrFull. If that
// is so now, it is closed already, so Put, Room, wait, Put loses no wake-up.
// Everyone who waits is woken; who comes first takes the room and the others
// ask again.
func (s *Service) Room() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room == nil {
		s.room = make(chan struct{})
	}
	room := s.room
	s.openRoom()
	return room
}

// openRoom is to be called under mu whenever the queue has become shorter. The
// queue of a service that takes nothing is empty, so that is room as well.
func (s *Service) openRoom() {
	if s.room != nil && !s.full(true) {
		close(s.room)
		s.room = nil
	}
}

// Remove takes a task that has not started out of the queue: its place and its
// bytes are free at once, and it will neither run nor be rejected. It returns
// false where that is too late: the task started, was rejected or removed, or
// was never taken by this service.
func (s *Service) Remove(t Task) bool {
	e := t.element()
	if e.service.Load() != s {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.state != queued {
		return false
	}
	s.unqueue(e, ended)
	e.task = nil
	return true
}

// unqueue takes e out of the queue, under mu.
func (s *Service) unqueue(e *Element, to state) {
	s.queue.remove(e)
	s.bytes -= e.Size
	e.state = to
	s.openRoom()
}

// Stop ends the service: its names go with it, its handle is stale, Put
// returns ErrStopped, and what is queued is rejected with it, on the caller's
// goroutine. Tasks that have started go on, and their turns with them. A later
// Stop does nothing, and does not wait for the rejections of an earlier one.
func (s *Service) Stop() {
	s.registry.remove(s)
	s.refuse(ErrStopped).reject(ErrStopped)
}

// refuse ends the taking of tasks and hands over those that wait, as a chain
// linked by next, for the caller to reject without locks. A Stop is final: the
// Drain that comes after it, or overlaps with it, changes nothing.
func (s *Service) refuse(reason error) *Element {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !errors.Is(s.refusal, ErrStopped) {
		s.refusal = reason
	}
	chain := s.queue.head
	// Each one has to know: a Remove that comes now is too late.
	for e := chain; e != nil; e = e.next {
		e.state = ended
		e.prev = nil
	}
	s.queue = list{}
	s.bytes = 0
	s.openRoom()
	return chain
}

// Load says what the service has in hand: tasks that wait for their start and
// their bytes, tasks that run, and tasks that have given their turn away.
func (s *Service) Load() (queued int, bytes int64, running, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue.n, s.bytes, s.running, s.away
}
