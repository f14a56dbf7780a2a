package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/auth"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/ratelimit"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	simpledbv1 "github.com/meshnode/meshnode/examples/proto/simpledb/v1"
	"github.com/meshnode/meshnode/pkg/mesh"
)

// journal keeps lines in the order in which they were written.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

// take returns the lines and begins anew.
func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	lines := j.lines
	j.lines = nil
	return lines
}

// noted is an interceptor that writes down when it runs.
func (j *journal) noted(name string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		j.add("%s in %s %T", name, info.FullMethod, req)
		v, err := h(ctx, req)
		j.add("%s out %T %v", name, v, err)
		return v, err
	}
}

// intercepted is a process with a plain service @sdb, a generated one @stub, and
// the given interceptors; and a client.
func intercepted(w *world, is ...grpc.UnaryServerInterceptor) (client *mesh.Mesh, stub simpledbv1.SimpleDBServiceClient) {
	m := w.process("server", func(o *mesh.Options) { o.Interceptors = is })
	w.open(m, "db:1")
	w.register(m, "sdb", func(ctx context.Context, method string, payload []byte) ([]byte, error) {
		if method == "PANIC" {
			panic("a secret")
		}
		if _, ok := mesh.CallerFrom(ctx); !ok {
			return nil, errors.New("the interceptors lost the caller")
		}
		return payload, nil
	})
	simpledbv1.RegisterSimpleDBServiceServer(w.register(m, "stub", nil), &stubDB{data: map[string]string{"a": "1"}})
	client = w.process("client")
	w.reload(client, mesh.Table{"db": "db:1"})
	return client, simpledbv1.NewSimpleDBServiceClient(client.Proxy("db@stub"))
}

// Interceptors run around each handler, the first outermost, calls and pushes
// alike: []byte and /@sdb/METHOD for a plain one, messages and the method's own
// name for a generated one.
func TestInterceptorsRunInOrder(t *testing.T) {
	for n := range 4 {
		inWorld(t, func(w *world) {
			var j journal
			var is []grpc.UnaryServerInterceptor
			for i := range n {
				is = append(is, j.noted(fmt.Sprint(i)))
			}
			client, stub := intercepted(w, is...)
			expect := func(method, req, reply, err string) {
				t.Helper()
				synctest.Wait()
				var want []string
				for i := range n {
					want = append(want, fmt.Sprintf("%d in %s %s", i, method, req))
				}
				for i := n - 1; i >= 0; i-- {
					want = append(want, fmt.Sprintf("%d out %s %s", i, reply, err))
				}
				if got := j.take(); !slices.Equal(got, want) {
					t.Errorf("with %d:\n%s\nwant\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
			ctx := w.within(time.Second)
			if got, err := client.Call(ctx, "db@sdb", "GET", []byte("x")); err != nil || string(got) != "x" {
				t.Errorf("plain: %q, %v", got, err)
			}
			expect("/@sdb/GET", "[]uint8", "[]uint8", "<nil>")
			if err := client.Send(ctx, "db@sdb", "/a/b", nil); err != nil {
				t.Error(err)
			}
			expect("/@sdb/a/b", "[]uint8", "[]uint8", "<nil>")
			if r, err := stub.Get(ctx, &simpledbv1.GetRequest{Key: "a"}); err != nil || r.GetValue() != "1" {
				t.Errorf("stub: %v, %v", r, err)
			}
			expect(simpledbv1.SimpleDBService_Get_FullMethodName, "*simpledbv1.GetRequest", "*simpledbv1.GetResponse", "<nil>")
		})
	}
}

// An interceptor may change request and reply of a plain handler, as long as they
// stay bytes.
func TestInterceptorsMayChangeBytes(t *testing.T) {
	inWorld(t, func(w *world) {
		client, _ := intercepted(w, func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			switch string(req.([]byte)) {
			case "nil":
				return nil, nil
			case "string":
				return "no bytes", nil
			}
			v, err := h(ctx, append([]byte("in "), req.([]byte)...))
			if err != nil {
				return nil, err
			}
			return append(v.([]byte), " out"...), nil
		})
		for in, out := range map[string]string{"x": "in x out", "nil": ""} {
			if got, err := client.Call(w.within(time.Second), "db@sdb", "GET", []byte(in)); err != nil || string(got) != out {
				t.Errorf("%s: %q, %v", in, got, err)
			}
		}
		if _, err := client.Call(w.within(time.Second), "db@sdb", "GET", []byte("string")); mesh.VerdictOf(err) != mesh.HandlerFailed || !strings.Contains(err.Error(), "must stay []byte") {
			t.Errorf("a reply that is a string: %v", err)
		}
	})
}

// limiter refuses what its name says.
type limiter struct{}

func (limiter) Limit(ctx context.Context) error {
	if m, _ := grpc.Method(ctx); strings.HasSuffix(m, "BUSY") {
		return errors.New("too often")
	}
	return nil
}

// The middleware's logging, recovery, auth and ratelimit work on plain handlers
// and generated services as they do on gRPC's own.
func TestMiddlewareAroundHandlers(t *testing.T) {
	inWorld(t, func(w *world) {
		var j journal
		log := logging.LoggerFunc(func(_ context.Context, level logging.Level, msg string, fields ...any) {
			f := make(map[string]any)
			for it := logging.Fields(fields).Iterator(); it.Next(); {
				k, v := it.At()
				f[k] = v
			}
			j.add("%s %s.%s %s", msg, f["grpc.service"], f["grpc.method"], f["grpc.code"])
		})
		client, stub := intercepted(w,
			logging.UnaryServerInterceptor(log, logging.WithLogOnEvents(logging.FinishCall)),
			recovery.UnaryServerInterceptor(recovery.WithRecoveryHandler(func(any) error { return status.Error(codes.DataLoss, "recovered") })),
			auth.UnaryServerInterceptor(func(ctx context.Context) (context.Context, error) {
				token, err := auth.AuthFromMD(ctx, "bearer")
				if err != nil {
					return nil, err
				}
				return context.WithValue(ctx, &j, token), nil
			}),
			ratelimit.UnaryServerInterceptor(limiter{}))
		known := metadata.AppendToOutgoingContext(w.within(time.Second), "authorization", "bearer me")
		for _, c := range []struct {
			ctx    context.Context
			method string
			code   codes.Code
		}{
			{known, "GET", codes.OK}, {w.within(time.Second), "GET", codes.Unauthenticated}, {known, "BUSY", codes.ResourceExhausted}, {known, "PANIC", codes.DataLoss},
		} {
			_, err := client.Call(c.ctx, "db@sdb", c.method, nil)
			if status.Code(err) != c.code || err != nil && mesh.VerdictOf(err) != mesh.HandlerFailed || err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v, want %s", c.method, err, c.code)
			}
			if got, want := j.take(), fmt.Sprintf("finished call @sdb.%s %s", c.method, c.code); len(got) != 1 || got[0] != want {
				t.Errorf("log: %q, want %q", got, want)
			}
		}
		if _, err := stub.Get(w.within(time.Second), &simpledbv1.GetRequest{Key: "a"}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("stub without a token: %v", err)
		}
		if r, err := stub.Get(known, &simpledbv1.GetRequest{Key: "a"}); err != nil || r.GetValue() != "1" {
			t.Errorf("stub: %v, %v", r, err)
		}
		want := []string{"finished call simpledb.v1.SimpleDBService.Get Unauthenticated", "finished call simpledb.v1.SimpleDBService.Get OK"}
		if got := j.take(); !slices.Equal(got, want) {
			t.Errorf("log: %q, want %q", got, want)
		}
	})
}

// A listener's own streams are logged once per link, health checks not at all;
// a panic on the way of a link ends that link and nothing else.
func TestStreamInterceptorsOfAListener(t *testing.T) {
	inWorld(t, func(w *world) {
		core, logs := observer.New(zap.InfoLevel)
		spoilt := zap.New(panicky{core})
		m := w.process("server", func(o *mesh.Options) { o.Logger = spoilt })
		w.open(m, "db:1")
		w.register(m, "sdb", echo)
		cc := w.rogueConn("db:1")
		r := w.rogueOn(cc)
		r.say(rogueHello())
		r.hear()
		for n := range uint64(3) {
			r.answers(n + 1)
		}
		if _, err := healthpb.NewHealthClient(cc).Check(w.within(time.Second), &healthpb.HealthCheckRequest{}); err != nil {
			t.Error(err)
		}
		bad := w.rogueOn(w.rogueConn("db:1"))
		f := rogueHello()
		f.GetHello().Process = "panic"
		bad.say(f)
		if st := bad.ended(); st.Code() != codes.Internal || strings.Contains(st.Message(), "secret") {
			t.Errorf("the link that panicked ended with %v", st)
		}
		r.answers(4)
		if err := r.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		r.ended()
		synctest.Wait()
		var got []string
		for _, e := range logs.FilterMessageSnippet("finished call").All() {
			got = append(got, fmt.Sprint(e.ContextMap()["grpc.method"], " ", e.ContextMap()["grpc.code"]))
		}
		if want := []string{"Link Internal", "Link OK"}; !slices.Equal(got, want) {
			t.Errorf("logged: %q, want %q", got, want)
		}
		if n := logs.FilterMessage("panic in a gRPC handler").Len(); n != 1 {
			t.Errorf("the panic was logged %d times", n)
		}
		if n := m.Stats().LinksIn; n != 0 {
			t.Errorf("%d links are left", n)
		}
	})
}

// panicky panics when the link of the process "panic" was accepted: on the
// goroutine of the gRPC handler.
type panicky struct{ zapcore.Core }

func (p panicky) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, p)
}

func (p panicky) Write(e zapcore.Entry, fs []zapcore.Field) error {
	for _, f := range fs {
		if e.Message == "link accepted" && f.String == "panic" {
			panic("a secret")
		}
	}
	return p.Core.Write(e, fs)
}

func (p panicky) With(fs []zapcore.Field) zapcore.Core { return panicky{p.Core.With(fs)} }

// grpc.health.v1 is served on every listener: SERVING until Close begins, then
// NOT_SERVING while calls drain, then gone. M55.
func TestHealthOfAListener(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.serve("server", "db:1", "sdb", func(context.Context, string, []byte) ([]byte, error) {
			time.Sleep(5 * time.Second)
			return nil, nil
		})
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1"})
		health := healthpb.NewHealthClient(w.rogueConn("db:1"))
		check := func() (healthpb.HealthCheckResponse_ServingStatus, error) {
			r, err := health.Check(w.within(time.Second), &healthpb.HealthCheckRequest{})
			return r.GetStatus(), err
		}
		watch, err := health.Watch(w.within(time.Hour), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if s, err := check(); err != nil || s != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("open: %s, %v", s, err)
			}
		}
		wait := w.calls(client, "db@sdb", 1)
		closed := make(chan error, 1)
		go func() { closed <- m.Close(context.Background()) }()
		time.Sleep(time.Second)
		if s, err := check(); err != nil || s != healthpb.HealthCheckResponse_NOT_SERVING {
			t.Errorf("closing: %s, %v", s, err)
		}
		if err := wait()[0]; err != nil {
			t.Errorf("the call that was under way: %v", err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if s, err := check(); status.Code(err) != codes.Unavailable {
			t.Errorf("closed: %s, %v", s, err)
		}
		var seen []healthpb.HealthCheckResponse_ServingStatus
		for r, err := watch.Recv(); err == nil; r, err = watch.Recv() {
			seen = append(seen, r.GetStatus())
		}
		if want := []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING}; !slices.Equal(seen, want) {
			t.Errorf("watched: %s, want %s", seen, want)
		}
	})
}
