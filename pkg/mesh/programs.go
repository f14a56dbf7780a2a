package mesh

import (
	"fmt"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/meshnode/meshnode/pkg/channel"
	"github.com/meshnode/meshnode/pkg/registry"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// programs joins those who serve (Serve) to the names of this process. Each name
// is a service that runs nothing: its messages wait in its queue, as those of
// any service, and go to the program that has the fewest, when that has room.
type programs struct {
	m *Mesh

	mu     sync.Mutex        // one registration at a time
	groups map[string]*group // by canonical name
}

// group is one name and the programs that serve it. Locks are taken in the order
// programs.mu, group.mu, and then those of registry and channel.
type group struct {
	m    *Mesh
	name string
	svc  *Service

	mu      sync.Mutex
	shared  bool
	closed  bool // the name was taken back: what waits is still answered
	members []*member
}

// member is one program of a group.
type member struct {
	p       *channel.Program
	leaving bool // takes no more
}

// served is what one program serves: Program.Owner.
type served struct {
	mu     sync.Mutex
	groups []*group
}

// Register gives a name to a program.
func (ps *programs) Register(p *channel.Program, name string, shared bool) (uint64, *channel.Failure) {
	name, err := registry.CanonicalName(name)
	if err != nil {
		return 0, refusal(err)
	}
	if refused := ps.m.guard.refusesServing(&p.Peer, name); refused != nil {
		return 0, refused
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p.Owner == nil {
		p.Owner = new(served)
	}
	own := p.Owner.(*served)
	if limit := ps.m.opt.Limits.ProgramNames; own.count() >= limit {
		return 0, channel.Refuse(meshv1.Reason_REASON_OVERLOADED, fmt.Sprintf("overloaded: names of this program, at most %d", limit))
	}
	g := ps.groups[name]
	if g == nil {
		var refused *channel.Failure
		if g, refused = ps.found(name, shared); refused != nil {
			return 0, refused
		}
	}
	if refused := g.join(p, shared); refused != nil {
		return 0, refused
	}
	own.add(g)
	ps.m.opt.Logger.Debug("name registered by a program", zap.String("name", name), zap.String("program", p.Peer.Process))
	return g.svc.reg.Handle(), nil
}

// found makes the group of a name that no program has.
func (ps *programs) found(name string, shared bool) (*group, *channel.Failure) {
	l := ps.m.opt.Limits
	reg := ps.m.reg.NewPulled(registry.Limits{Messages: l.QueueMessages, Bytes: min(l.QueueBytes, l.ProgramBytes)})
	if reg == nil {
		return nil, channel.Refuse(meshv1.Reason_REASON_OVERLOADED, "overloaded: this process has no handles left for programs")
	}
	g := &group{m: ps.m, name: name, shared: shared}
	g.svc = &Service{mesh: ps.m, reg: reg, programs: g}
	g.svc.methods.Store(&map[string]method{})
	reg.Owner = g.svc
	if err := ps.m.reg.Register(name, reg); err != nil {
		reg.Stop()
		return nil, nameTaken(name)
	}
	ps.groups[name] = g
	return g, nil
}

func nameTaken(name string) *channel.Failure {
	return channel.Refuse(meshv1.Reason_REASON_NAME_TAKEN, fmt.Sprintf("name taken: %q", cut(name)))
}

// Unregister takes a name back from a program. What came before is answered.
func (ps *programs) Unregister(p *channel.Program, name string) (uint64, *channel.Failure) {
	name, err := registry.CanonicalName(name)
	if err != nil {
		return 0, refusal(err)
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	own, _ := p.Owner.(*served)
	g := ps.groups[name]
	if own == nil || g == nil || !g.has(p) {
		return 0, nil
	}
	if g.alone() {
		ps.m.reg.Unregister(name)
		delete(ps.groups, name)
		g.close()
	} else {
		g.leave(p)
		own.remove(g)
	}
	g.pump()
	return g.svc.reg.Handle(), nil
}

// Room hands on what waits for a program.
func (ps *programs) Room(p *channel.Program) {
	own, _ := p.Owner.(*served)
	if own == nil {
		return
	}
	for _, g := range own.all() {
		if g.pump() {
			own.remove(g)
		}
	}
}

// Leaving gives what waits to the other programs of the names, or refuses it.
func (ps *programs) Leaving(p *channel.Program) {
	own, _ := p.Owner.(*served)
	if own == nil {
		return
	}
	for _, g := range own.all() {
		g.retire(p)
		g.pump()
	}
}

// Gone takes the program's names away, but for those that others serve too.
func (ps *programs) Gone(p *channel.Program) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	own, _ := p.Owner.(*served)
	if own == nil {
		return
	}
	for _, g := range own.all() {
		last := g.leave(p)
		g.pump()
		if last {
			if ps.groups[g.name] == g {
				delete(ps.groups, g.name)
			}
			g.svc.reg.Stop()
		}
		own.remove(g)
	}
}

func (s *served) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.groups)
}

func (s *served) all() []*group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.groups)
}

func (s *served) add(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups = append(s.groups, g)
}

func (s *served) remove(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups = slices.DeleteFunc(s.groups, func(x *group) bool { return x == g })
}

// join adds a program, where the others allow it. Those that leave do not count.
func (g *group) join(p *channel.Program, shared bool) *channel.Failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.members {
		if m.p == p || !m.leaving && !(g.shared && shared) {
			return nameTaken(g.name)
		}
	}
	if !g.live() {
		g.shared = shared
	}
	g.members = append(g.members, &member{p: p})
	return nil
}

// leave removes a program, and says whether it was the last one.
func (g *group) leave(p *channel.Program) (last bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = slices.DeleteFunc(g.members, func(m *member) bool { return m.p == p })
	return len(g.members) == 0
}

// retire notes that a program takes no more.
func (g *group) retire(p *channel.Program) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.members {
		if m.p == p {
			m.leaving = true
		}
	}
}

// close ends the taking of messages; those that wait still go to the program.
func (g *group) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

func (g *group) has(p *channel.Program) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.members, func(m *member) bool { return m.p == p })
}

func (g *group) alone() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.members) == 1
}

// live is called under the lock: a program takes messages.
func (g *group) live() bool {
	return slices.ContainsFunc(g.members, func(m *member) bool { return !m.leaving })
}

// refuses says why the name takes nothing.
func (g *group) refuses() *channel.Failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return refusal(fmt.Errorf("%w: %q was unregistered", registry.ErrStaleHandle, cut(g.name)))
	case !g.live():
		return g.left()
	default:
		return nil
	}
}

func (g *group) left() *channel.Failure {
	return channel.Refuse(meshv1.Reason_REASON_DRAINING, fmt.Sprintf("the program that serves %q is leaving, and the message had not started", cut(g.name)))
}

// pump hands on what waits, while programs have room. It says whether the group
// has nothing more to do: it is closed, and nothing waits.
func (g *group) pump() (done bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		forCall, forPush := g.pick()
		live := g.live()
		t := g.svc.reg.Take(forCall != nil || !live, forPush != nil || !live)
		if t == nil {
			break
		}
		in := t.(*inbound)
		to := forCall
		if in.Push {
			to = forPush
		}
		if !live {
			in.refuse(g.left())
			continue
		}
		in.hand(to, g.name)
	}
	if queued, _, _, _ := g.svc.reg.Load(); g.closed && queued == 0 {
		g.svc.reg.Stop()
		return true
	}
	return false
}

// pick finds the programs that have the fewest messages and take a call, or a
// push. Under the lock.
func (g *group) pick() (forCall, forPush *channel.Program) {
	var leastCall, leastPush int
	for _, m := range g.members {
		if m.leaving {
			continue
		}
		load, calls, pushes := m.p.Room()
		if calls && (forCall == nil || load < leastCall) {
			forCall, leastCall = m.p, load
		}
		if pushes && (forPush == nil || load < leastPush) {
			forPush, leastPush = m.p, load
		}
	}
	return forCall, forPush
}
