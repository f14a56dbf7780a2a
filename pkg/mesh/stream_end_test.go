package mesh_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// ended is how a stream's handler ended: what it was told, and its context.
type ended struct{ told, ctx error }

// held is a handler that answers one message and then waits for the next.
func held(ends *[]ended) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		var b []byte
		for {
			if err := s.RecvMsg(&b); err != nil {
				*ends = append(*ends, ended{err, s.Context().Err()})
				return err
			}
			if err := s.SendMsg(b); err != nil {
				return err
			}
		}
	}
}

// begun opens a stream and passes one message both ways.
func (w *world) begun(ctx context.Context, client *mesh.Mesh) grpc.ClientStream {
	w.Helper()
	s, err := client.Proxy("db@str").NewStream(ctx, bidi, "/x/M")
	if err != nil {
		w.Fatal(err)
	}
	var b []byte
	if err := errors.Join(s.SendMsg([]byte("x")), s.RecvMsg(&b)); err != nil || string(b) != "x" {
		w.Fatalf("%q %v", b, err)
	}
	return s
}

// M23, M31, M34: a stream whose caller cancels, whose deadline passes, or whose
// link breaks has one outcome, maybe executed, and its handler's context ends.
func TestStreamsThatAreCutShort(t *testing.T) {
	for what, c := range map[string]struct {
		cut  func(w *world, cancel context.CancelFunc)
		code codes.Code
		is   error
	}{
		"cancel":   {func(_ *world, cancel context.CancelFunc) { cancel() }, codes.Canceled, context.Canceled},
		"deadline": {func(*world, context.CancelFunc) { time.Sleep(time.Minute) }, codes.DeadlineExceeded, context.DeadlineExceeded},
		"break":    {func(w *world, _ context.CancelFunc) { w.Cut("db:1") }, codes.Aborted, mesh.ErrLinkBroken},
	} {
		t.Run(what, func(t *testing.T) {
			var ends []ended
			withStreams(t, held(&ends), func(w *world, server, client *mesh.Mesh) {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				s := w.begun(ctx, client)
				c.cut(w, cancel)
				synctest.Wait()
				_, err := drain(s)
				if status.Code(err) != c.code || !errors.Is(err, c.is) || mesh.VerdictOf(err) != mesh.MaybeExecuted {
					t.Errorf("%v (%s)", err, mesh.VerdictOf(err))
				}
				if err := s.SendMsg([]byte("late")); !errors.Is(err, io.EOF) {
					t.Errorf("sent after the end: %v", err)
				}
				time.Sleep(time.Second)
				if len(ends) != 1 || ends[0].ctx == nil || errors.Is(ends[0].told, io.EOF) {
					t.Errorf("the handler: %v", ends)
				}
				if x := server.Stats(); x.StreamsIn != 0 || x.Running != 0 || x.StreamBytes != 0 {
					t.Errorf("left behind: %d streams, %d handlers, %d bytes", x.StreamsIn, x.Running, x.StreamBytes)
				}
				if s := w.begun(w.within(time.Minute), client); s.CloseSend() != nil {
					t.Error("the next stream")
				}
			})
		})
	}
}

// M30: a stream's handler that panics, or calls Goexit, fails its own stream with
// an id, and others on the link go on.
func TestPanicOfAStream(t *testing.T) {
	for what, fall := range map[string]func(){"panic": func() { panic("canary") }, "Goexit": runtime.Goexit} {
		t.Run(what, func(t *testing.T) {
			withStreams(t, func(_ any, s grpc.ServerStream) error {
				if name, _ := grpc.MethodFromServerStream(s); name == "/x/Fall" {
					fall()
				}
				return echoStream(nil, s)
			}, func(w *world, server, client *mesh.Mesh) {
				other := w.begun(w.within(time.Hour), client)
				_, err := drain(w.opened(client, "db@str", "/x/Fall"))
				if !errors.Is(err, mesh.ErrPanic) || mesh.VerdictOf(err) != mesh.HandlerFailed || strings.Contains(err.Error(), "canary") {
					t.Error(err)
				}
				if n := server.Stats().Panics; n != 1 {
					t.Errorf("%d panics are counted", n)
				}
				var b []byte
				if err := errors.Join(other.SendMsg([]byte("y")), other.RecvMsg(&b), other.CloseSend()); err != nil || string(b) != "y" {
					t.Errorf("the other: %q %v", b, err)
				}
			})
		})
	}
}

// M35, M55: a listener that leaves lets an open stream finish within its drain
// time, and cuts one that does not.
func TestStreamsDrain(t *testing.T) {
	for what, finishes := range map[string]bool{"in time": true, "too late": false} {
		t.Run(what, func(t *testing.T) {
			var ends []ended
			withStreams(t, held(&ends), func(w *world, server, client *mesh.Mesh) {
				s := w.begun(w.within(time.Hour), client)
				closed := make(chan time.Duration, 1)
				start := time.Now()
				go func() {
					_ = server.Close(context.Background())
					closed <- time.Since(start)
				}()
				synctest.Wait()
				if client.Node("db").State != mesh.Leaving {
					t.Errorf("the node is %s", client.Node("db").State)
				}
				var b []byte
				if err := errors.Join(s.SendMsg([]byte("y")), s.RecvMsg(&b)); err != nil || string(b) != "y" {
					t.Errorf("while it drains: %q %v", b, err)
				}
				if finishes {
					if err := s.CloseSend(); err != nil {
						t.Error(err)
					}
				}
				_, err := drain(s)
				took := <-closed
				switch {
				case finishes && (mesh.VerdictOf(err) != mesh.HandlerFailed || took > 5*time.Second): // the handler returns io.EOF as its error
					t.Errorf("%v after %s", err, took)
				case !finishes && (err == nil || mesh.VerdictOf(err) == mesh.NotSent || took < 10*time.Second || took > 15*time.Second):
					t.Errorf("%v after %s", err, took)
				}
			})
		})
	}
}
