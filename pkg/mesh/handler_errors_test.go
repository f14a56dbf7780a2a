package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// failing is a client of a service that returns the given error.
func failing(w *world, err error) *mesh.Mesh {
	w.serve("server", "db:1", "sdb", func(context.Context, string, []byte) ([]byte, error) { return []byte("lost"), err })
	return lonely(mesh.Table{"db": "db:1"})(w)
}

func withDetails(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	st, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return st.Err()
}

// M30: code, message and details of a handler's error reach its caller as they
// are, and everything is "handler failed", whatever the error was.
func TestHandlersErrorReachesItsCaller(t *testing.T) {
	bad := &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "key", Description: "empty"}}}
	foreign := &errdetails.ErrorInfo{Domain: "example.com", Reason: "ABSENT", Metadata: map[string]string{"executed": "no"}}
	mine := &errdetails.ErrorInfo{Domain: "mesh", Reason: "ABSENT", Metadata: map[string]string{"executed": "no"}}
	for _, c := range []struct {
		name    string
		err     error
		code    codes.Code
		text    string
		details []proto.Message
	}{
		{"plain", errors.New("disk full"), codes.Unknown, "disk full", nil},
		{"status", status.Error(codes.NotFound, "no such key"), codes.NotFound, "no such key", nil},
		{"details", withDetails(codes.InvalidArgument, "bad", bad, foreign), codes.InvalidArgument, "bad", []proto.Message{bad, foreign}},
		{"wrapped status", fmt.Errorf("get: %w", status.Error(codes.NotFound, "no such key")), codes.NotFound, "no such key", nil},
		{"facts of the mesh", withDetails(codes.Unavailable, "said so", bad, mine), codes.Unavailable, "said so", []proto.Message{bad}},
		{"sentinel of the mesh", mesh.ErrAbsent, codes.Unknown, "absent", nil},
		{"wrapped sentinel", fmt.Errorf("x: %w", mesh.ErrLinkBroken), codes.Unknown, "x: ", nil},
		{"error of the mesh", &mesh.Error{Verdict: mesh.NotSent, Err: mesh.ErrDown, Message: "cluster node [x] is down.", Code: codes.Unavailable}, codes.Unknown, "cluster node [x] is down.", nil},
		{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded, "deadline", nil},
		{"cancelled", fmt.Errorf("x: %w", context.Canceled), codes.Canceled, "x: ", nil},
		{"unknown code", status.Error(codes.Code(99), "odd"), codes.Unknown, "odd", nil},
		{"empty text", errors.New(""), codes.Unknown, "", nil},
		{"not UTF-8", errors.New("a\xffb"), codes.Unknown, "a?b", nil},
		{"long text", errors.New(strings.Repeat("x", 5000)), codes.Unknown, strings.Repeat("x", 1024), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				m := failing(w, c.err)
				got, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
				if got != nil {
					t.Errorf("the reply %q came with the error", got)
				}
				wantError{verdict: mesh.HandlerFailed, code: c.code, text: c.text, node: "db", target: "db@sdb", method: "GET"}.check(t, err)
				if n := len(err.Error()); n > 1024 {
					t.Errorf("the text has %d bytes", n)
				}
				details := status.Convert(err).Details()
				if len(details) != len(c.details) {
					t.Fatalf("details %v came, want %v", details, c.details)
				}
				for i, d := range details {
					if got, ok := d.(proto.Message); !ok || !proto.Equal(got, c.details[i]) {
						t.Errorf("detail %d is %v, want %v", i, d, c.details[i])
					}
				}
			})
		})
	}
}

// M30, M56: details that are too long are dropped, code and message stay.
func TestLongDetailsAreDropped(t *testing.T) {
	inWorld(t, func(w *world) {
		m := failing(w, withDetails(codes.NotFound, "long", &errdetails.DebugInfo{Detail: strings.Repeat("x", 3<<10)}))
		_, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
		wantError{verdict: mesh.HandlerFailed, code: codes.NotFound, text: "long"}.check(t, err)
		if d := status.Convert(err).Details(); len(d) != 0 {
			t.Errorf("details of more than 3 KiB came: %d", len(d))
		}
	})
}

// M30: what protobuf cannot carry of an answer harms nobody else on the link.
func TestBrokenAnswersHarmNobody(t *testing.T) {
	inWorld(t, func(w *world) {
		hold := make(chan struct{})
		w.serve("server", "db:1", "sdb", func(ctx context.Context, method string, _ []byte) ([]byte, error) {
			st := &spb.Status{Code: int32(codes.NotFound), Message: "odd"}
			switch method {
			case "HOLD":
				<-hold
				return nil, nil
			case "DETAIL":
				st.Details = []*anypb.Any{{TypeUrl: "\xff"}, nil}
			case "TEXT":
				st.Message += "\xff"
			case "HEADER":
				_ = grpc.SetHeader(ctx, metadata.MD{"k\xff": {"v\xff"}})
				_ = grpc.SetTrailer(ctx, metadata.MD{"k\xff": {"v\xff"}})
			}
			return nil, status.FromProto(st).Err()
		}, mesh.Concurrent(2))
		m := lonely(mesh.Table{"db": "db:1"})(w)
		held := make(chan error, 1)
		go func() { _, err := m.Call(w.within(time.Hour), "db@sdb", "HOLD", nil); held <- err }()
		for _, method := range []string{"DETAIL", "TEXT", "HEADER"} {
			_, err := m.Call(w.within(time.Minute), "db@sdb", method, nil)
			wantError{verdict: mesh.HandlerFailed, code: codes.NotFound, text: "odd", method: method}.check(t, err)
		}
		close(hold)
		if err := <-held; err != nil {
			t.Errorf("another call on the link: %v", err)
		}
	})
}

// M30, M23: a nested call that failed is no fact about the outer one, over one
// hop and over two.
func TestNestedErrorIsNotTakenForTheOuterOne(t *testing.T) {
	for name, wrap := range map[string]func(error) error{
		"as it is": func(err error) error { return err },
		"wrapped":  func(err error) error { return fmt.Errorf("asking db: %w", err) },
		"joined":   func(err error) error { return errors.Join(errors.New("first"), err) },
		"status":   func(err error) error { return status.Convert(err).Err() },
	} {
		for _, nested := range []struct {
			target string
			is     error
			code   codes.Code
		}{
			{"gone@x", mesh.ErrAbsent, codes.Unavailable},
			{"c@nobody", mesh.ErrNameNotFound, codes.NotFound},
			{"gone", mesh.ErrInvalidTarget, codes.InvalidArgument},
		} {
			t.Run(name+" "+nested.target, func(t *testing.T) {
				inWorld(t, func(w *world) {
					w.serve("c", "c:1", "x", echo)
					b := w.process("b")
					w.open(b, "b:1")
					w.reload(b, mesh.Table{"b": "b:1", "c": "c:1"})
					w.register(b, "inner", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
						_, err := b.Call(ctx, nested.target, "X", nil, mesh.NoWait)
						if !errors.Is(err, nested.is) {
							t.Errorf("the nested call: %v, want %v", err, nested.is)
						}
						return nil, wrap(err)
					})
					w.register(b, "outer", func(ctx context.Context, _ string, _ []byte) ([]byte, error) { return b.Call(ctx, "b@inner", "X", nil) })
					m := lonely(mesh.Table{"b": "b:1"})(w)
					want := wantError{verdict: mesh.HandlerFailed, code: codes.Unknown, node: "b", method: "GET"}
					if name == "status" { // the handler made a status of it
						want.code = nested.code
					}
					_, err := m.Call(w.within(time.Minute), "b@inner", "GET", nil)
					want.check(t, err)
					want.code = codes.Unknown // now it is an error of the mesh's own
					_, err = m.Call(w.within(time.Minute), "b@outer", "GET", nil)
					want.check(t, err)
				})
			})
		}
	}
}
