package mesh_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// gate is a handler that holds its messages until they are let go.
type gate struct {
	arrivals
	hold chan struct{}
}

func newGate() *gate { return &gate{hold: make(chan struct{})} }

func (g *gate) handle(ctx context.Context, method string, p []byte) ([]byte, error) {
	_, _ = g.arrivals.handle(ctx, method, p)
	<-g.hold
	return p, nil
}

// M27: a concurrent service takes messages in their order and runs n at once.
func TestConcurrentServiceRunsSoManyAtOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		opt  mesh.ServiceOption
		want int
	}{
		{"serial", mesh.Serial(), 1},
		{"one", mesh.Concurrent(1), 1},
		{"three", mesh.Concurrent(3), 3},
		{"unset", mesh.Concurrent(0), 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				g := newGate()
				w.serve("server", "db:1", "sdb", g.handle, c.opt)
				m := lonely(mesh.Table{"db": "db:1"})(w)
				var order []string
				for i := range c.want + 5 {
					order = append(order, fmt.Sprint(i))
					if err := m.Send(w.within(time.Minute), "db@sdb", fmt.Sprint(i), nil); err != nil {
						t.Error(err)
					}
				}
				synctest.Wait()
				if n := len(g.methods()); n != c.want {
					t.Errorf("%d run at once, want %d", n, c.want)
				}
				// Those that start together may pass each other; the next one
				// is the next in the order.
				for i := range 5 {
					g.hold <- struct{}{}
					synctest.Wait()
					if got, want := g.methods(), order[:c.want+1+i]; len(got) != len(want) || got[len(got)-1] != want[len(want)-1] {
						t.Errorf("%d messages started, the last is %q; want %d, %q", len(got), got[len(got)-1], len(want), want[len(want)-1])
					}
				}
				close(g.hold)
				synctest.Wait()
				if got := g.methods(); len(got) != len(order) {
					t.Errorf("%d messages ran", len(got))
				}
			})
		})
	}
}

// database is a generated service whose Get holds its caller.
type database struct {
	simpledbv1.UnimplementedSimpleDBServiceServer
	hold chan struct{}
}

func (d *database) Get(_ context.Context, r *simpledbv1.GetRequest) (*simpledbv1.GetResponse, error) {
	if r.GetKey() == "hold" {
		<-d.hold
	}
	return &simpledbv1.GetResponse{Value: proto.String(r.GetKey())}, nil
}

// M27, M51: services of generated stubs run at once, unless they ask for Serial.
func TestGeneratedServicesAreConcurrentUnlessSerial(t *testing.T) {
	for name, opts := range map[string][]mesh.ServiceOption{"concurrent": nil, "serial": {mesh.Serial()}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s, d := w.process("server"), &database{hold: make(chan struct{})}
				w.open(s, "db:1")
				simpledbv1.RegisterSimpleDBServiceServer(w.register(s, "sdb", nil, opts...), d)
				m := lonely(mesh.Table{"db": "db:1"})(w)
				db := simpledbv1.NewSimpleDBServiceClient(m.Proxy("db@sdb"))
				got := make(chan string, 3)
				for _, key := range []string{"hold", "second"} {
					go func() {
						r, err := db.Get(w.within(time.Minute), &simpledbv1.GetRequest{Key: key})
						if err != nil {
							t.Error(err)
						}
						got <- r.GetValue()
					}()
					synctest.Wait()
				}
				if passed := len(got) == 1; passed != (name == "concurrent") {
					t.Errorf("the second call passed the first: %t", passed)
				}
				close(d.hold)
				both := []string{<-got, <-got}
				if slices.Sort(both); !slices.Equal(both, []string{"hold", "second"}) {
					t.Errorf("the replies were %q", both)
				}
			})
		})
	}
}

// M27: a handler of a concurrent service that waits in the mesh keeps its place.
func TestConcurrentServiceKeepsThePlaceOfWhoWaits(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newGate()
		w.serve("server", "db:1", "sdb", func(ctx context.Context, method string, p []byte) (r []byte, err error) {
			mesh.Await(ctx, func() { r, err = g.handle(ctx, method, p) })
			return r, err
		}, mesh.Concurrent(2))
		m := lonely(mesh.Table{"db": "db:1"})(w)
		for i := range 4 {
			if err := m.Send(w.within(time.Minute), "db@sdb", fmt.Sprint(i), nil); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if n := len(g.methods()); n != 2 {
			t.Errorf("%d run at once, want 2", n)
		}
		close(g.hold)
	})
}

// M28: a service that does not answer holds up no other service, and no reply of
// its process, on the same link.
func TestSlowServiceHoldsUpNoOther(t *testing.T) {
	inWorld(t, func(w *world) {
		slow := newGate()
		s := w.serve("server", "db:1", "slow", slow.handle)
		w.register(s, "fast", echo)
		m := lonely(mesh.Table{"db": "db:1"})(w)
		answers := make(chan error, 500)
		for range cap(answers) {
			go func() { _, err := m.Call(w.within(time.Hour), "db@slow", "X", make([]byte, 1000)); answers <- err }()
			if err := m.Send(w.within(time.Hour), "db@slow", "X", make([]byte, 1000)); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		start := time.Now()
		for _, size := range []int{0, 1000, 1 << 20} {
			if got, err := m.Call(w.within(time.Hour), "db@fast", "X", make([]byte, size)); err != nil || len(got) != size {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		}
		if !time.Now().Equal(start) || len(answers) != 0 {
			t.Errorf("the fast service took %s; %d calls of the slow one have ended", time.Since(start), len(answers))
		}
		close(slow.hold)
		for range cap(answers) {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
	})
}

// M28, M57: only a push that finds its service's queue three quarters full holds
// up what comes behind it, until there is room.
func TestPushToAFullServiceHoldsUpItsLink(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.process("server", withLimits(mesh.Limits{QueueMessages: 8}))
		w.open(s, "db:1")
		slow := newGate()
		w.register(s, "slow", slow.handle)
		w.register(s, "fast", echo)
		m := lonely(mesh.Table{"db": "db:1"})(w)
		call := func(what string, blocked bool) {
			_, err := m.Call(w.within(time.Minute), "db@fast", "X", nil)
			if (err != nil) != blocked {
				t.Errorf("%s: %v", what, err)
			}
		}
		for range 1 + 6 { // one runs, six wait
			if err := m.Send(w.within(time.Hour), "db@slow", "X", nil); err != nil {
				t.Error(err)
			}
		}
		call("at the bound", false)
		if err := m.Send(w.within(time.Hour), "db@slow", "X", nil); err != nil {
			t.Error(err)
		}
		call("above it", true)
		slow.hold <- struct{}{}
		call("with room", false)
		close(slow.hold)
		synctest.Wait()
		if n := len(slow.methods()); n != 8 {
			t.Errorf("%d of 8 pushes ran", n)
		}
		if n := m.Stats().LinksLost; n != 0 {
			t.Errorf("%d links were lost while one was not read", n)
		}
	})
}
