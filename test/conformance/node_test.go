package conformance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// node is a real one: a process of pkg/mesh with the services that the cases
// call. "@sdb" and ".local" run messages at once, "@serial" one by one, "@db"
// has a schema.
type node struct {
	m    *mesh.Mesh
	addr string

	mu    sync.Mutex
	kept  []kept   // by KEEP
	ended []string // contexts of WAIT that ended
}

// kept is a message that a service noted.
type kept struct {
	payload  []byte
	traceTag string
}

// startNode opens a node at addr; port 0 picks one.
func startNode(addr string, set ...func(*mesh.Options)) (*node, error) {
	o := mesh.Options{Name: "node"}
	for _, f := range set {
		f(&o)
	}
	m, err := mesh.New(o)
	if err != nil {
		return nil, err
	}
	n := &node{m: m}
	concurrent, serial, schema := m.NewService(n.handle, mesh.Concurrent(1000)), m.NewService(n.handle, mesh.Serial()), m.NewService(nil)
	simpledbv1.RegisterSimpleDBServiceServer(schema, simpledbv1.UnimplementedSimpleDBServiceServer{})
	for name, s := range map[string]*mesh.Service{"@sdb": concurrent, ".local": concurrent, "@serial": serial, "@db": schema} {
		if err := m.Register(name, s); err != nil {
			return nil, err
		}
	}
	l, err := m.Open(addr)
	if err != nil {
		return nil, err
	}
	n.addr = l.Addr().String()
	return n, nil
}

// node starts one that is closed when the case ends.
func (k *kit) node(set ...func(*mesh.Options)) *node {
	k.Helper()
	n, err := startNode("127.0.0.1:0", set...)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { n.close() })
	return n
}

// close ends the node in good order.
func (n *node) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = n.m.Close(ctx)
}

func (n *node) note(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// keeps is what KEEP was told so far.
func (n *node) keeps() []kept {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.kept)
}

func (n *node) waitsEnded() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.ended)
}

// handle answers what the cases ask.
func (n *node) handle(ctx context.Context, method string, payload []byte) ([]byte, error) {
	switch method {
	case "ECHO":
		return payload, nil
	case "KEEP":
		n.note(func() { n.kept = append(n.kept, kept{slices.Clone(payload), mesh.TraceFrom(ctx).Tag}) })
		return nil, nil
	case "SLEEP":
		ms, _ := strconv.Atoi(string(payload))
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
			return payload, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case "WAIT":
		<-ctx.Done()
		n.note(func() { n.ended = append(n.ended, string(payload)) })
		return nil, ctx.Err()
	case "LEFT":
		due, ok := ctx.Deadline()
		if !ok {
			return []byte("none"), nil
		}
		return []byte(strconv.FormatInt(time.Until(due).Milliseconds(), 10)), nil
	case "PANIC":
		panic("canary of the handler")
	case "FAIL":
		return nil, failAsAsked(ctx)
	case "CODE":
		code, _ := strconv.Atoi(string(payload))
		return nil, status.Error(codes.Code(code), "code "+string(payload))
	case "HEADERS":
		return headersAsAsked(ctx)
	}
	return nil, status.Errorf(codes.Unimplemented, "the node has no method %q", method)
}

// failAsAsked fails with all that a status can carry.
func failAsAsked(ctx context.Context) error {
	if err := grpc.SetHeader(ctx, metadata.Pairs("head", "of a failure")); err != nil {
		return err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("tail-bin", "\x00\xff")); err != nil {
		return err
	}
	st, err := status.New(codes.DataLoss, "lost: "+umlauts).WithDetails(&meshv1.PingRequest{Payload: []byte("first")}, &meshv1.QueryRequest{Name: "second"})
	if err != nil {
		return err
	}
	return st.Err()
}

const umlauts = "äöü €"

// headersAsAsked tells the metadata that came, and sets some.
func headersAsAsked(ctx context.Context) ([]byte, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	if err := grpc.SetHeader(ctx, metadata.Pairs("head", "1", "head", "2", "head-bin", "\x00\xfe\xff")); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("tail", "3", "tail", "4")); err != nil {
		return nil, err
	}
	return json.Marshal(in)
}

// freeAddr is an address at which nobody listens.
func (k *kit) freeAddr() string {
	k.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		k.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// nodeEnv makes the test's own binary a node at the address that it holds, for
// cases in which a node dies.
const nodeEnv = "CONFORMANCE_NODE"

// runNode is the process of such a node: it serves until it is killed, or
// nobody holds its stdin any more.
func runNode(addr string) {
	n, err := startNode(addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(n.addr)
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

// nodeProcess starts a node in a process of its own; kill ends it like a crash.
func (k *kit) nodeProcess(addr string) (at string, kill func()) {
	k.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeEnv+"="+addr)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		k.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		k.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		k.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	k.Cleanup(kill)
	if _, err := fmt.Fscanln(stdout, &at); err != nil {
		k.Fatalf("the node's process did not start: %v", err)
	}
	return at, kill
}
