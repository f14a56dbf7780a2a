// Package registry holds the names, handles and services of one process, and
// decides when a message of a service runs. It knows nothing of nodes, links
// and wire formats: a message is a Task, whatever brought it here.
//
// A message finds its Service by name or by handle and is Put into its queue.
// A serial service runs its tasks one at a time, and a task that waits for
// something else may give its turn away meanwhile (Element.Yield); a
// concurrent service runs several at once. Goroutines exist only for tasks
// that run or wait: a service that has nothing to do costs its memory.
//
// Everything here is safe for concurrent use. No lock is held while a Task's
// methods run, and nothing but Element.Retake blocks.
package registry

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
)

// The conditions that this package reports. Match them with errors.Is.
var (
	// ErrInvalidName: not a name, see CanonicalName.
	ErrInvalidName = errors.New("invalid name")
	// ErrNameNotFound: a valid name that no service has.
	ErrNameNotFound = errors.New("name not found")
	// ErrNameTaken: a service has that name already.
	ErrNameTaken = errors.New("name taken")
	// ErrStaleHandle: a handle of a stopped service, of an earlier life of
	// the process, or one that was never given.
	ErrStaleHandle = errors.New("stale handle")
	// ErrFull: the queue of the service takes no more at the moment.
	ErrFull = errors.New("service queue full")
	// ErrStopped: the service was stopped.
	ErrStopped = errors.New("service stopped")
)

// Registry is the set of services of one process, with their names.
type Registry struct {
	incarnation uint32

	// mu is taken for a map access or, by Names and Drain, for one copy. It
	// is never held together with a service's mu.
	mu       sync.RWMutex
	names    map[string]*Service // by canonical name
	services map[uint64]*Service // by handle; a stopped service is not in it
	last     uint32              // counter of the last handle
	drained  error               // why new services take nothing; nil until Drain
}

// New returns an empty registry for a process of the given incarnation, which
// becomes the upper half of every handle: a handle of an earlier life is
// therefore stale, never another service (M47). It panics on 0, the
// incarnation that no process has.
func New(incarnation uint32) *Registry {
	if incarnation == 0 {
		panic("registry: incarnation 0")
	}
	return &Registry{
		incarnation: incarnation,
		names:       make(map[string]*Service),
		services:    make(map[uint64]*Service),
	}
}

// NewService returns a new service with a handle of its own and no name. It
// lives until its Stop. After Drain it takes no tasks. A process has 2^32-1
// handles to give; the next one would have to be used again, so NewService
// panics instead.
func (r *Registry) NewService(limits Limits) *Service {
	s := newService(r, limits)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == math.MaxUint32 {
		panic("registry: all handles of this process are used up")
	}
	r.add(s)
	return s
}

// add gives s its handle. It is called under mu.
func (r *Registry) add(s *Service) {
	r.last++
	s.handle = uint64(r.incarnation)<<32 | uint64(r.last)
	s.refusal = r.drained
	r.services[s.handle] = s
}

// Register gives s a name, taken by the rule of CanonicalName. Where s has a
// name of that kind already, the new one replaces it. When Register returns,
// every ByName sees it; what waits in a queue stays where it is.
//
// The errors are ErrInvalidName, ErrNameTaken, even where s itself has the
// name, and ErrStopped, also for a service of another registry. None of them
// changes anything.
func (r *Registry) Register(name string, s *Service) error {
	name, err := CanonicalName(name)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.services[s.handle] != s {
		return ErrStopped
	}
	if r.names[name] != nil {
		return fmt.Errorf("%w: %s", ErrNameTaken, name)
	}
	kind := kindOf(name)
	if old := s.names[kind]; old != "" {
		delete(r.names, old)
	}
	s.names[kind] = name
	r.names[name] = s
	return nil
}

// Unregister removes a name, taken by the rule of CanonicalName; the service
// that had it goes on without. A name that nobody has is nothing to do.
func (r *Registry) Unregister(name string) {
	name, err := CanonicalName(name)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.names[name]; s != nil {
		s.names[kindOf(name)] = ""
		delete(r.names, name)
	}
}

// ByName finds the service that has the name now. The name carries its sign,
// as it does on the wire. The errors are ErrNameNotFound and ErrInvalidName,
// bare: a peer that asks for nonsense costs no memory here.
func (r *Registry) ByName(name string) (*Service, error) {
	r.mu.RLock()
	s := r.names[name]
	r.mu.RUnlock()
	// Only valid names are ever in the map: a hit has been checked.
	if s != nil {
		return s, nil
	}
	if nameFault(name) != "" {
		return nil, ErrInvalidName
	}
	return nil, ErrNameNotFound
}

// ByHandle finds a service by its handle; the error is ErrStaleHandle. Handle
// 0, the process itself (M49), is no service and never found here.
func (r *Registry) ByHandle(handle uint64) (*Service, error) {
	r.mu.RLock()
	s := r.services[handle]
	r.mu.RUnlock()
	if s == nil {
		return nil, ErrStaleHandle
	}
	return s, nil
}

// Names lists what is registered now, sorted by name.
func (r *Registry) Names() []Name {
	r.mu.RLock()
	names := make([]Name, 0, len(r.names))
	for name, s := range r.names {
		names = append(names, Name{name, s.handle})
	}
	r.mu.RUnlock()
	slices.SortFunc(names, func(a, b Name) int { return strings.Compare(a.Name, b.Name) })
	return names
}

// Drain ends the taking of tasks, in services still to come too: what is
// queued is rejected with reason, Put returns reason. What runs or waits to
// run on goes on; names and handles stay. No queued task of any service starts
// once the first one is rejected. The rejections run on the caller's goroutine
// and have all returned when Drain does. A later Drain changes nothing, its
// reason is not used. It panics on nil.
func (r *Registry) Drain(reason error) {
	if reason == nil {
		panic("registry: Drain without a reason")
	}
	r.mu.Lock()
	if r.drained == nil {
		r.drained = reason
	}
	reason = r.drained
	services := make([]*Service, 0, len(r.services))
	for _, s := range r.services {
		services = append(services, s)
	}
	r.mu.Unlock()

	refused := make([]*Element, len(services))
	for i, s := range services {
		refused[i] = s.refuse(reason)
	}
	for _, chain := range refused {
		chain.reject(reason)
	}
}

// remove takes s and its names out of the registry.
func (r *Registry) remove(s *Service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for kind, name := range s.names {
		if name != "" {
			delete(r.names, name)
			s.names[kind] = ""
		}
	}
	delete(r.services, s.handle)
}
