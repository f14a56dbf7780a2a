package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// The metrics of redialStudy.
const (
	mCallOpen  = "call_open_us"   // p50 of a call on an open link, one after the other
	mCallDial  = "call_dial_us"   // p50 of a call that has to dial, one after the other
	mCloseTime = "close_ms"       // from the last call until all links are closed
	mClosed    = "closed_bytes"   // what a node whose link was closed still holds
	mAllDial   = "all_dial_ms"    // calls to all nodes at once, each of which dials: until the last reply
	mDialCPU   = "dial_cpu_us"    // processor time of one of them
	mDialP99   = "dial_p99_us"    // of them
	redialIdle = time.Second      // Options.IdleTime
	closeWait  = 15 * time.Second // bounds the closing of all
)

// redialStudy has nodes whose links close when they are idle, and are dialled
// again by the next call.
func redialStudy() study {
	return study{
		name: "redial", about: fmt.Sprintf("links that close after %v without a message, and the calls that dial them again", redialIdle), unit: "links",
		sizes: []int{10, 100, 1000}, seconds: 4, files: 2,
		variants: []variant{
			{name: "mesh", about: "one mesh, names for one address; heartbeats every 2 s, at which idle links are found", run: redialMesh},
			{name: "grpc", about: "control: a new grpc-go connection and its first unary call", run: redialGRPC},
		},
		columns: []column{{"open call µs", mCallOpen, ""}, {"dialling call", mCallDial, ""}, {"all at once ms", mAllDial, ""}, {"CPU µs each", mDialCPU, ""}, {"p99 µs", mDialP99, ""}, {"closed after ms", mCloseTime, ""}, {"B a closed one", mClosed, ""}},
		charts: []scaleChart{
			{name: "redial", title: "A call that has to dial, by links dialled at once", about: "processor time, both ends, first call included", yTitle: "µs of processor time a link", linear: true, lines: []scaleLine{{"mesh", "mesh", mDialCPU}, {"grpc", "grpc", mDialCPU}}},
			{name: "redial-all", title: "Calls to nodes whose links are closed, all at once", about: "from the first call to the last reply", yTitle: "ms (log)", lines: []scaleLine{{"mesh", "mesh", mAllDial}, {"grpc", "grpc", mAllDial}}},
		},
	}
}

func redialMesh(ctx context.Context, n int) (metrics, error) {
	_, addr, err := echoMesh(mesh.Options{Name: "listener"})
	if err != nil {
		return nil, err
	}
	m, clients, err := namesFor(addr, n, mesh.Options{Name: "caller", IdleTime: redialIdle})
	if err != nil {
		return nil, err
	}
	before := measureFootprint()
	if err := ready(ctx, m, namesOf(n)); err != nil {
		return nil, err
	}
	figures := metrics{}
	few := clients[:min(n/2, 50)]
	open, err := oneByOne(ctx, few)
	if err != nil {
		return nil, err
	}
	figures[mCallOpen] = quantile(open, 50)
	begun := time.Now()
	if err := allClosed(ctx, m); err != nil {
		return nil, err
	}
	figures[mCloseTime] = milliseconds(time.Since(begun))
	closed := metrics{}
	before.put(closed, n)
	figures[mClosed] = max(closed[mMemory], 1)
	dials := m.Stats().Dials
	if err := dialAgain(ctx, figures, few, clients[len(few):]); err != nil {
		return nil, err
	}
	if more := m.Stats().Dials - dials; more != int64(n) {
		return nil, fmt.Errorf("%d dials, not one for each of %d links", more, n)
	}
	return figures, nil
}

// oneByOne calls each once, one after the other.
func oneByOne(ctx context.Context, clients []client) (*hdrhistogram.Histogram, error) {
	lat := newLatencies()
	for _, c := range clients {
		begun := time.Now()
		if err := once(ctx, c, 64); err != nil {
			return nil, err
		}
		lat.record(0, time.Since(begun))
	}
	return lat.merged(), nil
}

// dialAgain calls over links that are closed: few one after the other, the rest
// at once.
func dialAgain(ctx context.Context, m metrics, few, rest []client) error {
	alone, err := oneByOne(ctx, few)
	if err != nil {
		return err
	}
	m[mCallDial] = quantile(alone, 50)
	lat := newLatencies()
	begun, used := time.Now(), processCPU()
	err = eachN(len(rest), len(rest), func(i int) error {
		begun := time.Now()
		err := once(ctx, rest[i], 64)
		lat.record(i, time.Since(begun))
		return err
	})
	m[mAllDial] = milliseconds(time.Since(begun))
	m[mDialCPU] = float64((processCPU() - used).Nanoseconds()) / 1e3 / float64(len(rest))
	m[mDialP99] = quantile(lat.merged(), 99)
	return err
}

// allClosed waits until m has no link.
func allClosed(ctx context.Context, m *mesh.Mesh) error {
	for end := time.Now().Add(closeWait); m.Stats().LinksOut > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("%d idle links are still open after %v", m.Stats().LinksOut, closeWait)
		}
	}
	return nil
}

// redialGRPC opens n connections to one server, as redialMesh opens links.
func redialGRPC(ctx context.Context, n int) (metrics, error) {
	addr, _, err := grpcServe(new(tally))
	if err != nil {
		return nil, err
	}
	clients := make([]client, n)
	for i := range clients {
		clients[i] = &freshGRPC{addr: addr}
	}
	few := clients[:min(n/2, 50)]
	figures := metrics{}
	if err := dialAgain(ctx, figures, few, clients[len(few):]); err != nil {
		return nil, err
	}
	open, err := oneByOne(ctx, few)
	if err != nil {
		return nil, err
	}
	figures[mCallOpen] = quantile(open, 50)
	return figures, nil
}

// freshGRPC connects at its first use.
type freshGRPC struct {
	addr string
	once sync.Once
	conn client
	err  error
}

func (f *freshGRPC) caller(ctx context.Context, target int) (caller, error) {
	f.once.Do(func() { f.conn, f.err = grpcDial(f.addr, false) })
	if f.err != nil {
		return nil, f.err
	}
	return f.conn.caller(ctx, target)
}

func (f *freshGRPC) close() {}

// medianTime is the middle of several times.
func medianTime(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}
