package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/meshnode/meshnode/pkg/mesh"
)

func newCall() *cobra.Command {
	var c client
	var i invocation
	var path string
	var plain bool
	cmd := &cobra.Command{
		Use:   "call TARGET METHOD [PAYLOAD]",
		Short: "send a request and print its reply; JSON for methods with a schema",
		Long: `call sends a request to a service and shows the reply.

A METHOD written SERVICE/METHOD, like simpledb.v1.SimpleDBService/Get, has a
schema: the request is JSON (PAYLOAD, or -d; neither is an empty message), and so
are the replies, one after the other where the method streams. With -d @ requests
are read from standard input, as many as the method takes, and sent as they come.
An error is shown with code, message and details as JSON, on standard error.
` + aboutSchema + `

Any other METHOD is one of a plain service, and so is every one with --plain: the
reply is written to standard output, byte for byte. On a terminal, and nowhere
else, it ends the last line.

` + aboutPayload + `

` + aboutTable + `

` + aboutWaiting,
		Example: `  meshnode call --node db=127.0.0.1:2528 db@sdb GET greeting
  meshnode call --table cluster.yaml db@sdb simpledb.v1.SimpleDBService/Get '{"key":"greeting"}'
  # a method that streams, both ways; -v shows headers and trailers
  printf '{"text":"a"} {"text":"b"}' | meshnode call --table cluster.yaml -v -d @ db@echo echo.v1.EchoService/Talk
  # without reflection, with the schema from a file
  meshnode call --table cluster.yaml --protoset simpledb.binpb -d '{"key":"a"}' db@sdb simpledb.v1.SimpleDBService/Get
  meshnode call --table cluster.yaml db@sdb SET greeting=hello
  meshnode call --table cluster.yaml --file picture.png db@store PUT
  tar c . | meshnode call --table cluster.yaml --timeout 1m db@store PUT > reply
  # wait until the node is up
  meshnode call --table cluster.yaml --wait-up --timeout 30s db@sdb GET greeting
  # a service by its handle
  meshnode call --table cluster.yaml "db$(meshnode query --table cluster.yaml db@sdb)" GET greeting

` + exitCodes,
		Args: words(2, 3, "call TARGET METHOD [PAYLOAD]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.parse(); err != nil {
				return err
			}
			hasSchema := isMethod(args[1]) && !plain && path == ""
			if err := i.parse(cmd.Flags(), &c, hasSchema); err != nil {
				return err
			}
			if hasSchema {
				return callSchema(&c, &i, cmd.Flags(), args)
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
	i.add(cmd.Flags())
	cmd.Flags().StringVar(&path, "file", "", "`FILE` with the payload, - is standard input; the method is a plain one")
	cmd.Flags().BoolVar(&plain, "plain", false, "the method is one of a plain service, whatever it looks like: payload and reply are bytes")
	return cmd
}

// callSchema calls a method with a schema.
func callSchema(c *client, i *invocation, flags *pflag.FlagSet, args []string) error {
	if len(args) > 2 {
		if flags.Changed("data") {
			return usagef("the request is given twice, as an argument and with --data: give one")
		}
		i.data = args[2]
		if i.data == "-" {
			i.data = "@"
		}
	}
	i.md = c.md
	return c.run(func(ctx context.Context, m *mesh.Mesh) error {
		return i.run(ctx, with{m.Proxy(args[0]), c.options()}, args[1])
	})
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
