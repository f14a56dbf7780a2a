package simpledb_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/examples/simpledb"
	"github.com/meshnode/meshnode/pkg/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve makes a process that is the node db, with the service @sdb, and which
// calls itself over a real link (M20).
func serve(t *testing.T, pinged func(context.Context, string)) *mesh.Mesh {
	t.Helper()
	m, err := mesh.New(mesh.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := m.Register("sdb", simpledb.New(pinged).Service(m)); err != nil {
		t.Fatal(err)
	}
	l, err := m.Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Reload(mesh.Table{"db": l.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	return m
}

// No value and an empty value are two things, through stubs and plain (M51).
func TestNilAndEmpty(t *testing.T) {
	m, ctx := serve(t, nil), t.Context()
	db := simpledbv1.NewSimpleDBServiceClient(m.Proxy("db@sdb"))
	get := func() *string {
		t.Helper()
		r, err := db.Get(ctx, &simpledbv1.GetRequest{Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		return r.Value
	}
	if get() != nil {
		t.Error("a key that was never set has a value")
	}
	if _, err := m.Call(ctx, "db@sdb", "get", []byte("k")); status.Code(err) != codes.NotFound || mesh.VerdictOf(err) != mesh.HandlerFailed {
		t.Errorf("plain GET of a key that was never set: %v", err)
	}
	var header metadata.MD
	for i, want := range []string{"true", ""} {
		header = nil
		last, err := m.Call(ctx, "db@sdb", "SET", []byte("k="), grpc.Header(&header))
		if err != nil || len(last) != 0 || got(header) != want {
			t.Errorf("plain SET number %d: %q %v, header %v", i+1, last, err, header)
		}
	}
	if v := get(); v == nil || *v != "" {
		t.Error("an empty value is none")
	}
	if v, err := m.Call(ctx, "db@sdb", "GET", []byte("k")); err != nil || len(v) != 0 {
		t.Errorf("plain GET of an empty value: %q %v", v, err)
	}
	r, err := db.Set(ctx, &simpledbv1.SetRequest{Key: "k", Value: "v"})
	if err != nil || r.Last == nil || *r.Last != "" {
		t.Errorf("Set after an empty value: %v %v", r, err)
	}
}

func got(header metadata.MD) string {
	if v := header.Get(simpledb.NilHeader); len(v) > 0 {
		return v[0]
	}
	return ""
}

// A ping is one-way, and a long text is cut as skynet cuts it.
func TestPing(t *testing.T) {
	pinged := make(chan string, 1)
	m, ctx := serve(t, func(_ context.Context, text string) { pinged <- text }), t.Context()
	db := simpledbv1.NewSimpleDBServiceClient(m.Proxy("db@sdb"))
	for text, want := range map[string]string{
		"":                          "",
		"twenty bytes exactly":      "twenty bytes exactly",
		"twenty-one bytes text":     "twenty-one bytes tex...(21)",
		"nineteen bytes text\u00e9": "nineteen bytes text?...(21)",
	} {
		if _, err := db.Ping(ctx, &simpledbv1.PingRequest{Text: text}, mesh.Post); err != nil {
			t.Fatal(err)
		}
		if s := <-pinged; s != want {
			t.Errorf("%q is told as %q, want %q", text, s, want)
		}
		if err := m.Send(ctx, "db@sdb", "PING", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if s := <-pinged; s != want {
			t.Errorf("plain, %q is told as %q, want %q", text, s, want)
		}
	}
	if _, err := db.Ping(ctx, &simpledbv1.PingRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a ping that waits for a reply: %v", err)
	}
}
