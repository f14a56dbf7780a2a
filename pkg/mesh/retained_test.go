package mesh_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// M56: a peer that does not read its answers holds neither the requests that
// were answered or refused, nor the replies that it cancelled.
func TestAnsweredRequestsAreNotHeld(t *testing.T) {
	for name, c := range map[string]struct {
		target, method string
		n, size        int
	}{
		"answered":  {"@sdb", "X", 1000, 32 << 10},
		"refused":   {"@nobody", "X", 1000, 32 << 10},
		"cancelled": {"@sdb", "LARGE", 60, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.serve("server", "db:1", "sdb", func(_ context.Context, method string, _ []byte) ([]byte, error) {
					if method == "LARGE" {
						return make([]byte, 1<<20), nil
					}
					return nil, nil
				})
				r := w.rogueOn(w.rogueConn("db:1"))
				r.say(rogueHello())
				r.hear()
				for s := range uint64(3) { // fill the window, so that answers wait
					r.say(rogueCall(s+1, "@sdb", "LARGE", nil))
				}
				synctest.Wait()
				before := heapBytes()
				for i := range c.n {
					s := uint64(i) + 4
					r.say(rogueCall(s, c.target, c.method, make([]byte, c.size)))
					if c.method == "LARGE" {
						synctest.Wait()
						r.say(rogueCancel(s))
					}
					if i%50 == 0 {
						synctest.Wait()
					}
				}
				synctest.Wait()
				if held := heapBytes() - before; held > 12<<20 {
					t.Errorf("%d MiB are held", held>>20)
				}
				r.cancel()
			})
		})
	}
}

// M56: a link does not keep the last large push that it sent.
func TestSentPushIsNotKept(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", func(context.Context, string, []byte) ([]byte, error) { return nil, nil })
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		if err := m.WaitReady(w.within(time.Minute), "db"); err != nil {
			t.Fatal(err)
		}
		before := heapBytes()
		if err := m.Send(w.within(time.Minute), "db@sdb", "x", make([]byte, 60<<20), mesh.Owned); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if held := heapBytes() - before; held > 20<<20 {
			t.Errorf("%d MiB are held", held>>20)
		}
	})
}

// M55: two handlers that close the same listener do not wait for each other.
func TestTwoHandlersCloseOneListener(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.process("server")
		l := w.open(s, "db:1")
		var wg sync.WaitGroup
		for _, name := range []string{"a", "b"} {
			wg.Add(1)
			w.register(s, name, func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
				defer wg.Done()
				time.Sleep(time.Second)
				start := time.Now()
				if err := l.Close(ctx); err != nil || time.Since(start) > time.Second {
					t.Errorf("closed after %s: %v", time.Since(start), err)
				}
				return nil, nil
			})
		}
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		for _, name := range []string{"a", "b"} {
			go func() { _, _ = m.Call(w.within(time.Minute), "db@"+name, "x", nil) }()
		}
		wg.Wait()
	})
}
