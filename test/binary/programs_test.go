package binary_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// A program that cannot listen is db@model, with generated stubs alone, over
// real sockets; a program without a stream calls it through Call.
func TestPrograms(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--allow-serve", "--allow-forward", "--example", "simpledb")
	s.wait("programs may register names; memory for each, at most, the queues of its names included", 1, nil)
	cc := client(t, s.addr(1))
	p, err := meshv1.NewClusterServiceClient(cc).Serve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	say := func(f *meshv1.Frame) {
		t.Helper()
		if err := p.Send(&meshv1.ServeRequest{Frames: []*meshv1.Frame{f}}); err != nil {
			t.Fatal(err)
		}
	}
	hear := func() *meshv1.Frame {
		t.Helper()
		for {
			m, err := p.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if fs := m.GetFrames(); len(fs) != 1 {
				t.Fatalf("%d frames at once, of an idle stream", len(fs))
			} else if fs[0].GetHeartbeat() == nil {
				return fs[0]
			}
		}
	}
	say(&meshv1.Frame{Body: &meshv1.Frame_Hello{Hello: &meshv1.Hello{Version: 1, Process: "script", Incarnation: 1, HeartbeatIntervalMs: 60000}}})
	if hear().GetHello() == nil {
		t.Fatal("no hello")
	}
	say(&meshv1.Frame{Session: 1, Body: &meshv1.Frame_Register{Register: &meshv1.Register{Name: "model"}}})
	if f := hear(); f.GetRegistered() == nil {
		t.Fatal(f)
	}
	go func() { // one call from a process, one by Call
		for range 2 {
			f := hear()
			say(&meshv1.Frame{Session: f.GetSession(), Body: &meshv1.Frame_Reply{Reply: &meshv1.Reply{Payload: []byte(strings.ToUpper(string(f.GetRequest().GetPayload())))}}})
		}
	}()
	if got := must(t, nil, "call", s.db(), "db@model", "UPPER", "hello"); strings.TrimSpace(got) != "HELLO" {
		t.Errorf("got %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := meshv1.NewClusterServiceClient(client(t, s.addr(1))).Call(ctx, &meshv1.CallRequest{Target: "@model", Method: "UPPER", Payload: []byte("bye")})
	if err != nil || string(r.GetPayload()) != "BYE" {
		t.Errorf("%v, %v", r, err)
	}
	// It is lost with a call in its hand: maybe executed, exit code and word.
	lost := begin(t, command("call", s.db(), "db@model", "NEVER"))
	if f := hear(); f.GetRequest().GetMethod() != "NEVER" {
		t.Fatal(f)
	}
	_ = cc.Close()
	if o := lost(); o.code != 5 || !strings.Contains(o.stderr, "maybe executed") {
		t.Errorf("%+v", o)
	}
	if o := do(t, nil, "call", s.db(), "db@model", "M"); !strings.Contains(o.stderr, "name not found") {
		t.Errorf("%+v", o)
	}
}

// Both are off unless the flags say so.
func TestProgramsAreRefusedUnlessTold(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := meshv1.NewClusterServiceClient(client(t, s.addr(1)))
	p, err := c.Serve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Recv(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "--allow-serve") {
		t.Error(err)
	}
	if _, err := c.Call(ctx, &meshv1.CallRequest{Target: "db@sdb"}); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "--allow-forward") {
		t.Error(err)
	}
	if _, err := c.Call(ctx, &meshv1.CallRequest{Target: "@sdb", Method: "PING", Payload: []byte("x"), Push: true}); err != nil {
		t.Error(err)
	}
}
