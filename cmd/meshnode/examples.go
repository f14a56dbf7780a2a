package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/reflection"

	"github.com/meshnode/meshnode/examples/echo"
	"github.com/meshnode/meshnode/examples/pingserver"
	"github.com/meshnode/meshnode/examples/simpledb"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// example is a service that serve can host.
type example struct {
	name string // of the service, and for --example
	of   string // name with its sign
	make func(m *mesh.Mesh, log *zap.Logger) *mesh.Service
}

var examples = []example{
	{"simpledb", "@sdb", func(m *mesh.Mesh, log *zap.Logger) *mesh.Service {
		return simpledb.New(told(log, "ping")).Service(m)
	}},
	{"echo", "@echo", func(m *mesh.Mesh, _ *zap.Logger) *mesh.Service {
		return new(echo.Server).Service(m)
	}},
	{"pingserver", "@pingserver", func(m *mesh.Mesh, log *zap.Logger) *mesh.Service {
		return pingserver.New(time.Second, told(log, "pingserver")).Service(m)
	}},
}

// host registers the examples of these names; reflected has them answer gRPC
// reflection.
func host(m *mesh.Mesh, log *zap.Logger, names []string, reflected bool) error {
	for _, name := range names {
		i := slices.IndexFunc(examples, func(e example) bool { return e.name == name })
		if i < 0 {
			return usagef("--example %q: there are simpledb, echo and pingserver", name)
		}
		s := examples[i].make(m, log)
		if reflected {
			reflection.Register(s)
		}
		if err := m.Register(examples[i].of, s); err != nil {
			return usagef("--example %s: %w", name, err)
		}
	}
	return nil
}

// told logs what an example was told, and by whom.
func told(log *zap.Logger, event string) func(context.Context, string) {
	return func(ctx context.Context, text string) {
		const most = 200
		if len(text) > most {
			text = strings.ToValidUTF8(text[:most], "?") + "..."
		}
		caller, _ := mesh.CallerFrom(ctx)
		log.Info(event, zap.String("text", text), zap.String("peer", caller.Process),
			zap.String("method", caller.Method), zap.String("trace", caller.Trace.Tag),
			zap.String("traceparent", caller.Trace.Parent))
	}
}
