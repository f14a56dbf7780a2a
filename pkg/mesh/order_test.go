package mesh_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// arrivals is what a service saw: the link by which each message came, and its
// method.
type arrivals struct {
	mu   sync.Mutex
	seen []arrival
}

type arrival struct{ link, method string }

func (a *arrivals) handle(ctx context.Context, method string, _ []byte) ([]byte, error) {
	c, _ := mesh.CallerFrom(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, arrival{c.Addr, method})
	return nil, nil
}

func (a *arrivals) methods() (ms []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.seen {
		ms = append(ms, x.method)
	}
	return ms
}

// tight makes a server that takes one large message at a time.
var tight = mesh.Limits{UnfinishedBytes: 300 << 10, CallsInFlight: 2}

// M24, M13, M39: a large push is not overtaken by what its maker sends to the
// same target after it, be it small or large, a call or a push; others pass it.
func TestNothingOvertakesALargePushToItsTarget(t *testing.T) {
	const large = 3 << 20 // more than the network and gRPC hold
	for name, limits := range map[string]mesh.Limits{"with room": {}, "one at a time": {UnfinishedBytes: large}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := w.process("server", withLimits(limits))
				w.open(s, "db:1")
				var one, two, all arrivals
				for name, seen := range map[string]*arrivals{"one": &one, "two": &two} {
					w.register(s, name, func(ctx context.Context, method string, p []byte) ([]byte, error) {
						_, _ = all.handle(ctx, method, p)
						return seen.handle(ctx, method, p)
					})
				}
				m := lonely(mesh.Table{"db": "db:1"})(w)
				ctx := w.within(time.Minute)
				if err := m.WaitReady(ctx, "db"); err != nil {
					t.Fatal(err)
				}
				send := func(target, method string, size int) {
					if err := m.Send(ctx, target, method, make([]byte, size)); err != nil {
						t.Error(err)
					}
				}
				w.Freeze("db:1", true, false) // so that the line has work to do
				send("db@one", "large", large)
				send("db@one", "small", 10)
				send("db@one", "large 2", 200<<10)
				send("db@two", "small of two", 10)
				send("db@one", "small 2", 10)
				synctest.Wait()
				w.Freeze("db:1", false, false)
				if _, err := m.Call(ctx, "db@one", "call", nil); err != nil {
					t.Error(err)
				}
				send("db@one", "large 3", 100<<10)
				if _, err := m.Call(ctx, "db@one", "large call", make([]byte, 100<<10)); err != nil {
					t.Error(err)
				}
				if got, want := one.methods(), []string{"large", "small", "large 2", "small 2", "call", "large 3", "large call"}; !slices.Equal(got, want) {
					t.Errorf("the service saw %q, want %q", got, want)
				}
				if got := all.methods(); got[0] != "small of two" {
					t.Errorf("a small push to another target waited for a large one: %q", got)
				}
			})
		})
	}
}

// M24: messages of one goroutine to one target start in the order in which they
// were made, whatever else is under way.
func TestMessagesOfOneGoroutineKeepTheirOrder(t *testing.T) {
	for _, limits := range []mesh.Limits{{}, tight, {UnfinishedBytes: 1 << 20, BatchBytes: 64 << 10, QueueMessages: 8}} {
		inWorld(t, func(w *world) {
			s := w.process("server", withLimits(limits))
			w.open(s, "db:1")
			m := lonely(mesh.Table{"db": "db:1"})(w)
			var seen [6]arrivals
			var wg sync.WaitGroup
			for i := range seen {
				name := fmt.Sprint("s", i)
				w.register(s, name, seen[i].handle, []mesh.ServiceOption{mesh.Serial(), mesh.Concurrent(1)}[i%2])
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(1, uint64(i)))
					for n := range 30 {
						size := rng.IntN(3000)
						if rng.IntN(4) == 0 {
							size = rng.IntN(250 << 10)
						}
						var err error
						if rng.IntN(3) == 0 || n == 29 {
							_, err = m.Call(w.within(time.Hour), "db@"+name, fmt.Sprint(n), make([]byte, size))
						} else {
							err = m.Send(w.within(time.Hour), "db@"+name, fmt.Sprint(n), make([]byte, size))
						}
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			for i := range seen {
				for n, method := range seen[i].methods() {
					if method != fmt.Sprint(n) {
						t.Fatalf("limits %+v: service %d saw %s in place %d", limits, i, method, n)
					}
				}
				if n := len(seen[i].methods()); n != 30 {
					t.Errorf("service %d saw %d messages", i, n)
				}
			}
		})
	}
}

// M24, M12: those who wait for each other to stand in the line are served in
// that order, calls and pushes alike.
func TestTheLineKeepsCallsAndPushesInOrder(t *testing.T) {
	inWorld(t, func(w *world) {
		var seen arrivals
		w.serve("server", "db:1", "sdb", seen.handle)
		m := w.process("client")
		var wg sync.WaitGroup
		var want []string
		for i := range 200 {
			method := fmt.Sprint(i)
			want = append(want, method)
			wg.Go(func() {
				var err error
				if i%3 == 0 {
					_, err = m.Call(w.within(time.Hour), "db@sdb", method, nil)
				} else {
					err = m.Send(w.within(time.Hour), "db@sdb", method, nil)
				}
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		w.reload(m, mesh.Table{"db": "db:1"})
		wg.Wait()
		synctest.Wait()
		if got := seen.methods(); !slices.Equal(got, want) {
			t.Errorf("served in the order %v", got)
		}
	})
}

// M24: one who waits for another goroutine's call comes after it; what was
// cancelled leaves no trace in the order of the rest.
func TestCancelledCallsLeaveTheOrderAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		var seen arrivals
		w.serve("server", "db:1", "sdb", seen.handle)
		m := w.process("client")
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		var want []string
		for i := range 100 {
			mine := w.within(time.Hour)
			if i%2 == 0 {
				mine = ctx
			} else {
				want = append(want, fmt.Sprint(i))
			}
			wg.Go(func() { _, _ = m.Call(mine, "db@sdb", fmt.Sprint(i), nil) })
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		w.reload(m, mesh.Table{"db": "db:1"})
		wg.Wait()
		if got := seen.methods(); !slices.Equal(got, want) {
			t.Errorf("served in the order %v", got)
		}
	})
}

// M25, M22: breaks make holes in the order of a goroutine's messages, but no
// repeats, and no swaps among what came by one link.
func TestBreaksMakeHolesAndNothingElse(t *testing.T) {
	inWorld(t, func(w *world) {
		var seen arrivals
		w.serve("server", "db:1", "sdb", seen.handle)
		m := lonely(mesh.Table{"db": "db:1"})(w)
		const messages = 2000
		over := make(chan struct{})
		go func() {
			rng := rand.New(rand.NewPCG(1, 2))
			for {
				select {
				case <-over:
					return
				case <-time.After(time.Duration(rng.IntN(5000)) * time.Millisecond):
					// What is on its way is lost with the connection.
					w.Freeze("db:1", true, false)
					time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
					w.Cut("db:1")
					w.Freeze("db:1", false, false)
				}
			}
		}()
		rng := rand.New(rand.NewPCG(3, 4))
		for n := range messages {
			size := rng.IntN(1000)
			if n%30 == 0 {
				size = 100 << 10
			}
			if err := m.Send(w.within(time.Hour), "db@sdb", fmt.Sprint(n), make([]byte, size)); err != nil {
				t.Error(err)
			}
			if n%8 == 0 {
				time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
			}
		}
		close(over)
		time.Sleep(time.Minute)
		synctest.Wait()
		last, count := make(map[string]int), make(map[string]int)
		for _, a := range seen.seen {
			var n int
			_, _ = fmt.Sscan(a.method, &n)
			if before, ok := last[a.link]; ok && n <= before {
				t.Errorf("%d came after %d by one link", n, before)
			}
			last[a.link] = n
			if count[a.method]++; count[a.method] > 1 {
				t.Errorf("%d came %d times", n, count[a.method])
			}
		}
		t.Logf("%d links, %d of %d messages came", len(last), len(seen.seen), messages)
		if len(last) < 5 || len(seen.seen) == messages || len(seen.seen) < messages/2 {
			t.Errorf("%d links and %d of %d messages: no breaks were tested", len(last), len(seen.seen), messages)
		}
	})
}
