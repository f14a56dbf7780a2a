package main

import (
	"context"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// perLink is how many callers each link has where they grow with the nodes,
// spread how many there are in all where they do not.
const (
	perLink = 4
	spread  = 64
)

// busyNodes is how many nodes are called where the others are only linked.
const busyNodes = 10

// nodesStudy has one process whose table grows, and calls spread over its
// nodes. Each node is a mesh of its own with a listener of its own, in the same
// process. The callers keep all processors busy at every size, so that a rate
// is the processors' time by the cost of a call.
//
// What a call costs depends on how many go in one batch, so on the callers that
// share a link: their number is the same at all sizes (mesh). Then more nodes
// are also more callers, stacks and sockets in use, and the processor's caches
// hold less of each: the controls tell how much of the growth is that. Of the
// table alone tells mesh-10-busy, where the callers stay the same too.
func nodesStudy() study {
	controls := []int{10, 100, 1000}
	return study{
		name: "nodes", about: "calls of 64 B spread over all nodes of a table, everything in one process", unit: "nodes",
		sizes: []int{10, 30, 100, 300, 1000}, quick: []int{10, 1000}, seconds: 2.2, files: 3,
		variants: []variant{
			{name: "mesh", about: "4 callers for each node's link", run: nodesMesh(func(all []client) []client { return all }, perLink)},
			{name: "mesh-10-busy", about: "4 callers for each of 10 nodes' links; the other links are idle", sizes: controls, run: nodesMesh(func(all []client) []client { return all[:min(len(all), busyNodes)] }, perLink)},
			{name: "mesh-64", about: "64 callers in all, each with one node after the other", sizes: controls, run: nodesMesh(roundRobin, 1)},
			{name: "wire", about: "control: raw TCP, 4 callers for each connection", sizes: controls, run: nodesControl("wire")},
			{name: "grpc-unary", about: "control: grpc-go, 4 callers for each connection", sizes: controls, run: nodesControl("grpc-unary")},
		},
		columns: []column{{"calls/s", mRate, ""}, {"CPU µs", mCPU, ""}, {"p50 µs", mP50, ""}, {"p99", mP99, ""}, {"sockets %", sharePrefix + whereSocket, ""}, {"scheduler %", sharePrefix + whereScheduler, ""}, {"memory %", sharePrefix + whereMemory, ""}, {"KiB a node", mMemory, ""}, {"goroutines", mGoroutines, ""}, {"all linked ms", mSetup, ""}},
		charts: []scaleChart{
			{name: "nodes-cpu", title: "Processor time of a call, by nodes", about: "64 B, both ends; 4 callers a link, on 10 links (10-busy), or 64 callers in all (mesh-64)", yTitle: "µs of processor time", linear: true, lines: []scaleLine{{"mesh", "mesh", mCPU}, {"mesh-10-busy", "mesh-10-busy", mCPU}, {"mesh-64", "mesh-64", mCPU}, {"wire", "wire", mCPU}, {"grpc-unary", "grpc-unary", mCPU}}},
			{name: "nodes-memory", title: "Memory of a node, by nodes", about: "a mesh, its listener and the link to it, after calls; controls: a server and a connection", yTitle: "bytes of heap and stacks", linear: true, lines: []scaleLine{{"mesh", "mesh", mMemory}, {"wire", "wire", mMemory}, {"grpc-unary", "grpc-unary", mMemory}}},
		},
	}
}

const (
	nodesWarm = 300 * time.Millisecond
	nodesTime = time.Second
)

// nodesMesh links n nodes, and calls those that chosen leaves, with so many
// callers each.
func nodesMesh(chosen func(all []client) []client, callers int) func(context.Context, int) (metrics, error) {
	return func(ctx context.Context, n int) (metrics, error) {
		m, err := mesh.New(mesh.Options{Name: "caller"})
		if err != nil {
			return nil, err
		}
		before := measureFootprint()
		table, clients := mesh.Table{}, make([]client, n)
		begun := time.Now()
		for i := range n {
			_, addr, err := echoMesh(mesh.Options{Name: nodeName(i)})
			if err != nil {
				return nil, err
			}
			table[nodeName(i)] = addr
			clients[i] = nodeClient{m, nodeName(i)}
		}
		if err := m.Reload(table); err != nil {
			return nil, err
		}
		if err := ready(ctx, m, namesOf(n)); err != nil {
			return nil, err
		}
		setup := milliseconds(time.Since(begun))
		figures, err := closedLoop(ctx, chosen(clients), callers, 64, nodesWarm, nodesTime)
		if err != nil {
			return nil, err
		}
		figures[mSetup] = setup
		before.put(figures, n)
		return figures, nil
	}
}

// roundRobin makes clients for spread callers, each of which goes through all
// nodes, from another first one.
func roundRobin(nodes []client) []client {
	round := make([]client, spread)
	for i := range round {
		round[i] = &roundClient{nodes, i * len(nodes) / spread}
	}
	return round
}

type roundClient struct {
	nodes []client
	first int
}

func (r *roundClient) caller(ctx context.Context, target int) (caller, error) {
	c := &roundCaller{next: r.first}
	for _, n := range r.nodes {
		one, err := n.caller(ctx, target)
		if err != nil {
			return nil, err
		}
		c.callers = append(c.callers, one)
	}
	return c, nil
}

func (r *roundClient) close() {}

type roundCaller struct {
	callers []caller
	next    int
}

func (c *roundCaller) call(payload []byte) ([]byte, error) {
	c.next = (c.next + 1) % len(c.callers)
	return c.callers[c.next].call(payload)
}

func (c *roundCaller) push([]byte) error { return errNoPushes }
func (c *roundCaller) close() error      { return nil }

// nodesControl is the same with another contestant of bench: n servers, and a
// connection to each.
func nodesControl(name string) func(context.Context, int) (metrics, error) {
	return func(ctx context.Context, n int) (metrics, error) {
		who, err := contestantNamed(name)
		if err != nil {
			return nil, err
		}
		before := measureFootprint()
		begun := time.Now()
		clients := make([]client, n)
		for i := range clients {
			addr, _, err := who.serve(new(tally)) // it ends with the process
			if err != nil {
				return nil, err
			}
			if clients[i], err = who.dial(ctx, addr); err != nil {
				return nil, err
			}
			if err := once(ctx, clients[i], 64); err != nil {
				return nil, err
			}
		}
		setup := milliseconds(time.Since(begun))
		figures, err := closedLoop(ctx, clients, perLink, 64, nodesWarm, nodesTime)
		if err != nil {
			return nil, err
		}
		figures[mSetup] = setup
		before.put(figures, n)
		return figures, nil
	}
}
