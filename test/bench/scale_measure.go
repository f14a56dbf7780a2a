package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// footprint is what a process holds when its garbage is gone.
type footprint struct {
	live       float64 // bytes of heap objects and of stacks
	resident   float64 // bytes, as the system counts them; 0 where it is unknown
	goroutines int
}

// measureFootprint collects garbage until pools are empty and the stacks of
// goroutines that wait have shrunk.
func measureFootprint() footprint {
	for range 4 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f := footprint{live: float64(m.HeapAlloc + m.StackInuse), goroutines: runtime.NumGoroutine()}
	var total, resident int
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if _, err := fmt.Sscan(string(b), &total, &resident); err == nil {
			f.resident = float64(resident * os.Getpagesize())
		}
	}
	return f
}

// put notes what each of n has added since f was taken.
func (f footprint) put(m metrics, n int) {
	now, each := measureFootprint(), float64(n)
	m[mMemory] = (now.live - f.live) / each
	if f.resident > 0 {
		m[mResident] = (now.resident - f.resident) / each
	}
	m[mGoroutines] = float64(now.goroutines-f.goroutines) / each
}

// echoMesh starts a process's part with an echoing service "@echo" and an open
// address. It ends with the process.
func echoMesh(o mesh.Options) (m *mesh.Mesh, addr string, err error) {
	if m, err = mesh.New(o); err != nil {
		return nil, "", err
	}
	if err := m.Register("echo", meshService(m, new(tally), meshSerial)); err != nil {
		return nil, "", err
	}
	l, err := m.Open("127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	return m, l.Addr().String(), nil
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// namesOf lists the names of n nodes.
func namesOf(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = nodeName(i)
	}
	return names
}

// namesFor makes a mesh whose table has n names for one address: so many links,
// none of which is open yet.
func namesFor(addr string, n int, o mesh.Options) (*mesh.Mesh, []client, error) {
	m, err := mesh.New(o)
	if err != nil {
		return nil, nil, err
	}
	table, clients := mesh.Table{}, make([]client, n)
	for i := range n {
		table[nodeName(i)] = addr
		clients[i] = nodeClient{m, nodeName(i)}
	}
	return m, clients, m.Reload(table)
}

// linkTime bounds the opening of all links of a point.
const linkTime = 30 * time.Second

// ready waits until the nodes are linked.
func ready(ctx context.Context, m *mesh.Mesh, nodes []string) error {
	ctx, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	return m.WaitReady(ctx, nodes...)
}

// nodeClient calls one node of a mesh.
type nodeClient struct {
	m    *mesh.Mesh
	node string
}

func (c nodeClient) caller(ctx context.Context, _ int) (caller, error) {
	return meshCaller{c.m, ctx, c.node + "@echo"}, nil
}

func (nodeClient) close() {}

// eachN runs f for every number below n, at most so many at a time, and returns
// the errors.
func eachN(n, atOnce int, f func(i int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all error
	for range min(n, atOnce) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					mu.Lock()
					all = errors.Join(all, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return all
}

// once makes one checked call of size bytes.
func once(ctx context.Context, c client, size int) error {
	workers, err := openWorkers(ctx, c, 1, 0, size)
	if err != nil {
		return err
	}
	defer closeWorkers(workers)
	return errors.Join(workers[0].call(), finish(workers))
}

// closedLoop has callers on every client for a time, after a time to warm up,
// and measures the calls and the processor time of this process for one.
func closedLoop(ctx context.Context, clients []client, perClient, size int, warm, d time.Duration) (metrics, error) {
	run := func(d time.Duration) (metrics, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		g, lat := newGate(cancel), newLatencies()
		var done atomic.Int64
		var all []*worker
		defer func() { closeWorkers(all) }()
		for i, c := range clients {
			workers, err := openWorkers(ctx, c, perClient, 0, size)
			if err != nil {
				return nil, err
			}
			all = append(all, workers...)
			for _, w := range workers {
				w.id += i * perClient
				g.run(func() { g.loop(w, maxOperations, lat, &done) })
			}
		}
		begin := measureUsage()
		took, err := g.open(ctx, d)
		end := measureUsage()
		if err := firstFault(&g.faults, err); err != nil {
			return nil, err
		}
		n := float64(done.Load())
		if n == 0 {
			return nil, errors.New("no call had its reply in time")
		}
		m := metrics{mOps: n, mRate: n / took.Seconds(), mCPU: float64((end.CPU - begin.CPU).Nanoseconds()) / 1e3 / n}
		putQuantiles(m, lat.merged())
		return m, finish(all)
	}
	if warm > 0 {
		if _, err := run(warm); err != nil {
			return nil, err
		}
	}
	runtime.GC()
	var light spotlight
	profiled := light.start() == nil // not where -cpuprofile has begun one
	m, err := run(d)
	if err != nil || !profiled {
		return m, err
	}
	spent, err := light.stop()
	for _, class := range whereClasses {
		m[sharePrefix+class] = 100 * spent.share(class)
	}
	return m, err
}

// sharePrefix begins the names of metrics that tell what processor time was
// spent on, in percent.
const sharePrefix = "share_"

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
