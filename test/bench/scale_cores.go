package main

import (
	"context"
	"fmt"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// The metrics of coresStudy: those of calls of 16 KiB; the bare ones are those
// of 64 B.
const (
	mRate16 = "rate_16KiB"
	mCPU16  = "cpu_16KiB_us"
)

// coresStudy has several names for one address: links of their own (M19), each
// with a reader and a writer at both ends.
func coresStudy() study {
	of := func(procs int) variant {
		return variant{
			name: fmt.Sprintf("GOMAXPROCS=%d", procs), about: fmt.Sprintf("both processes with GOMAXPROCS=%d", procs),
			env: []string{fmt.Sprintf("GOMAXPROCS=%d", procs)}, run: cores,
		}
	}
	lines := func(metric string) []scaleLine {
		return []scaleLine{{"GOMAXPROCS=1", "GOMAXPROCS=1", metric}, {"GOMAXPROCS=2", "GOMAXPROCS=2", metric}}
	}
	return study{
		name: "cores", about: "several names for one address are several links: two processes, 256 callers of 64 B, then 64 of 16 KiB", unit: "links",
		sizes: []int{1, 2, 4}, seconds: 2.2, files: 2,
		variants: []variant{of(1), of(2)},
		columns:  []column{{"64 B calls/s", mRate, ""}, {"p50 µs", mP50, ""}, {"p99", mP99, ""}, {"CPU µs", mCPU, ""}, {"16 KiB calls/s", mRate16, ""}, {"CPU µs", mCPU16, ""}},
		charts: []scaleChart{
			{name: "cores", title: "Calls a second, by links to one address", about: "256 callers of 64 B, two processes", yTitle: "calls a second", linear: true, lines: lines(mRate)},
			{name: "cores-16KiB", title: "Calls of 16 KiB a second, by links to one address", about: "64 callers, two processes", yTitle: "calls a second", linear: true, lines: lines(mRate16)},
		},
	}
}

func cores(ctx context.Context, n int) (metrics, error) {
	server, err := startServer("mesh-concurrent")
	if err != nil {
		return nil, err
	}
	defer server.stop()
	m, clients, err := namesFor(server.addr, n, mesh.Options{Name: "caller"})
	if err != nil {
		return nil, err
	}
	if err := ready(ctx, m, namesOf(n)); err != nil {
		return nil, err
	}
	load := func(callers, size int) (metrics, error) {
		begin, err := server.ask(askBegin)
		if err != nil {
			return nil, err
		}
		// The server's time covers the warming up too: none, here.
		calls, err := closedLoop(ctx, clients, callers/n, size, 0, 700*time.Millisecond)
		if err != nil {
			return nil, err
		}
		end, err := server.ask(askUsage)
		calls[mCPU] += float64((end.Usage.CPU - begin.Usage.CPU).Nanoseconds()) / 1e3 / calls[mOps]
		return calls, err
	}
	if _, err := load(256, 64); err != nil { // to warm up
		return nil, err
	}
	figures, err := load(256, 64)
	if err != nil {
		return nil, err
	}
	large, err := load(64, 16<<10)
	if err != nil {
		return nil, err
	}
	figures[mRate16], figures[mCPU16] = large[mRate], large[mCPU]
	return figures, nil
}
