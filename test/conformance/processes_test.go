package conformance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// processes are what TestProcesses starts: a node in Go, a gateway, and where
// the language has one an ordinary gRPC server behind the gateway's process.
type processes struct {
	*testing.T
	binary string
	logs   *tail
}

// TestProcesses has ordinary stubs of the languages in -clients, in processes of
// their own, call a Go service through a meshnode's gateway, and this Go program call an
// ordinary gRPC server in Python as ml@model: real processes, nothing in common
// but the wire.
func TestProcesses(t *testing.T) {
	stubs := stubsOf(t)
	p := &processes{T: t, binary: filepath.Join(t.TempDir(), "meshnode"), logs: &tail{}}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", p.binary, "../../cmd/meshnode").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the processes' logs:\n%s", p.logs)
		}
	})
	db, ml := "db="+p.freeAddr(), p.freeAddr()
	p.start(p.binary, "serve", "--node", db, "--open", "db", "--example", "simpledb")
	hosts := []string{"serve", "--node", db, "--node", "ml=" + ml, "--open", "ml", "--gateway", "127.0.0.1:0"}
	python := slices.Contains(stubs, "python")
	if python {
		server := p.start("../../clients/python/serve-ordinary.sh", "127.0.0.1:0")
		addr, err := server.ReadString('\n')
		if err != nil {
			t.Fatalf("the ordinary server did not start: %v", err)
		}
		hosts = append(hosts, "--host", "model="+strings.TrimSpace(addr))
	}
	gateway := p.gateway(p.start(p.binary, hosts...))
	p.greets(db)
	t.Run("go", func(t *testing.T) { callsThroughGateway(t, gateway) })
	for _, name := range stubs {
		t.Run(name, func(t *testing.T) {
			out, err := exec.Command("../../clients/"+name+"/stub.sh", gateway).CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != "hello from Go" {
				t.Errorf("the stub said %.500q, %v", out, err)
			}
		})
	}
	if python {
		t.Run("model", func(t *testing.T) { callsModel(t, ml) })
	}
}

// stubsOf are the languages of -clients that have an ordinary stub.
func stubsOf(t *testing.T) (names []string) {
	t.Helper()
	all := strings.Split(*clients, ",")
	if *clients == "all" {
		all = languages(t)
	}
	for _, name := range all {
		if found, err := filepath.Glob("../../clients/" + name + "/stub.sh"); err == nil && len(found) == 1 {
			names = append(names, name)
		}
	}
	return names
}

func (p *processes) freeAddr() string {
	p.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start starts a process that is ended with the test, and returns its stdout.
func (p *processes) start(program string, args ...string) *bufio.Reader {
	p.Helper()
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r, w := io.Pipe()
	cmd.Stdout = io.MultiWriter(w, p.logs)
	cmd.Stderr = cmd.Stdout
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = r.Close()
		_ = cmd.Wait()
	})
	return bufio.NewReader(r)
}

// gateway reads a meshnode's log until it tells where its gateway listens.
func (p *processes) gateway(log *bufio.Reader) string {
	p.Helper()
	for {
		line, err := log.ReadBytes('\n')
		if err != nil {
			p.Fatalf("the gateway did not start: %v", err)
		}
		var entry struct{ Msg, Addr string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "gateway listening" {
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return entry.Addr
		}
	}
}

// greets writes what the stubs read, over the mesh.
func (p *processes) greets(db string) {
	p.Helper()
	out, err := exec.Command(p.binary, "call", "--node", db, "--wait-up", "--timeout", "10s", "db@sdb", "SET", "greeting=hello from Go").CombinedOutput()
	if err != nil {
		p.Fatalf("meshnode call: %v\n%s", err, out)
	}
}

// callsThroughGateway is what the stubs of the other languages do, in Go.
func callsThroughGateway(t *testing.T, gateway string) {
	cc, err := grpc.NewClient(gateway, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "mesh-to", "db@sdb"), 10*time.Second)
	defer cancel()
	got, err := simpledbv1.NewSimpleDBServiceClient(cc).Get(ctx, &simpledbv1.GetRequest{Key: "greeting"})
	if err != nil || got.GetValue() != "hello from Go" {
		t.Errorf("got %v, %v", got, err)
	}
}

// callsModel calls the ordinary Python server as any service of the mesh.
func callsModel(t *testing.T, ml string) {
	m, err := mesh.New(mesh.Options{Name: "caller"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(context.Background())
	if err := m.Reload(mesh.Table{"ml": ml}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	model := simpledbv1.NewSimpleDBServiceClient(m.Proxy("ml@model"))
	if _, err := model.Set(ctx, &simpledbv1.SetRequest{Key: "k", Value: "from Go"}, mesh.WaitUp); err != nil {
		t.Fatal(err)
	}
	if got, err := model.Get(ctx, &simpledbv1.GetRequest{Key: "k"}); err != nil || got.GetValue() != "from Go" {
		t.Errorf("got %v, %v", got, err)
	}
	var trailer metadata.MD
	_, err = model.Get(ctx, &simpledbv1.GetRequest{}, grpc.Trailer(&trailer))
	if status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != "a key is never empty" || mesh.VerdictOf(err) != mesh.HandlerFailed {
		t.Errorf("its error arrives as %v (%s)", err, mesh.VerdictOf(err))
	}
	if v := trailer.Get("hint"); len(v) != 1 || v[0] != "give a key" {
		t.Errorf("trailers %v", trailer)
	}
	health, err := grpc_health_v1.NewHealthClient(m.Proxy("ml@model")).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || health.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", health, err)
	}
}
