// Command meshnode is the mesh for the command line: it serves nodes, and calls
// and pushes to the services of others. `meshnode --help` teaches it.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// version is set by the build: -ldflags '-X main.version=v1.2.3'.
var version = "dev"

func main() { os.Exit(run(os.Args[1:])) }

// run is main, as an exit code.
func run(args []string) int {
	root := newRoot()
	if len(args) == 0 {
		root.SetOut(os.Stderr)
		_ = root.Help() // it fails only where standard error does
		return exitUsage
	}
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	var f *failure
	if errors.As(err, &f) && f.logged {
		return code
	}
	fmt.Fprintln(os.Stderr, "meshnode:", sentence(err))
	var d *detailed
	if errors.As(err, &d) {
		fmt.Fprintf(os.Stderr, "%s\n", d.status)
	}
	if code == exitUsage {
		fmt.Fprintf(os.Stderr, "See '%s --help'.\n", cmd.CommandPath())
	}
	return code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "meshnode",
		Short: "serve and call the nodes of a mesh",
		Long: `meshnode serves nodes of a mesh, and calls the services of others.

A table says where the nodes are. In a file, cluster.yaml for example:

  db: 127.0.0.1:2528      # host:port, [ipv6]:port or unix:/path
  db2: 127.0.0.1:2529
  old: false              # down: calls to it fail at once
  db3: null               # absent: calls to it wait until it has an address
  __nowaiting: false      # true: they fail at once instead

A TARGET is a node and a service of it: db@sdb (its cluster name sdb),
db.launcher (its local name launcher), db:00c0ffee00000001 (a handle, as query
prints it).`,
		Example: `  # one process that is the nodes db and db2, with an example service
  meshnode serve --table cluster.yaml --open db --open db2 --example simpledb

  # from another terminal
  meshnode call --table cluster.yaml db@sdb SET greeting=hello
  meshnode call --table cluster.yaml db@sdb GET greeting
  meshnode push --node db=127.0.0.1:2528 db@sdb PING hello
  export MESHNODE_TABLE=cluster.yaml
  meshnode query db@sdb
  meshnode list db
  meshnode call db@sdb simpledb.v1.SimpleDBService/Get '{"key":"greeting"}'

` + exitCodes,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newServe(), newCall(), newPush(), newQuery(), newCert(), newList(), newDescribe(), newVersion())
	return root
}
