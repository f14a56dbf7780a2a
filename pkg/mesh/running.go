package mesh

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/meshnode/meshnode/pkg/channel"
	"github.com/meshnode/meshnode/pkg/registry"
)

// runningSet holds the messages whose handlers run.
type runningSet struct {
	mu  sync.Mutex
	all map[*inbound]struct{}
}

func (s *runningSet) add(in *inbound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[*inbound]struct{})
	}
	s.all[in] = struct{}{}
}

func (s *runningSet) remove(in *inbound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, in)
}

func (s *runningSet) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// endAll ends the contexts of the handlers that still run, and names them.
func (s *runningSet) endAll(except *channel.Request, log *zap.Logger) {
	s.mu.Lock()
	left := make([]*inbound, 0, len(s.all))
	for in := range s.all {
		left = append(left, in)
	}
	s.mu.Unlock()
	for _, in := range left {
		in.end(context.Canceled)
		if in.req != except {
			log.Warn("a handler still runs after the mesh was closed", zap.String("service", in.address()),
				zap.String("method", in.req.Method), zap.String("peer", in.req.Peer.Process))
		}
	}
}

// serviceMap finds the Service of what the registry found.
type serviceMap struct{ m sync.Map }

// Store adds a service.
func (s *serviceMap) Store(r *registry.Service, v *Service) { s.m.Store(r, v) }

// Delete forgets one.
func (s *serviceMap) Delete(r *registry.Service) { s.m.Delete(r) }

// Load finds one.
func (s *serviceMap) Load(r *registry.Service) (*Service, bool) {
	v, ok := s.m.Load(r)
	if !ok {
		return nil, false
	}
	return v.(*Service), true
}
