package main

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newServe() *cobra.Command {
	var s server
	cmd := &cobra.Command{
		Use:   "serve [--open NODE]... [--listen ADDR]... [--gateway ADDR]... [--example SERVICE]...",
		Short: "be one or several nodes",
		Long: `serve opens nodes and hosts services until it is told to end.

--open listens at a node's address in the table; --listen at an address that need
not stand there ("127.0.0.1:0" picks a port and logs it). Each listener answers
gRPC health checks too (grpc.health.v1).

Examples of services: simpledb keeps strings, as the service @sdb: call it with
GET key, SET key=value, push it PING text. pingserver, as @pingserver, takes its
time: call it with SLEEP '2s text'. echo, as @echo, has a method of each kind that
gRPC knows. All answer the stubs of examples/proto, and with --reflection gRPC
reflection too, by which 'meshnode list', 'describe' and 'call' find their schema.

` + aboutGateway + `

` + aboutHost + `

` + aboutTable + `
The file is read again when it changed and at SIGHUP; --no-watch leaves SIGHUP
alone. A table with a mistake changes nothing, and the log names the mistake.

` + aboutAccess + ` --rules says who may call what; rules
and tokens are taken again when their files change, certificates when a connection
is made.

SIGTERM or SIGINT drains: no new calls are taken, those that run may finish
within --drain, and it ends with 0. A second one ends it at once.

Logs go to standard error, a line for each event.`,
		Example: `  meshnode serve --table cluster.yaml --open db --open db2 --example simpledb
  meshnode serve --node db=127.0.0.1:2528 --open db --example pingserver --log json
  meshnode serve --listen 127.0.0.1:0 --example simpledb
  # the door for other languages: one gateway near them, with a default target
  meshnode serve --table cluster.yaml --gateway 127.0.0.1:2600 --route simpledb.v1.SimpleDBService=db@sdb
  # an ordinary gRPC server, in any language, as ml@model
  meshnode serve --table cluster.yaml --open ml --host model=127.0.0.1:50051

` + exitCodes,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("serve takes no argument, and %q is one: a node is given with --open, an address with --listen or --gateway", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error { return s.run() },
	}
	s.add(cmd.Flags())
	return cmd
}

func (s *server) add(flags *pflag.FlagSet) {
	s.table.add(flags)
	s.gateways.add(flags)
	s.access.add(flags)
	s.rules.add(flags)
	flags.StringArrayVar(&s.open, "open", nil, "`NODE` of the table to be; repeatable")
	flags.StringArrayVar(&s.listen, "listen", nil, "`ADDR` to listen on as well; repeatable")
	flags.StringArrayVar(&s.examples, "example", nil, "`SERVICE` to host: simpledb, echo or pingserver; repeatable")
	flags.BoolVar(&s.reflection, "reflection", false, "the examples answer gRPC reflection: anyone who may call them may see their schema")
	flags.StringVar(&s.name, "name", "", "`NAME` of this process, for logs and peers (default host name and process id)")
	flags.DurationVar(&s.drain, "drain", 10*time.Second, "how long calls that run may take at the end; 0: they are cut")
	flags.BoolVar(&s.noWatch, "no-watch", false, "read the table's file only at the start and at SIGHUP")
	flags.BoolVar(&s.allowServe, "allow-serve", false, "let programs that cannot listen register names here and answer for them")
	flags.BoolVar(&s.allowForward, "allow-forward", false, "let programs have this process call other nodes for them (ClusterService.Call)")
	flags.BoolVar(&s.insecure, "insecure", false, "speak plaintext with other machines too, where there is no TLS")
	flags.StringVar(&s.logFormat, "log", "", "`FORMAT` of the log, json or console (default console on a terminal, else json)")
	flags.StringVar(&s.logLevel, "log-level", "info", "least `LEVEL` that is logged: debug, info, warn or error")
}
