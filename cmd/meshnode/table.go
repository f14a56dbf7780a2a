package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/meshnode/meshnode/pkg/discovery/file"
	"github.com/meshnode/meshnode/pkg/mesh"
)

const tableEnv = "MESHNODE_TABLE"

const aboutTable = `The table comes from the file of --table, or else of the environment's
` + tableEnv + `; what --node says of a node comes before either.`

// tableFlags say where the nodes are.
type tableFlags struct {
	path  string
	lines []string

	from  string     // what named the path
	nodes mesh.Table // what lines say
}

func (t *tableFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&t.path, "table", "", "`FILE` with the table, YAML (default $"+tableEnv+")")
	flags.StringArrayVar(&t.lines, "node", nil, "where a node is, `NODE=ADDR`, or NODE=false for down; repeatable")
}

// parse completes the flags. A table that is bad is found here, and one that
// nobody named.
func (t *tableFlags) parse() error {
	t.from = "--table"
	if t.path == "" {
		t.path, t.from = os.Getenv(tableEnv), tableEnv
	}
	t.nodes = make(mesh.Table, len(t.lines))
	for _, line := range t.lines {
		node, addr, ok := strings.Cut(line, "=")
		if !ok || node == "" || addr == "" {
			return usagef("--node %q: write NODE=ADDR, like db=127.0.0.1:2528", line)
		}
		if strings.HasPrefix(node, "__") {
			return usagef("--node %q: options stand in the file of --table", line)
		}
		if _, again := t.nodes[node]; again {
			return usagef("--node %q: it was given for this node already: give one", line)
		}
		switch addr {
		case "false":
			t.nodes[node] = false
		case "null":
			t.nodes[node] = nil
		default:
			t.nodes[node] = addr
		}
	}
	return nil
}

// given says that there is a table at all.
func (t *tableFlags) given() bool { return t.path != "" || len(t.lines) > 0 }

// read is the table as it is now.
func (t *tableFlags) read() (mesh.Table, error) {
	if t.path == "" {
		return maps.Clone(t.nodes), nil
	}
	table, err := file.Read(t.path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.from, err)
	}
	return t.over(table), nil
}

// over puts the nodes of the flags over those of the file.
func (t *tableFlags) over(table mesh.Table) mesh.Table {
	table = maps.Clone(table)
	maps.Copy(table, t.nodes)
	return table
}

// watch has the table taken again whenever its file changed, until ctx ends.
func (t *tableFlags) watch(ctx context.Context, reload func(mesh.Table) error, onError func(error)) {
	if t.path == "" {
		return
	}
	// It fails only without a path or a function.
	_ = file.Watch(ctx, t.path, file.Options{OnError: onError}, func(table mesh.Table) error { return reload(t.over(table)) })
}
