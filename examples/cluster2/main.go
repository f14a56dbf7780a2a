// Command cluster2 is the second half of the example, after skynet's
// examples/cluster2.lua: it calls the services of cluster1, which must run. It
// ends by itself after some four seconds, with 0 if all went as promised.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"strings"
	"time"

	pingserverv1 "github.com/meshnode/meshnode/examples/proto/pingserver/v1"
	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
)

var (
	dbAddr  = flag.String("db", "127.0.0.1:2528", "address of the node db")
	db2Addr = flag.String("db2", "127.0.0.1:2529", "address of the node db2")
)

func main() {
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	m, err := mesh.New(mesh.Options{Name: "cluster2"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close(context.Background())) }()
	if err := m.Reload(mesh.Table{"__nowaiting": true, "db": *dbAddr, "db2": *db2Addr}); err != nil {
		return err
	}

	// A proxy stands for a service of another process; generated stubs work over it.
	sdb := simpledbv1.NewSimpleDBServiceClient(m.Proxy("db@sdb"))
	largeKey, largeValue := strings.Repeat("X", 128<<10), strings.Repeat("R", 100<<10)
	if _, err := sdb.Set(ctx, &simpledbv1.SetRequest{Key: largeKey, Value: largeValue}); err != nil {
		return err
	}
	got, err := sdb.Get(ctx, &simpledbv1.GetRequest{Key: largeKey})
	if err != nil || got.GetValue() != largeValue {
		return fmt.Errorf("the large value came back as %d bytes, and the error %v", len(got.GetValue()), err)
	}
	// With mesh.Post a call is one-way: nobody waits for a reply.
	if _, err := sdb.Ping(ctx, &simpledbv1.PingRequest{Text: "proxy"}, mesh.Post); err != nil {
		return err
	}

	forked := make(chan error, 2)
	go func() { forked <- traced(ctx, m, largeValue) }()
	time.AfterFunc(3*time.Second, func() { forked <- moved(ctx, m) })

	// db3 is not in the table yet. With __nowaiting a call fails at once,
	// without it the caller waits until a reload brings the node.
	pingserver := pingserverv1.NewPingServerServiceClient(m.Proxy("db3@pingserver"))
	_, err = pingserver.Ping(ctx, &pingserverv1.PingRequest{Text: "hello"})
	if !errors.Is(err, mesh.ErrAbsent) {
		return fmt.Errorf("db3 is absent, and the ping to it says: %v", err)
	}
	fmt.Println(err)
	if err := m.Reload(mesh.Table{"__nowaiting": false}); err != nil {
		return err
	}
	pong, err := pingserver.Ping(ctx, &pingserverv1.PingRequest{Text: "hello"})
	fmt.Println(pong.GetText())
	return errors.Join(err, <-forked, <-forked)
}

// traced calls by node and name, without stubs. Each message carries the tag.
func traced(ctx context.Context, m *mesh.Mesh, large string) error {
	ctx = mesh.WithTrace(ctx, mesh.Trace{Tag: "cluster"})
	a, errA := m.Call(ctx, "db@sdb", "GET", []byte("a"))
	fmt.Println(string(a))
	b, errB := m.Call(ctx, "db2@sdb", "GET", []byte("b"))
	fmt.Println(string(b))
	return errors.Join(errA, errB, m.Send(ctx, "db2@sdb", "PING", []byte("db2:longstring"+large)))
}

// moved takes db away and brings db3, which the ping waits for.
func moved(ctx context.Context, m *mesh.Mesh) error {
	if err := m.Reload(mesh.Table{"db": false, "db3": *db2Addr}); err != nil {
		return err
	}
	if _, err := m.Call(ctx, "db@sdb", "GET", []byte("a")); !errors.Is(err, mesh.ErrDown) {
		return fmt.Errorf("db is down, and the call to it says: %v", err)
	} else {
		fmt.Println(err)
	}
	return nil
}
