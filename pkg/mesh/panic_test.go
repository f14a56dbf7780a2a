package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// logged is a process's log as text.
type logged struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

// lines are those that have the text.
func (l *logged) lines(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.Buffer.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

func (l *logged) option(o *mesh.Options) {
	o.Logger = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(l), zapcore.DebugLevel))
}

const canary = "secret-canary"

// brokenError is an error whose own method panics when it is nil.
type brokenError struct{ text string }

func (e *brokenError) Error() string { return e.text }

var idInText = regexp.MustCompile(`internal error (\w+):`)

// M30, F8: a panic of any kind, and Goexit, becomes INTERNAL with an id that is
// in the log; nothing of it crosses the wire, and the 99 other calls on the
// link go on, as the service does.
func TestPanicEndsItsOwnCallAlone(t *testing.T) {
	for name, fall := range map[string]func(ctx context.Context){
		"value":           func(context.Context) { panic(canary) },
		"error":           func(context.Context) { panic(errors.New(canary)) },
		"status":          func(context.Context) { panic(status.Error(codes.NotFound, canary)) },
		"error of mesh":   func(context.Context) { panic(mesh.ErrAbsent) },
		"nil":             func(context.Context) { panic(nil) },
		"nil error":       func(context.Context) { var e *brokenError; panic(e) },
		"runtime error":   func(context.Context) { var none []int; _ = none[len(canary)] },
		"Goexit":          func(context.Context) { runtime.Goexit() },
		"panic in Await":  func(ctx context.Context) { mesh.Await(ctx, func() { panic(canary) }) },
		"Goexit in Await": func(ctx context.Context) { mesh.Await(ctx, runtime.Goexit) },
	} {
		for service, opts := range map[string][]mesh.ServiceOption{"serial": nil, "concurrent": {mesh.Concurrent(200)}} {
			t.Run(service+" "+name, func(t *testing.T) {
				inWorld(t, func(w *world) {
					var log logged
					hold := make(chan struct{})
					s := w.process("server", log.option)
					w.open(s, "db:1")
					w.register(s, "sdb", func(ctx context.Context, method string, p []byte) ([]byte, error) {
						if method == "FALL" {
							fall(ctx)
						}
						mesh.Await(ctx, func() { <-hold })
						return p, nil
					}, opts...)
					m := lonely(mesh.Table{"db": "db:1"})(w)
					var others sync.WaitGroup
					for i := range 99 {
						others.Go(func() {
							if got, err := m.Call(w.within(time.Hour), "db@sdb", "HOLD", []byte(fmt.Sprint(i))); err != nil || string(got) != fmt.Sprint(i) {
								t.Errorf("another call: %q, %v", got, err)
							}
						})
					}
					_, err := m.Call(w.within(time.Minute), "db@sdb", "FALL", nil)
					wantError{verdict: mesh.HandlerFailed, is: mesh.ErrPanic, node: "db", target: "db@sdb", method: "FALL"}.check(t, err)
					log.checkPanic(t, err)
					close(hold)
					others.Wait()
					if n := s.Stats().Panics; n != 1 {
						t.Errorf("%d panics were counted", n)
					}
				})
			})
		}
	}
}

// checkPanic looks for the panic's id in the log, and for what must not be told.
func (l *logged) checkPanic(t *testing.T, err error) {
	t.Helper()
	id := idInText.FindStringSubmatch(err.Error())
	if id == nil {
		t.Fatalf("%q has no id", err)
	}
	if lines := l.lines(id[1]); len(lines) != 1 || !strings.Contains(lines[0], `"stack"`) || !strings.Contains(lines[0], "_test.go") {
		t.Errorf("the log has %q of %s, want one line with the stack", lines, id[1])
	}
	told := err.Error() + status.Convert(err).Proto().String()
	for _, secret := range []string{canary, "_test.go", "goroutine", "absent"} {
		if strings.Contains(told, secret) {
			t.Errorf("%q of a panic was told: %s", secret, told)
		}
	}
}

// M30: an error whose text panics is a panic of its handler, and does not end
// the process.
func TestErrorThatPanicsIsAPanic(t *testing.T) {
	inWorld(t, func(w *world) {
		m := failing(w, (*brokenError)(nil))
		_, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
		wantError{verdict: mesh.HandlerFailed, is: mesh.ErrPanic}.check(t, err)
		if err := m.Send(w.within(time.Minute), "db@sdb", "GET", nil); err != nil {
			t.Error(err)
		}
		_, err = m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
		wantError{verdict: mesh.HandlerFailed, is: mesh.ErrPanic}.check(t, err)
	})
}

// falling is a generated service that panics.
type falling struct {
	simpledbv1.UnimplementedSimpleDBServiceServer
}

func (falling) Get(context.Context, *simpledbv1.GetRequest) (*simpledbv1.GetResponse, error) {
	panic(canary)
}

// M30, M51: so does a panic in a generated service, and one in an interceptor.
func TestPanicOfAStubOrAnInterceptor(t *testing.T) {
	for name, intercept := range map[string]grpc.UnaryServerInterceptor{
		"stub": func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			return h(ctx, req)
		},
		"interceptor": func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
			panic(canary)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				var log logged
				s := w.process("server", log.option, func(o *mesh.Options) { o.Interceptors = []grpc.UnaryServerInterceptor{intercept} })
				w.open(s, "db:1")
				simpledbv1.RegisterSimpleDBServiceServer(w.register(s, "sdb", nil), falling{})
				db := simpledbv1.NewSimpleDBServiceClient(lonely(mesh.Table{"db": "db:1"})(w).Proxy("db@sdb"))
				_, stub := db.Get(w.within(time.Minute), &simpledbv1.GetRequest{Key: "x"})
				err := errors.Unwrap(stub) // the text of a stub's error is gRPC's
				wantError{verdict: mesh.HandlerFailed, is: mesh.ErrPanic, node: "db"}.check(t, err)
				log.checkPanic(t, err)
				if _, err := db.Set(w.within(time.Minute), &simpledbv1.SetRequest{}); (status.Code(err) == codes.Unimplemented) != (name == "stub") {
					t.Errorf("the next call: %v", err)
				}
			})
		})
	}
}

// M29, M30: errors and panics of a push's handler are logged and counted where
// they are, once each.
func TestFailuresOfPushesStayAtTheCallee(t *testing.T) {
	inWorld(t, func(w *world) {
		var log logged
		s := w.process("server", log.option)
		w.open(s, "db:1")
		w.register(s, "sdb", func(_ context.Context, method string, _ []byte) ([]byte, error) {
			if method == "PANIC" {
				panic(canary)
			}
			return nil, errors.New("disk full")
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		for _, method := range []string{"PANIC", "FAIL"} {
			if err := m.Send(w.within(time.Minute), "db@sdb", method, nil); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Second)
		if st := s.Stats(); st.Panics != 1 || st.PushErrors != 1 {
			t.Errorf("%d panics and %d errors were counted", st.Panics, st.PushErrors)
		}
		if p, f := log.lines(canary), log.lines("disk full"); len(p) != 1 || len(f) != 1 {
			t.Errorf("logged %q and %q, want one line each", p, f)
		}
	})
}
