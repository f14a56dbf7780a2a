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

// gateways are what serve offers to ordinary gRPC clients.
type gateways struct {
	addrs, lines []string

	routes map[string]string // what lines say
	open   []*gateway.Gateway
}

func (g *gateways) add(flags *pflag.FlagSet) {
	flags.StringArrayVar(&g.addrs, "gateway", nil, "`ADDR` to listen on for ordinary gRPC clients; repeatable")
	flags.StringArrayVar(&g.lines, "route", nil, "target of calls to the gateways without mesh-to, `SERVICE=TARGET`; repeatable")
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
	return nil
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
