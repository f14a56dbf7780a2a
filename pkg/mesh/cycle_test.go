package mesh_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// ring is services that call the next one as often as the payload says.
type ring struct {
	*world
	all []*mesh.Mesh
	ran []int // by service, guarded by its turn
}

// newRing puts one serial service into each of n processes.
func newRing(w *world, n int) *ring {
	r := &ring{world: w, ran: make([]int, n)}
	table := mesh.Table{}
	for i := range n {
		addr := fmt.Sprintf("ring:%d", i+1)
		table[fmt.Sprint("n", i)] = addr
		r.all = append(r.all, w.serve(fmt.Sprint("p", i), addr, "next", r.handler(i)))
	}
	for _, m := range r.all {
		w.reload(m, table)
	}
	return r
}

func (r *ring) handler(i int) mesh.Handler {
	return func(ctx context.Context, method string, p []byte) ([]byte, error) {
		r.ran[i]++
		left, err := strconv.Atoi(string(p))
		if err != nil || left == 0 {
			return p, err
		}
		target := fmt.Sprintf("n%d@next", (i+1)%len(r.all))
		return r.all[i].Call(ctx, target, method, []byte(strconv.Itoa(left-1)))
	}
}

// turn sends n messages around at once, depth calls deep each.
func (r *ring) turn(n, depth int) {
	r.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			got, err := r.all[0].Call(r.within(time.Minute), "n0@next", "GO", []byte(strconv.Itoa(depth)))
			if err != nil || string(got) != "0" {
				r.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if !time.Now().Equal(start) {
		r.Errorf("it took %s; nobody had to wait for a clock", time.Since(start))
	}
	ran := 0
	for _, k := range r.ran {
		ran += k
	}
	if want := n * (depth + 1); ran != want {
		r.Errorf("%d handlers ran, want %d", ran, want)
	}
}

// M26, F28: a cycle of calls through serial services, 50 deep, does not block.
func TestCycleOfCallsDoesNotBlock(t *testing.T) {
	for services, depth := range map[int]int{1: 50, 2: 50, 3: 3 * 50} {
		inWorld(t, func(w *world) { newRing(w, services).turn(1, depth) })
	}
}

// M26, F28: nor do many cycles at once.
func TestManyCyclesAtOnceDoNotBlock(t *testing.T) {
	inWorld(t, func(w *world) { newRing(w, 3).turn(10, 50) })
}

// M26: two services of one process that call each other at the same time.
func TestServicesThatCallEachOther(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("one")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.open(m, "db")
		steps := map[string]int{} // by service; each is guarded by its turn
		var mu sync.Mutex
		for name, other := range map[string]string{"a": "db@b", "b": "db@a"} {
			w.register(m, name, func(ctx context.Context, method string, p []byte) ([]byte, error) {
				mu.Lock()
				steps[name]++
				mu.Unlock()
				if method == "ASK" {
					return m.Call(ctx, other, "ANSWER", p)
				}
				return p, nil
			})
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				target := []string{"db@a", "db@b"}[i%2]
				if got, err := m.Call(w.within(time.Second), target, "ASK", []byte(target)); err != nil || string(got) != target {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		wg.Wait()
		if steps["a"] != 100 || steps["b"] != 100 {
			t.Errorf("%v handlers ran, want 100 each", steps)
		}
	})
}
