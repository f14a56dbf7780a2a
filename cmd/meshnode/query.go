package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/meshnode/meshnode/pkg/mesh"
)

func newQuery() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "query TARGET",
		Short: "print the handle of a service",
		Long: `query asks a node for the handle of one of its services, and prints it. NODE and
HANDLE together are a target too. A handle is good for one life of the process:
after a restart it is stale.

` + aboutTable + `

` + aboutWaiting,
		Example: `  meshnode query --node db=127.0.0.1:2528 db@sdb
  # is the service there?
  if meshnode query --table cluster.yaml --timeout 1s db@sdb >/dev/null; then echo yes; fi

` + exitCodes,
		Args: words(1, 1, "query TARGET"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.parse(); err != nil {
				return err
			}
			return c.run(func(ctx context.Context, m *mesh.Mesh) error {
				handle, err := m.Query(ctx, args[0], c.options()...)
				if err != nil {
					return err
				}
				return output([]byte(handle.String() + "\n"))
			})
		},
	}
	c.add(cmd.Flags())
	return cmd
}
