package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/channel"
	"github.com/meshnode/meshnode/pkg/registry"
)

// Handler handles the messages of a service. The payload is its own for good;
// its reply must not be changed afterwards. For a push the reply is ignored, and an error is
// logged. Its context ends with the call's deadline, when the caller cancels,
// when the link breaks, and when the handler returns; CallerFrom tells from it
// who calls.
//
// An error with a gRPC status reaches the caller with code, message and
// details; another one as UNKNOWN with its text.
type Handler func(ctx context.Context, method string, payload []byte) ([]byte, error)

// ServiceOption says how a service runs its messages.
type ServiceOption func(*serviceOptions)

type serviceOptions struct{ concurrency int }

// Serial runs messages one at a time, in order, as skynet does; while a handler
// waits in the mesh with its own context, the next message starts. It is the
// default for services with a plain Handler. State of a serial service needs no
// lock, and may have changed after a wait. A handler that waits for its own
// service with another context than its own waits until that context ends.
func Serial() ServiceOption { return func(o *serviceOptions) { o.concurrency = 0 } }

// Concurrent takes messages in order and runs up to n at once; n of 0 or less
// is 1,000. Concurrent(1000) is the default for services of generated stubs.
func Concurrent(n int) ServiceOption {
	if n <= 0 {
		n = defaultConcurrency
	}
	return func(o *serviceOptions) { o.concurrency = n }
}

const defaultConcurrency = 1000

// Service is a handler, or a set of generated gRPC services, that others can
// call by name or handle. It is a grpc.ServiceRegistrar.
type Service struct {
	mesh    *Mesh
	reg     *registry.Service
	handler Handler
	// programs serve it, instead of a handler of this process; nil where none do.
	programs *group
	raw      grpc.StreamHandler // instead of handler: takes every method as a stream

	hidden  atomic.Bool // see Offer
	mu      sync.Mutex  // for RegisterService
	infos   map[string]grpc.ServiceInfo
	methods atomic.Pointer[map[string]method]
}

// method is one method of a generated service.
type method struct {
	impl   any
	run    grpc.MethodHandler // nil for a streaming method
	stream *grpc.StreamDesc   // nil for a unary one
}

// NewService makes a service without a name. A nil handler is for services
// whose methods come from RegisterService alone.
func (m *Mesh) NewService(h Handler, opts ...ServiceOption) *Service {
	var o serviceOptions
	if h == nil {
		o.concurrency = defaultConcurrency
	}
	for _, opt := range opts {
		opt(&o)
	}
	l := m.opt.Limits
	s := &Service{mesh: m, handler: h}
	s.methods.Store(&map[string]method{})
	s.reg = m.reg.NewService(registry.Limits{
		Concurrency: o.concurrency, Messages: l.QueueMessages, Bytes: l.QueueBytes, Waiting: l.ServiceWaiting,
	})
	s.reg.Owner = s
	return s
}

// Handle names the service for this life of the process.
func (s *Service) Handle() Handle { return Handle(s.reg.Handle()) }

// Offer hides the service's names from Query and Names, or shows them again:
// whoever looks for what is there does not find a service that stands for
// something that is away. Messages for it still reach its handler, which can
// refuse them (Reject) or wait.
func (s *Service) Offer(offered bool) { s.hidden.Store(!offered) }

// Stop ends the service: its names go with it, messages that wait for it are
// rejected (stale handle), running handlers go on.
func (s *Service) Stop() {
	s.reg.Stop()
}

// RegisterService adds a generated gRPC service, its streaming methods included;
// generated Register functions call it. It panics where the service is there
// already, as gRPC does.
func (s *Service) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := maps.Clone(*s.methods.Load())
	info := grpc.ServiceInfo{Metadata: desc.Metadata}
	add := func(name string, clientStreams, serverStreams bool, m method) {
		full := "/" + desc.ServiceName + "/" + name
		if _, taken := all[full]; taken {
			panic(fmt.Sprintf("mesh: %s is registered already", full))
		}
		all[full] = m
		info.Methods = append(info.Methods, grpc.MethodInfo{Name: name, IsClientStream: clientStreams, IsServerStream: serverStreams})
	}
	for _, d := range desc.Methods {
		add(d.MethodName, false, false, method{impl: impl, run: d.Handler})
	}
	for i := range desc.Streams {
		d := &desc.Streams[i]
		add(d.StreamName, d.ClientStreams, d.ServerStreams, method{impl: impl, stream: d})
	}
	s.methods.Store(&all)
	if s.infos == nil {
		s.infos = make(map[string]grpc.ServiceInfo)
	}
	s.infos[desc.ServiceName] = info
}

// GetServiceInfo lists the generated services that were registered, by name. So
// reflection.Register(s), of gRPC's package reflection, works: a service tells
// its schema where that was called.
func (s *Service) GetServiceInfo() map[string]grpc.ServiceInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.infos)
}

// Register gives a service a name, with its sign: "@sdb" for the cluster,
// ".launcher" for this process's friends; without a sign it is "@". A name that
// is taken is an error (ErrNameTaken), as are a name that breaks the rules
// (ErrInvalidName) and a service that was stopped (ErrStaleHandle); a second
// name of the same kind replaces the first.
func (m *Mesh) Register(name string, s *Service) error {
	if s == nil || s.mesh != m {
		return fmt.Errorf("register %q: the service is not one of this Mesh's NewService", cut(name))
	}
	err := m.reg.Register(name, s.reg)
	switch {
	case errors.Is(err, registry.ErrInvalidName):
		return channel.NewError(NotSent, ErrInvalidName, "register: "+err.Error())
	case errors.Is(err, registry.ErrStopped):
		return channel.NewError(NotSent, ErrStaleHandle, fmt.Sprintf("register %q: %v", cut(name), err))
	case err != nil:
		return fmt.Errorf("register: %w", err)
	}
	return nil
}

// Unregister takes a name away. An unknown one is no error.
func (m *Mesh) Unregister(name string) { m.reg.Unregister(name) }
