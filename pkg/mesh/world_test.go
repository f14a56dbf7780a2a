package mesh_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshnode/meshnode/pkg/mesh"
	"github.com/meshnode/meshnode/test/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a network in memory with processes on it, in virtual time: a sleep
// costs nothing, and synctest.Wait returns when everything is at rest.
type world struct {
	*testing.T
	*memnet.Net
	all []*mesh.Mesh
}

// inWorld runs f in a bubble of virtual time and closes its processes after it;
// a goroutine that they leave behind fails the test.
func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, Net: memnet.New()}
		defer func() {
			for _, m := range w.all {
				if err := m.Close(context.Background()); err != nil {
					t.Errorf("close %s: %v", m.Name(), err)
				}
			}
			time.Sleep(time.Minute) // what gRPC's timers hold
		}()
		f(w)
	})
}

// process starts a process. set may change its options.
func (w *world) process(name string, set ...func(*mesh.Options)) *mesh.Mesh {
	w.Helper()
	o := mesh.Options{Name: name, Dial: w.Dial, Listen: w.Listen, Insecure: true}
	for _, f := range set {
		f(&o)
	}
	m, err := mesh.New(o)
	if err != nil {
		w.Fatal(err)
	}
	w.all = append(w.all, m)
	return m
}

// serve starts a process that listens at addr and has a service by that name.
func (w *world) serve(process, addr, name string, h mesh.Handler, opts ...mesh.ServiceOption) *mesh.Mesh {
	w.Helper()
	m := w.process(process)
	w.open(m, addr)
	w.register(m, name, h, opts...)
	return m
}

func (w *world) open(m *mesh.Mesh, nodeOrAddr string) *mesh.Listener {
	w.Helper()
	l, err := m.Open(nodeOrAddr)
	if err != nil {
		w.Fatal(err)
	}
	return l
}

func (w *world) register(m *mesh.Mesh, name string, h mesh.Handler, opts ...mesh.ServiceOption) *mesh.Service {
	w.Helper()
	s := m.NewService(h, opts...)
	if err := m.Register(name, s); err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) reload(m *mesh.Mesh, t mesh.Table) {
	w.Helper()
	if err := m.Reload(t); err != nil {
		w.Fatal(err)
	}
}

// within is a context that ends after d of virtual time.
func (w *world) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	w.Cleanup(cancel)
	return ctx
}

// echo answers with what it got.
func echo(_ context.Context, _ string, payload []byte) ([]byte, error) { return payload, nil }
