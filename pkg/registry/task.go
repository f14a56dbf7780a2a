package registry

import "sync/atomic"

// Task is one message. Whoever implements it embeds Element, and uses it
// through a pointer.
//
// A task that Put has taken gets exactly one of four ends: Run is called,
// Reject is called, Remove returned true for it, or Take returned it.
type Task interface {
	// Run does the work, on a goroutine of the service. It may take as long
	// as it likes and may call runtime.Goexit. It must not panic: a panic
	// ends the process, as one in any goroutine does.
	Run()

	// Reject says that the task will never run: its service was stopped
	// (ErrStopped) or the registry was drained (the reason of that). It runs
	// on the goroutine that stops or drains, in the order of the queue, and
	// should be short.
	Reject(reason error)

	element() *Element
}

// Element is what a service needs of a task: its place in the queue and its
// turn. The zero value is ready. An element belongs to one task and is taken
// by Put once; after a Put that failed it is as new.
type Element struct {
	// Size is what the message counts in the queue, in bytes. What belongs
	// to it is for the caller to say (M56). It stays as it is after Put.
	Size int64
	// Push marks a one-way message: it finds the queue full earlier than a
	// call does. It stays as it is after Put.
	Push bool

	state state // under service.mu, as all below it
	task  Task
	wake  chan struct{} // closed when a Retake that blocks may return
	prev  *Element      // neighbours in the list that the state tells
	next  *Element

	// service is set once, by the Put that takes the task: Yield, Retake and
	// Remove learn from it which lock to take.
	service atomic.Pointer[Service]
}

// state is where a task stands. It only moves
//
//	fresh -> queued -> running <-> away -> ended
//	          |           ^         |
//	          v           |         v
//	        ended         +--- returning -> ended
//
// and, of a pulled service, fresh -> queued <-> taken.
type state uint8

const (
	fresh     state = iota // not taken by any service
	queued                 // in Service.queue
	running                // Run was called; of a serial service: it has the turn
	away                   // Run was called, its turn is given away
	returning              // as away, and in Service.returning for its turn
	ended                  // Run has returned; or rejected, or removed
	taken                  // Take gave it away
)

func (e *Element) element() *Element { return e }

// reject tells a chain of elements, linked by next, that they will never run.
// The chain has left its service, so it is the caller's alone.
func (e *Element) reject(reason error) {
	for e != nil {
		next, task := e.next, e.task
		e.next, e.task = nil, nil
		task.Reject(reason)
		e = next
	}
}

// list is a doubly linked list through the elements themselves: a task is
// queued without allocating, and taken out of the middle at no cost. An
// element is in one list at most.
type list struct {
	head, tail *Element
	n          int
}

func (l *list) push(e *Element) {
	e.prev, e.next = l.tail, nil
	if l.tail == nil {
		l.head = e
	} else {
		l.tail.next = e
	}
	l.tail = e
	l.n++
}

func (l *list) pushFront(e *Element) {
	e.prev, e.next = nil, l.head
	if l.head == nil {
		l.tail = e
	} else {
		l.head.prev = e
	}
	l.head = e
	l.n++
}

func (l *list) remove(e *Element) {
	if e.prev == nil {
		l.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
	l.n--
}
