package mesh_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// M7, M12, M14: callers of an absent node wait in a line; a reload brings it
// with one dial, and all are answered in the order in which they stood.
func TestThousandCallersWaitForAbsentNode(t *testing.T) {
	inWorld(t, func(w *world) {
		var order []string
		w.serve("server", "db:1", "sdb", func(_ context.Context, method string, _ []byte) ([]byte, error) {
			order = append(order, method)
			return []byte(method), nil
		})
		m := w.process("client")
		const callers = 1000
		var wg sync.WaitGroup
		var want []string
		for i := range callers {
			method := fmt.Sprint(i)
			want = append(want, method)
			wg.Go(func() {
				got, err := m.Call(w.within(time.Hour), "db@sdb", method, nil)
				if err != nil || string(got) != method {
					t.Errorf("call %s: %q, %v", method, got, err)
				}
			})
			synctest.Wait() // it stands in the line before the next one comes
		}
		if n := m.Stats().Waiting; n != callers {
			t.Fatalf("%d callers wait, want %d", n, callers)
		}
		w.reload(m, mesh.Table{"db": "db:1"})
		wg.Wait()
		if !slices.Equal(order, want) {
			t.Error("calls did not start in the order in which they stood")
		}
		if n := w.Dials("db:1"); n != 1 {
			t.Errorf("%d dials, want 1", n)
		}
	})
}
