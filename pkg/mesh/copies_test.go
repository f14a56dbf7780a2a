package mesh_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// M17: a payload belongs to its maker again while the message still waits.
func TestPayloadIsCopiedWhenTheMessageIsMade(t *testing.T) {
	for _, size := range []int{1, 100, 40 << 10} {
		inWorld(t, func(w *world) {
			want := bytes.Repeat([]byte("a"), size)
			pushed := make(chan []byte, 1)
			w.serve("server", "db:1", "sdb", func(_ context.Context, method string, p []byte) ([]byte, error) {
				if method == "PUSH" {
					pushed <- p
				}
				return p, nil
			})
			m := w.process("client")
			var wg sync.WaitGroup
			called, sent := bytes.Clone(want), bytes.Clone(want)
			wg.Go(func() {
				got, err := m.Call(w.within(time.Minute), "db@sdb", "ECHO", called)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("the call brought other bytes than it was made with (%v)", err)
				}
			})
			wg.Go(func() {
				if err := m.Send(w.within(time.Minute), "db@sdb", "PUSH", sent); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait() // both wait for the node
			clear(called)
			clear(sent)
			w.reload(m, mesh.Table{"db": "db:1"})
			wg.Wait()
			if got := <-pushed; !bytes.Equal(got, want) {
				t.Error("the push brought other bytes than it was made with")
			}
		})
	}
}

// M17: an Owned payload is not copied; it arrives as it was given.
func TestOwnedPayloadIsNotCopied(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", echo)
		m := w.process("client")
		const size = 8 << 20
		payload := bytes.Repeat([]byte("x"), size)
		allocated := func(opts ...grpc.CallOption) uint64 {
			var before, after runtime.MemStats
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			runtime.ReadMemStats(&before)
			if _, err := m.Call(ctx, "db@sdb", "ECHO", payload, opts...); mesh.VerdictOf(err) != mesh.NotSent {
				t.Errorf("a call that waits for an absent node: %v", err)
			}
			runtime.ReadMemStats(&after)
			return after.TotalAlloc - before.TotalAlloc
		}
		if n := allocated(); n < size {
			t.Errorf("%d bytes allocated for a call: its payload was not copied", n)
		}
		if n := allocated(mesh.Owned); n > size/2 {
			t.Errorf("%d bytes allocated for a call with Owned: its payload was copied", n)
		}
		w.reload(m, mesh.Table{"db": "db:1"})
		got, err := m.Call(w.within(time.Minute), "db@sdb", "ECHO", payload, mesh.Owned)
		if err != nil || len(got) != size || got[0] != 'x' || got[size-1] != 'x' {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
	})
}

// M17: what a handler or a caller received does not change any more, whatever
// others write into and behind their own.
func TestReceivedBytesAreOnesOwn(t *testing.T) {
	inWorld(t, func(w *world) {
		var mu sync.Mutex
		kept := make(map[string][]byte)
		w.serve("server", "db:1", "sdb", func(_ context.Context, method string, p []byte) ([]byte, error) {
			mu.Lock()
			kept[method] = p
			mu.Unlock()
			return bytes.Clone(p), nil
		})
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		sizes := []int{1, 15, 200, 1000, 1024, 5000, 32767, 32768, 32769, 100 << 10}
		replies := make(map[string][]byte)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				method := fmt.Sprint(i)
				got, err := m.Call(w.within(time.Minute), "db@sdb", method, bytes.Repeat([]byte{byte(i)}, sizes[i%len(sizes)]))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				replies[method] = got
				mu.Unlock()
			})
		}
		wg.Wait()
		for _, all := range []map[string][]byte{kept, replies} {
			for i := range 100 { // everyone uses what is his, and the room behind it
				method := fmt.Sprint(i)
				b := all[method]
				if !bytes.Equal(b, bytes.Repeat([]byte{byte(i)}, sizes[i%len(sizes)])) {
					t.Fatalf("the bytes of %s changed after they were received", method)
				}
				for j := range b {
					b[j] = 0xff
				}
				_ = append(b, bytes.Repeat([]byte{0xee}, 64)...)
				delete(all, method)
			}
		}
	})
}

// M17: a small payload that is kept does not keep the large batch in which it
// came.
func TestKeepingASmallPayloadKeepsNoBatch(t *testing.T) {
	inWorld(t, func(w *world) {
		const rounds = 300
		keep := make([][]byte, 0, rounds)
		w.serve("server", "db:1", "sdb", func(_ context.Context, method string, p []byte) ([]byte, error) {
			if method == "SMALL" {
				keep = append(keep, p)
			}
			return nil, nil
		})
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		ctx := w.within(time.Minute)
		large := make([]byte, 30<<10)
		heap := func() int64 {
			var s runtime.MemStats
			runtime.GC()
			runtime.GC() // what a pool held is gone after the second one
			runtime.ReadMemStats(&s)
			return int64(s.HeapAlloc)
		}
		round := func() {
			for _, method := range []string{"LARGE", "SMALL", "LARGE"} {
				p := large
				if method == "SMALL" {
					p = large[:20]
				}
				if err := m.Send(ctx, "db@sdb", method, p); err != nil {
					t.Error(err)
				}
			}
			synctest.Wait()
		}
		round()
		before := heap()
		for range rounds {
			round()
		}
		grown := heap() - before
		if len(keep) != rounds+1 {
			t.Fatalf("%d small ones came", len(keep))
		}
		if grown > 4<<20 {
			t.Errorf("%d bytes are held by %d payloads of 20 bytes", grown, len(keep))
		}
		runtime.KeepAlive(keep)
	})
}

// M20, F28: a process reaches its own node by a real link, and sees itself call.
func TestOwnNodeIsReachedByALink(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("self")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.open(m, "db")
		w.register(m, "sdb", func(ctx context.Context, method string, p []byte) ([]byte, error) {
			c, ok := mesh.CallerFrom(ctx)
			if !ok || c.Process != "self" || c.Node != "db" || c.Session == 0 {
				t.Errorf("the caller is %+v", c)
			}
			if method == "AGAIN" { // serial, and calls itself
				return m.Call(ctx, "db@sdb", "ECHO", p)
			}
			clear(p)
			return p, nil
		})
		payload := []byte("mine")
		got, err := m.Call(w.within(time.Minute), "db@sdb", "AGAIN", payload)
		if err != nil || !bytes.Equal(got, make([]byte, 4)) {
			t.Fatalf("%q, %v", got, err)
		}
		if string(payload) != "mine" {
			t.Error("the handler wrote into its caller's bytes")
		}
		if s := m.Stats(); s.LinksOut != 1 || s.LinksIn != 1 || s.Dials != 1 || w.Dials("db:1") != 1 {
			t.Errorf("%d links out, %d in, %d dials on the network: want one each", s.LinksOut, s.LinksIn, w.Dials("db:1"))
		}
		w.reload(m, mesh.Table{"db": false}) // no path of its own either
		_, err = m.Call(w.within(time.Minute), "db@sdb", "ECHO", nil)
		wantError{verdict: mesh.NotSent, is: mesh.ErrDown}.check(t, err)
	})
}

// M20, F28: two processes dial each other at once, and both links live.
func TestTwoProcessesDialEachOther(t *testing.T) {
	inWorld(t, func(w *world) {
		a, b := w.serve("a", "a:1", "x", echo), w.serve("b", "b:1", "x", echo)
		table := mesh.Table{"a": "a:1", "b": "b:1"}
		w.reload(a, table)
		w.reload(b, table)
		var wg sync.WaitGroup
		for range 20 {
			for _, c := range []struct {
				m      *mesh.Mesh
				target string
			}{{a, "b@x"}, {b, "a@x"}} {
				wg.Go(func() {
					if got, err := c.m.Call(w.within(time.Minute), c.target, "ECHO", []byte(c.target)); err != nil || string(got) != c.target {
						t.Errorf("%s: %q, %v", c.target, got, err)
					}
				})
			}
		}
		wg.Wait()
		for _, m := range []*mesh.Mesh{a, b} {
			if s := m.Stats(); s.LinksIn != 1 || s.LinksOut != 1 {
				t.Errorf("%s has %d links in and %d out", m.Name(), s.LinksIn, s.LinksOut)
			}
		}
	})
}
