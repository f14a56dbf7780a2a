package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/jhump/protoreflect/v2/protoprint"
	"github.com/jhump/protoreflect/v2/protoresolve"

	"github.com/meshnode/meshnode/pkg/mesh"
)

func newList() *cobra.Command {
	var c client
	var schemas schemaFlags
	cmd := &cobra.Command{
		Use:   "list NODE | list TARGET [SERVICE]",
		Short: "list names of a node, gRPC services of a target, or methods of a service",
		Long: `list shows what there is, a line for each:

  list db             the names that node db offers, with their handles
  list db@sdb         the gRPC services of db@sdb
  list db@sdb SERVICE the methods of one of them, as call takes them

` + aboutSchema + `

` + aboutTable + `

` + aboutWaiting,
		Example: `  meshnode list --node db=127.0.0.1:2528 db
  meshnode list --table cluster.yaml db@sdb
  meshnode list --table cluster.yaml db@sdb simpledb.v1.SimpleDBService

` + exitCodes,
		Args: words(1, 2, "list NODE, or meshnode list TARGET [SERVICE]"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.parse(); err != nil {
				return err
			}
			if !strings.ContainsAny(args[0], "@.:") {
				if len(args) > 1 {
					return usagef("%s is a node; services belong to a target: write one like %s@sdb", args[0], args[0])
				}
				return c.run(func(ctx context.Context, m *mesh.Mesh) error { return listNames(ctx, m, args[0], &c) })
			}
			return c.run(func(ctx context.Context, m *mesh.Mesh) error {
				return withSchema(ctx, m, args[0], &c, &schemas, func(s *schema) error { return listSchema(s, args[1:]) })
			})
		},
	}
	c.add(cmd.Flags())
	c.addHeader(cmd.Flags())
	schemas.add(cmd.Flags())
	return cmd
}

// withSchema has f use the schema of a target.
func withSchema(ctx context.Context, m *mesh.Mesh, target string, c *client, schemas *schemaFlags, f func(*schema) error) error {
	conn := with{m.Proxy(target), c.options()}
	if err := conn.Err(); err != nil {
		return err
	}
	s, err := schemas.open(ctx, target, conn)
	if err != nil {
		return err
	}
	defer s.close()
	return f(s)
}

func listNames(ctx context.Context, m *mesh.Mesh, node string, c *client) error {
	names, err := m.Names(ctx, node, c.options()...)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "%s\t%s\n", n.Name, n.Handle)
	}
	return output([]byte(b.String()))
}

func listSchema(s *schema, args []string) error {
	var b strings.Builder
	if len(args) == 0 {
		names, err := s.services()
		if err != nil {
			return err
		}
		for _, n := range names {
			fmt.Fprintln(&b, n)
		}
		return output([]byte(b.String()))
	}
	service, err := s.service(args[0])
	if err != nil {
		return err
	}
	for _, method := range methodsOf(service) {
		fmt.Fprintf(&b, "%s/%s\n", service.FullName(), method)
	}
	return output([]byte(b.String()))
}

func newDescribe() *cobra.Command {
	var c client
	var schemas schemaFlags
	cmd := &cobra.Command{
		Use:   "describe TARGET [SYMBOL]",
		Short: "show the schema of a target, as protobuf source",
		Long: `describe shows services, methods, messages and enums as protobuf source: all the
services of the target, or the SYMBOL: simpledb.v1.SimpleDBService,
simpledb.v1.SimpleDBService.Get (or .../Get), simpledb.v1.GetRequest.

` + aboutSchema + `

` + aboutTable + `

` + aboutWaiting,
		Example: `  meshnode describe --table cluster.yaml db@sdb
  meshnode describe --table cluster.yaml db@sdb simpledb.v1.GetRequest

` + exitCodes,
		Args: words(1, 2, "describe TARGET [SYMBOL]"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.parse(); err != nil {
				return err
			}
			return c.run(func(ctx context.Context, m *mesh.Mesh) error {
				return withSchema(ctx, m, args[0], &c, &schemas, func(s *schema) error { return describe(s, args[1:]) })
			})
		},
	}
	c.add(cmd.Flags())
	c.addHeader(cmd.Flags())
	schemas.add(cmd.Flags())
	return cmd
}

// describe shows what the symbols are, or all services where there is none.
func describe(s *schema, symbols []string) error {
	if len(symbols) == 0 {
		names, err := s.services()
		if err != nil {
			return err
		}
		for _, n := range names {
			symbols = append(symbols, string(n))
		}
	}
	for _, symbol := range symbols {
		d, err := s.find(strings.Replace(strings.TrimPrefix(symbol, "."), "/", ".", 1))
		if err != nil {
			return err
		}
		if err := describeOne(d); err != nil {
			return err
		}
	}
	return nil
}

func describeOne(d protoreflect.Descriptor) error {
	printer := protoprint.Printer{Compact: true}
	text, err := printer.PrintProtoToString(d)
	if err != nil {
		return fmt.Errorf("%s cannot be shown: %w", d.FullName(), err)
	}
	return output(fmt.Appendf(nil, "%s is a %s:\n%s", d.FullName(), protoresolve.KindOf(d), text))
}
