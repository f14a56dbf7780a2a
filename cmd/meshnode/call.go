package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/meshnode/meshnode/pkg/mesh"
)

func newCall() *cobra.Command {
	var c client
	var path string
	cmd := &cobra.Command{
		Use:   "call TARGET METHOD [PAYLOAD]",
		Short: "send a request and print its reply",
		Long: `call sends a request to a service and writes the reply to standard output, byte
for byte. On a terminal, and nowhere else, it ends the last line.

` + aboutPayload + `

` + aboutTable + `

` + aboutWaiting,
		Example: `  meshnode call --node db=127.0.0.1:2528 db@sdb GET greeting
  meshnode call --table cluster.yaml db@sdb SET greeting=hello
  meshnode call --table cluster.yaml --file picture.png db@store PUT
  tar c . | meshnode call --table cluster.yaml --timeout 1m db@store PUT > reply
  # wait until the node is up
  meshnode call --table cluster.yaml --wait-up --timeout 30s db@sdb GET greeting
  # a service by its handle
  meshnode call --table cluster.yaml "db$(meshnode query --table cluster.yaml db@sdb)" GET greeting

` + exitCodes,
		Args: words(2, 3, "call TARGET METHOD [PAYLOAD]"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.parse(); err != nil {
				return err
			}
			payload, err := readPayload(args[2:], path)
			if err != nil {
				return err
			}
			return c.run(func(ctx context.Context, m *mesh.Mesh) error {
				reply, err := m.Call(ctx, args[0], args[1], payload, c.options()...)
				if err != nil {
					return err
				}
				return output(reply)
			})
		},
	}
	c.add(cmd.Flags())
	c.addHeader(cmd.Flags())
	cmd.Flags().StringVar(&path, "file", "", "`FILE` with the payload, - is standard input")
	return cmd
}

// words asks for so many arguments.
func words(least, most int, usage string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usagef("%d arguments: write meshnode %s", len(args), usage)
		}
		return nil
	}
}
