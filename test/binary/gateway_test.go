package binary_test

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
)

// gatewayOf is the address of the server's first gateway.
func gatewayOf(s *server) string {
	s.t.Helper()
	return s.wait("gateway listening", 1, nil)["addr"].(string)
}

// client is an ordinary gRPC channel.
func client(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// within is a context that ends after d, with metadata.
func within(t *testing.T, d time.Duration, kv ...string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

// An ordinary stub calls through a process that is a gateway and nothing else;
// when it is told to end, the call that runs is finished.
func TestGateway(t *testing.T) {
	node := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	gate := serve(t, node.db(), "--gateway", "127.0.0.1:0", "--route", "simpledb.v1.SimpleDBService=db@sdb")
	stub := simpledbv1.NewSimpleDBServiceClient(client(t, gatewayOf(gate)))
	if _, err := stub.Set(within(t, bound), &simpledbv1.SetRequest{Key: "a", Value: "1"}); err != nil {
		t.Fatal(err)
	}
	if r, err := stub.Get(within(t, bound, "mesh-to", "db@sdb"), &simpledbv1.GetRequest{Key: "a"}); err != nil || r.GetValue() != "1" {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := stub.Get(within(t, bound, "mesh-to", "nowhere@sdb", "mesh-nowait", "1"), &simpledbv1.GetRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	gate.signal(syscall.SIGTERM)
	if code := gate.exit(); code != 0 {
		t.Errorf("it ended with %d:\n%s", code, gate)
	}
}

// Flags of gateways that cannot be right.
func TestGatewayFlags(t *testing.T) {
	for _, c := range []struct {
		want string
		args []string
	}{
		{"write SERVICE=TARGET", []string{"--gateway", "127.0.0.1:0", "--route", "db@sdb"}},
		{"give --gateway ADDR too", []string{"--listen", "127.0.0.1:0", "--route", "a.B=db@sdb"}},
		{"given for this service already", []string{"--gateway", "127.0.0.1:0", "--route", "a.B=db@sdb", "--route", "a.B=db2@sdb"}},
		{"write NODE@NAME", []string{"--gateway", "127.0.0.1:0", "--route", "a.B=db"}},
		{"without a method", []string{"--gateway", "127.0.0.1:0", "--route", "a.B/Get=db@sdb"}},
		{"plaintext", []string{"--gateway", "0.0.0.0:0"}},
		{"port", []string{"--gateway", "127.0.0.1"}},
	} {
		if o := do(t, nil, append([]string{"serve", "--log", "json"}, c.args...)...); o.code != 2 || !strings.Contains(o.stderr, c.want) {
			t.Errorf("%q: exit code %d, want 2 and %q:\n%s", c.args, o.code, c.want, o.stderr)
		}
	}
}
