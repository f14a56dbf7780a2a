// Command cluster1 is the first half of the example, after skynet's
// examples/cluster1.lua: one process that is two nodes, db and db2, with the
// services sdb and pingserver. Start it, then cluster2. It ends with SIGINT or
// SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/meshnode/meshnode/examples/pingserver"
	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/examples/simpledb"
	"github.com/meshnode/meshnode/pkg/mesh"
)

var (
	dbAddr  = flag.String("db", "127.0.0.1:2528", "address of the node db")
	db2Addr = flag.String("db2", "127.0.0.1:2529", "address of the node db2")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	m, err := mesh.New(mesh.Options{Name: "cluster1"})
	if err != nil {
		return err
	}
	// At the end: calls that are running finish, then the links close.
	defer func() { err = errors.Join(err, m.Close(context.Background())) }()

	if err := m.Reload(mesh.Table{"db": *dbAddr, "db2": *db2Addr}); err != nil {
		return err
	}

	sdb := simpledb.New(printPing)
	// A service in one's own process is a Go value like any other.
	for _, kv := range [][2]string{{"a", "foobar"}, {"b", "foobar2"}} {
		r, err := sdb.Set(ctx, &simpledbv1.SetRequest{Key: kv[0], Value: kv[1]})
		if err != nil {
			return err
		}
		printValue(r.Last)
	}
	for _, key := range []string{"a", "b"} {
		r, err := sdb.Get(ctx, &simpledbv1.GetRequest{Key: key})
		if err != nil {
			return err
		}
		printValue(r.Value)
	}

	// Others reach it by the name "sdb": see cluster2.
	service := sdb.Service(m)
	if err := m.Register("sdb", service); err != nil {
		return err
	}
	m.Unregister("sdb")
	if err := m.Register("sdb", service); err != nil {
		return err
	}
	// What was a unique snax service is a service with a name and generated stubs.
	if err := m.Register("pingserver", pingserver.New(time.Second, nil).Service(m)); err != nil {
		return err
	}

	// Only now can anybody come in. One process may be several nodes.
	for _, node := range []string{"db", "db2"} {
		l, err := m.Open(node)
		if err != nil {
			return err
		}
		fmt.Println("node", node, "is listening on", l.Addr())
	}
	fmt.Println("cluster1 is ready")
	<-ctx.Done()
	return nil
}

// printPing says who pinged, with which text, and in which trace.
func printPing(ctx context.Context, text string) {
	caller, _ := mesh.CallerFrom(ctx)
	fmt.Printf("%s ping %s [%s]\n", caller.Process, text, caller.Trace.Tag)
}

// printValue prints nil where there is no value, which an empty one is not.
func printValue(s *string) {
	if s == nil {
		fmt.Println("nil")
		return
	}
	fmt.Println(*s)
}
