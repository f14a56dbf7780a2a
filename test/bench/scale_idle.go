package main

import (
	"context"
	"errors"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// idleStudy has links that carry nothing. They are n names for one address, so
// that a link is counted and no listener. Beside it stands what grpc-go itself
// holds: a connection with one idle stream, default settings.
func idleStudy() study {
	used := []int{100}
	return study{
		name: "idle", about: "what an idle link costs, both ends together; beside it a grpc-go connection with an idle stream", unit: "links",
		sizes: []int{10, 100, 1000}, seconds: 3, files: 2,
		variants: []variant{
			{name: "mesh", about: "links that were opened", run: idle(linkMesh, nil)},
			{name: "grpc", about: "grpc-go: connections with one idle stream", run: idle(linkGRPC, nil)},
			{name: "mesh-used", about: "the same after 256 calls of 64 B and 4 of 256 KiB at once on each", sizes: used, run: idle(linkMesh, burst)},
			{name: "grpc-used", about: "the same after 256 unary calls of 64 B and 4 of 256 KiB at once on each", sizes: used, run: idle(linkGRPC, burst)},
		},
		columns: []column{{"KiB a link", mMemory, ""}, {"RSS KiB", mResident, ""}, {"goroutines", mGoroutines, ""}, {"CPU % of 1,000", mIdleCPU, ""}, {"all open ms", mSetup, ""}},
		charts: []scaleChart{
			{name: "idle-memory", title: "Memory of an idle link, by links", about: "heap and stacks, both ends", yTitle: "bytes", linear: true, lines: []scaleLine{{"mesh", "mesh", mMemory}, {"grpc", "grpc", mMemory}}},
			{name: "idle-cpu", title: "Processor time of idle links, by links", about: "both ends; the mesh's heartbeats every 2 s, grpc-go's keepalive is off", yTitle: "% of a processor, for 1,000 links", linear: true, lines: []scaleLine{{"mesh", "mesh", mIdleCPU}, {"grpc", "grpc", mIdleCPU}}},
		},
	}
}

// link opens n links, over which clients call.
type link func(ctx context.Context, n int) ([]client, error)

func linkMesh(ctx context.Context, n int) ([]client, error) {
	_, addr, err := echoMesh(mesh.Options{Name: "listener"})
	if err != nil {
		return nil, err
	}
	m, clients, err := namesFor(addr, n, mesh.Options{Name: "caller", IdleTime: -1})
	if err != nil {
		return nil, err
	}
	return clients, ready(ctx, m, namesOf(n))
}

// linkGRPC opens a stream on each of n connections to one server, and lets one
// message pass, so that both ends have it.
func linkGRPC(ctx context.Context, n int) ([]client, error) {
	addr, _, err := grpcServe(new(tally))
	if err != nil {
		return nil, err
	}
	clients := make([]client, n)
	for i := range clients {
		conn, err := grpcDial(addr, true)
		if err != nil {
			return nil, err
		}
		stream, err := conn.caller(ctx, 0)
		if err != nil {
			return nil, err
		}
		if _, err := stream.call(filled(64)); err != nil {
			return nil, err
		}
		clients[i] = grpcWithStream{&grpcClient{conn: conn.(*grpcClient).conn}, stream}
	}
	return clients, nil
}

// grpcWithStream makes unary calls and keeps a stream open.
type grpcWithStream struct {
	*grpcClient
	stream caller
}

// idleTime is how long processor time is measured: a heartbeat's interval, in
// which each end of a link sends one.
const idleTime = 2 * time.Second

func idle(open link, use func(context.Context, client) error) func(context.Context, int) (metrics, error) {
	return func(ctx context.Context, n int) (metrics, error) {
		if _, err := open(ctx, 1); err != nil { // whatever is made once is there now
			return nil, err
		}
		before := measureFootprint()
		begun := time.Now()
		clients, err := open(ctx, n)
		if err != nil {
			return nil, err
		}
		m := metrics{mSetup: milliseconds(time.Since(begun))}
		if use != nil {
			if err := eachN(n, 8, func(i int) error { return use(ctx, clients[i]) }); err != nil {
				return nil, err
			}
		} else {
			begin := processCPU()
			time.Sleep(idleTime)
			m[mIdleCPU] = 100 * (processCPU() - begin).Seconds() / idleTime.Seconds() * 1000 / float64(n)
		}
		before.put(m, n)
		return m, errors.Join(aliveAll(ctx, clients))
	}
}

// aliveAll checks that the links are still there: what was measured was held.
func aliveAll(ctx context.Context, clients []client) error {
	return eachN(len(clients), 16, func(i int) error { return once(ctx, clients[i], 64) })
}

// burst makes many calls at once on one link.
func burst(ctx context.Context, c client) error {
	small := func(int) error { return once(ctx, c, 64) }
	large := func(int) error { return once(ctx, c, 256<<10) }
	return errors.Join(eachN(256, 256, small), eachN(4, 4, large))
}
