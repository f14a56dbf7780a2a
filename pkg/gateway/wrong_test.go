package gateway_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/pkg/gateway"
)

// raw sends bytes as they are, whatever they are.
type raw struct{ encoding.Codec }

func (raw) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (raw) Name() string                       { return "proto" }
func get(key string) []byte                    { return append([]byte{0x0a, byte(len(key))}, key...) }
func invoke(ctx context.Context, cc *grpc.ClientConn, method string, request []byte) ([]byte, error) {
	var reply []byte
	err := cc.Invoke(ctx, method, request, &reply, grpc.ForceCodec(raw{}))
	return reply, err
}

// Whatever a client gets wrong is a status that says so, with the mesh's facts;
// the next call goes through.
func TestWrongCalls(t *testing.T) {
	const method = simpledbv1.SimpleDBService_Get_FullMethodName
	long := strings.Repeat("x", 9000)
	for _, c := range []struct {
		name     string
		metadata []string
		method   string
		request  []byte
		code     codes.Code
		reason   string // of the ErrorInfo; "" where the handler's code answers
		text     string // stands in the message
	}{
		{"no mesh-to", nil, method, get("a"), codes.InvalidArgument, "INVALID_TARGET", "mesh-to: db@sdb"},
		{"empty mesh-to", []string{"mesh-to", ""}, method, get("a"), codes.InvalidArgument, "INVALID_TARGET", "invalid target"},
		{"only a node", []string{"mesh-to", "db"}, method, get("a"), codes.InvalidArgument, "INVALID_TARGET", "NODE@NAME"},
		{"only a name", []string{"mesh-to", "@sdb"}, method, get("a"), codes.InvalidArgument, "INVALID_TARGET", "it has no node"},
		{"bad node", []string{"mesh-to", "d b@sdb"}, method, get("a"), codes.InvalidArgument, "INVALID_TARGET", "node"},
		{"bad handle", []string{"mesh-to", "db:12"}, method, get("a"), codes.InvalidArgument, "INVALID_TARGET", "16 hex digits"},
		{"long target", []string{"mesh-to", "db@" + long}, method, get("a"), codes.InvalidArgument, "INVALID_TARGET", "255"},
		{"two targets", []string{"mesh-to", "db@sdb", "mesh-to", "db2@sdb"}, method, get("a"), codes.InvalidArgument, "INVALID_REQUEST", "2 times"},
		{"bad flag", []string{"mesh-to", "db@sdb", "mesh-nowait", "maybe"}, method, get("a"), codes.InvalidArgument, "INVALID_REQUEST", `"maybe"`},
		{"unknown key", []string{"mesh-to", "db@sdb", "mesh-no-wait", "1"}, method, get("a"), codes.InvalidArgument, "INVALID_REQUEST", "mesh-nowait"},
		{"long metadata", []string{"mesh-to", "db@sdb", "x", long}, method, get("a"), codes.InvalidArgument, "INVALID_REQUEST", "headers"},
		{"unknown node, no wait", []string{"mesh-to", "nowhere@sdb", "mesh-nowait", "1"}, method, get("a"), codes.Unavailable, "ABSENT", "[nowhere] is absent"},
		{"node down", []string{"mesh-to", "down@sdb"}, method, get("a"), codes.Unavailable, "DOWN", "[down] is down"},
		{"node not there", []string{"mesh-to", "gone@sdb"}, method, get("a"), codes.Unavailable, "CONNECT_FAILED", "connect [gone]"},
		{"unknown name", []string{"mesh-to", "db@nobody"}, method, get("a"), codes.NotFound, "NAME_NOT_FOUND", "@nobody"},
		{"stale handle", []string{"mesh-to", "db:00000001000000ff"}, method, get("a"), codes.FailedPrecondition, "STALE_HANDLE", "stale"},
		{"unknown service", []string{"mesh-to", "db@sdb"}, "/no.Such/Get", get("a"), codes.Unimplemented, "UNKNOWN_METHOD", "/no.Such/Get"},
		{"unknown method", []string{"mesh-to", "db@sdb"}, "/simpledb.v1.SimpleDBService/Got", get("a"), codes.Unimplemented, "UNKNOWN_METHOD", "Got"},
		{"no method at all", []string{"mesh-to", "db@sdb"}, "/", get("a"), codes.Unimplemented, "", ""},
		{"garbage", []string{"mesh-to", "db@sdb"}, method, []byte("\xff\xff\xff garbage"), codes.InvalidArgument, "INVALID_REQUEST", "decoded"},
		{"too large", []string{"mesh-to", "db@sdb"}, method, make([]byte, 1<<20+1), codes.ResourceExhausted, "", "larger than max"},
	} {
		t.Run(c.name, func(t *testing.T) {
			withDatabase(t, gateway.Options{MessageBytes: 1 << 20}, func(w *world, _ *database, stub simpledbv1.SimpleDBServiceClient, cc *grpc.ClientConn) {
				reply, err := invoke(w.within(10*time.Second, c.metadata...), cc, c.method, c.request)
				if err == nil || status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.text) {
					t.Errorf("%q, %v; it should be %v with %q", reply, err, c.code, c.text)
				}
				if info := infoOf(err); info.GetReason() != c.reason || c.reason != "" && info.GetMetadata()["executed"] != "no" {
					t.Errorf("the mesh's facts: %v", info)
				}
				if r, err := stub.Get(w.within(time.Second, "mesh-to", "db@sdb"), &simpledbv1.GetRequest{Key: "a"}); err != nil || r.GetValue() != "value of a" {
					t.Errorf("the next call: %v, %v", r, err)
				}
			})
		})
	}
}

// A node that is absent is waited for, and told in the end with what is known.
func TestAbsentNodeIsWaitedFor(t *testing.T) {
	withDatabase(t, gateway.Options{}, func(w *world, _ *database, _ simpledbv1.SimpleDBServiceClient, cc *grpc.ClientConn) {
		began := time.Now()
		_, err := invoke(w.within(3*time.Second, "mesh-to", "nowhere@sdb"), cc, simpledbv1.SimpleDBService_Get_FullMethodName, get("a"))
		if status.Code(err) != codes.DeadlineExceeded || time.Since(began) < 3*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}
