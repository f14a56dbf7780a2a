package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/meshnode/meshnode/pkg/gateway"
	"github.com/meshnode/meshnode/pkg/mesh"
)

const aboutGateway = `--gateway listens for ordinary gRPC clients, in any language. They call with their
own stubs, and say for whom in the call's metadata: "mesh-to: db@sdb". --route
makes that unnecessary for a gRPC service. More metadata: mesh-nowait: 1,
mesh-waitup: 1, mesh-post: 1 (one-way), mesh-trace: TAG.`

const aboutHost = `--host offers an ordinary gRPC server, which knows nothing of the mesh, under a
name: with --host model=127.0.0.1:50051 callers reach it as NODE@model. Its health
(grpc.health.v1, else whether it is connected) decides whether the name is offered;
while it is away calls are rejected, or wait where their callers ask for it.`

// gateways are what serve offers to ordinary gRPC clients, and the ordinary gRPC
// servers that it offers to the mesh.
type gateways struct {
	addrs, lines, hosts []string

	routes map[string]string // what lines say
	open   []*gateway.Gateway
	hosted []*gateway.Hosted
}

func (g *gateways) add(flags *pflag.FlagSet) {
	flags.StringArrayVar(&g.addrs, "gateway", nil, "`ADDR` to listen on for ordinary gRPC clients; repeatable")
	flags.StringArrayVar(&g.lines, "route", nil, "target of calls to the gateways without mesh-to, `SERVICE=TARGET`; repeatable")
	flags.StringArrayVar(&g.hosts, "host", nil, "ordinary gRPC server to offer under a name, `NAME=ADDR`; repeatable")
}

// parse completes the flags.
func (g *gateways) parse() error {
	g.routes = make(map[string]string, len(g.lines))
	for _, line := range g.lines {
		service, target, ok := strings.Cut(line, "=")
		if !ok || service == "" || target == "" {
			return usagef("--route %q: write SERVICE=TARGET, like simpledb.v1.SimpleDBService=db@sdb", line)
		}
		if _, again := g.routes[service]; again {
			return usagef("--route %q: it was given for this service already: give one", line)
		}
		g.routes[service] = target
	}
	if len(g.lines) > 0 && len(g.addrs) == 0 {
		return usagef("--route %s: there is no gateway that could use it: give --gateway ADDR too", g.lines[0])
	}
	for _, line := range g.hosts {
		if name, addr, ok := strings.Cut(line, "="); !ok || name == "" || addr == "" {
			return usagef("--host %q: write NAME=ADDR, like model=127.0.0.1:50051", line)
		}
	}
	return nil
}

// host offers the servers of --host in m.
func (g *gateways) host(m *mesh.Mesh, log *zap.Logger) error {
	for _, line := range g.hosts {
		name, addr, _ := strings.Cut(line, "=")
		hosted, err := gateway.Host(m, name, addr, gateway.HostOptions{Logger: log})
		if err != nil {
			return usagef("--host: %w", err)
		}
		g.hosted = append(g.hosted, hosted)
	}
	return nil
}

// unhost ends what host began.
func (g *gateways) unhost() {
	for _, hosted := range g.hosted {
		_ = hosted.Close() // the mesh has ended, and with it what it could lose
	}
}

// start opens the gateways of m.
func (g *gateways) start(m *mesh.Mesh, log *zap.Logger) error {
	for _, addr := range g.addrs {
		opened, err := gateway.Listen(m, addr, gateway.Options{Routes: g.routes, Logger: log})
		if err != nil {
			return cannotListen(log, addr, err)
		}
		g.open = append(g.open, opened)
	}
	if len(g.routes) > 0 {
		log.Info("routes of the gateways", zap.Strings("services", slices.Sorted(maps.Keys(g.routes))))
	}
	return nil
}

// close ends the gateways in order, or cuts them when ctx ends.
func (g *gateways) close(ctx context.Context) error {
	errs := make([]error, len(g.open))
	var closing sync.WaitGroup
	for i, opened := range g.open {
		closing.Go(func() { errs[i] = opened.Close(ctx) })
	}
	closing.Wait()
	return errors.Join(errs...)
}
