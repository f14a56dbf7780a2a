package binary_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// A unary Call gives its request as JSON, to a service of the process that it
// asks and, by that one's reflection, to one of another node.
func TestUnaryCallWithJSON(t *testing.T) {
	far := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb", "--reflection")
	mute := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	near := serve(t, "--listen", "127.0.0.1:0", "--allow-forward", "--example", "simpledb",
		"--node", "far="+far.addr(1), "--node", "mute="+mute.addr(1))
	mesh := meshv1.NewClusterServiceClient(client(t, near.addr(1)))
	const get, set = "/simpledb.v1.SimpleDBService/Get", "/simpledb.v1.SimpleDBService/Set"
	for _, target := range []string{"@sdb", "far@sdb"} {
		for _, step := range [][2]string{{set, `{"key":"a","value":"1"}`}, {get, `{"key":"a"}`}} {
			r, err := mesh.Call(t.Context(), &meshv1.CallRequest{Target: target, Method: step[0], Json: step[1]})
			if err != nil {
				t.Fatalf("%s %s: %v", target, step, err)
			}
			if step[0] == get && strings.ReplaceAll(r.GetJson(), " ", "") != `{"value":"1"}` {
				t.Errorf("%s: %s", target, r.GetJson())
			}
		}
	}
	for _, c := range []struct {
		target, method, json string
		code                 codes.Code
		says                 string
	}{
		{"@sdb", get, `{"kee":"a"}`, codes.InvalidArgument, "kee"},
		{"far@sdb", get, `{`, codes.InvalidArgument, "json"},
		{"far@sdb", "/simpledb.v1.SimpleDBService/Gett", `{}`, codes.InvalidArgument, "has no method Gett"},
		{"far@sdb", "/simpledb.v2.SimpleDBService/Get", `{}`, codes.InvalidArgument, "has no simpledb.v2"},
		{"@sdb", "/nobody.Service/Get", `{}`, codes.InvalidArgument, "no gRPC service nobody.Service"},
		{"@sdb", "GET", `{}`, codes.InvalidArgument, "full gRPC method"},
		{"mute@sdb", get, `{"key":"a"}`, codes.InvalidArgument, "does not answer reflection"},
	} {
		_, err := mesh.Call(t.Context(), &meshv1.CallRequest{Target: c.target, Method: c.method, Json: c.json})
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %s %s: %v, want %s with %q", c.target, c.method, c.json, err, c.code, c.says)
		}
	}
}
