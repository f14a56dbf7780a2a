package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
	"github.com/meshnode/meshnode/pkg/registry"
)

// The metrics of namesStudy, in ns for one name.
const (
	mRegister = "register_ns" // NewService and Register
	mLookUp   = "look_up_ns"  // in the registry, of random names
	mStop     = "stop_ns"     // of a service with its name
)

// namesStudy has a process with many services, each with a name.
func namesStudy() study {
	return study{
		name: "names", about: "services with a name each: registering, looking up, and calls of 16 callers to random ones", unit: "names",
		sizes: []int{10, 100, 1000, 10_000, 100_000}, quick: []int{10, 100_000}, seconds: 1.8,
		variants: []variant{{name: "mesh", about: "Mesh.NewService and Mesh.Register; calls over a link", run: registered}},
		columns:  []column{{"register ns", mRegister, ""}, {"look-up ns", mLookUp, ""}, {"stop ns", mStop, ""}, {"B a service", mMemory, ""}, {"calls/s", mRate, ""}, {"CPU µs", mCPU, ""}, {"p50 µs", mP50, ""}, {"p99", mP99, ""}},
		charts: []scaleChart{
			{name: "names", title: "Names in a process", about: "time for one, by names that are registered", yTitle: "ns (log)", lines: []scaleLine{{"register", "mesh", mRegister}, {"look-up", "mesh", mLookUp}, {"stop", "mesh", mStop}}},
			{name: "names-calls", title: "Calls to random names, by names that are registered", about: "16 callers of 64 B over one link, both ends in one process", yTitle: "µs of processor time a call", linear: true, lines: []scaleLine{{"CPU", "mesh", mCPU}}},
		},
	}
}

func serviceName(i int) string { return fmt.Sprintf("@service-%d", i) }

func registered(ctx context.Context, n int) (metrics, error) {
	server, addr, err := echoMesh(mesh.Options{Name: "listener"})
	if err != nil {
		return nil, err
	}
	m, err := mesh.New(mesh.Options{Name: "caller"})
	if err != nil {
		return nil, err
	}
	if err := m.Reload(mesh.Table{"db": addr}); err != nil {
		return nil, err
	}
	if err := ready(ctx, m, []string{"db"}); err != nil {
		return nil, err
	}
	names := make([]string, n)
	for i := range names {
		names[i] = serviceName(i)
	}
	services := make([]*mesh.Service, n)
	echo := func(_ context.Context, _ string, payload []byte) ([]byte, error) { return payload, nil }
	figures, before := metrics{}, measureFootprint()
	begun := time.Now()
	for i, name := range names {
		services[i] = server.NewService(echo)
		if err := server.Register(name, services[i]); err != nil {
			return nil, err
		}
	}
	figures[mRegister] = float64(time.Since(begun).Nanoseconds()) / float64(n)
	before.put(figures, n)
	calls, err := closedLoop(ctx, []client{namesClient{m, names}}, 16, 64, 100*time.Millisecond, 500*time.Millisecond)
	if err != nil {
		return nil, err
	}
	for _, k := range []string{mRate, mCPU, mP50, mP99} {
		figures[k] = calls[k]
	}
	begun = time.Now()
	for _, s := range services {
		s.Stop()
	}
	figures[mStop] = float64(time.Since(begun).Nanoseconds()) / float64(n)
	figures[mLookUp], err = lookUp(names)
	return figures, err
}

// lookUp is the time of one look-up in a registry of its own.
func lookUp(names []string) (float64, error) {
	r := registry.New(1)
	for _, name := range names {
		if err := r.Register(name, r.NewService(registry.Limits{})); err != nil {
			return 0, err
		}
	}
	const times = 500_000
	asked := make([]string, 1<<16) // so that choosing costs nothing
	for i := range asked {
		asked[i] = names[rand.IntN(len(names))]
	}
	begun := time.Now()
	for i := range times {
		if _, err := r.ByName(asked[i%len(asked)]); err != nil {
			return 0, err
		}
	}
	return float64(time.Since(begun).Nanoseconds()) / times, nil
}

// namesClient calls random names.
type namesClient struct {
	m     *mesh.Mesh
	names []string
}

func (c namesClient) caller(ctx context.Context, _ int) (caller, error) {
	return namesCaller{meshCaller{m: c.m, ctx: ctx}, c.names, rand.New(rand.NewPCG(1, 2))}, nil
}

func (namesClient) close() {}

type namesCaller struct {
	meshCaller
	names []string
	rand  *rand.Rand
}

func (c namesCaller) call(payload []byte) ([]byte, error) {
	c.target = "db" + c.names[c.rand.IntN(len(c.names))]
	return c.meshCaller.call(payload)
}
