package mesh_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M23: whatever a peer answers, the caller knows whether it ran.
func TestEveryFailureOfThePeerHasItsVerdict(t *testing.T) {
	for reason, want := range map[meshv1.Reason]wantError{
		meshv1.Reason_REASON_UNKNOWN_METHOD:  {verdict: mesh.Rejected, is: mesh.ErrUnknownMethod},
		meshv1.Reason_REASON_INVALID_NAME:    {verdict: mesh.Rejected, is: mesh.ErrInvalidName},
		meshv1.Reason_REASON_NAME_NOT_FOUND:  {verdict: mesh.Rejected, is: mesh.ErrNameNotFound},
		meshv1.Reason_REASON_STALE_HANDLE:    {verdict: mesh.Rejected, is: mesh.ErrStaleHandle},
		meshv1.Reason_REASON_OVERLOADED:      {verdict: mesh.Rejected, is: mesh.ErrOverloaded},
		meshv1.Reason_REASON_DRAINING:        {verdict: mesh.Rejected, is: mesh.ErrDraining},
		meshv1.Reason_REASON_TOO_LARGE:       {verdict: mesh.Rejected, is: mesh.ErrTooLarge},
		meshv1.Reason_REASON_EXPIRED:         {verdict: mesh.Rejected, is: mesh.ErrExpired},
		meshv1.Reason_REASON_NOT_PERMITTED:   {verdict: mesh.Rejected, is: mesh.ErrNotPermitted},
		meshv1.Reason_REASON_INVALID_REQUEST: {verdict: mesh.Rejected, is: mesh.ErrInvalidRequest},
		meshv1.Reason_REASON_LOOP:            {verdict: mesh.Rejected, is: mesh.ErrLoop},
		meshv1.Reason_REASON_LINK_BROKEN:     {verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken},
		meshv1.Reason_REASON_CANCELLED:       {verdict: mesh.MaybeExecuted, is: mesh.ErrCancelled},
		meshv1.Reason_REASON_REPLY_TOO_LARGE: {verdict: mesh.HandlerFailed, is: mesh.ErrReplyTooLarge},
		meshv1.Reason_REASON_PANIC:           {verdict: mesh.HandlerFailed, is: mesh.ErrPanic},
		meshv1.Reason_REASON_HANDLER:         {verdict: mesh.HandlerFailed, code: codes.NotFound},
		meshv1.Reason_REASON_UNSPECIFIED:     {verdict: mesh.HandlerFailed, code: codes.NotFound},
		meshv1.Reason(99):                    {verdict: mesh.HandlerFailed, code: codes.NotFound},
	} {
		t.Run(reason.String(), failure{want: want, prepare: func(w *world) *mesh.Mesh {
			w.listenPuppet("db:1", func(p *puppet) {
				for f := p.next(); f != nil; f = p.next() {
					p.say(failureFrame(f.GetSession(), &meshv1.Failure{Reason: reason, Code: uint32(codes.NotFound), Message: "no"}))
				}
			})
			return lonely(mesh.Table{"db": "db:1"})(w)
		}}.run)
	}
}

// M23, M42, M47: what a listener refuses before a handler ran.
func TestRejectedSaysWhy(t *testing.T) {
	empty := func(w *world) *mesh.Mesh {
		s := w.process("server")
		w.open(s, "db:1")
		w.register(s, "sdb", nil)
		return lonely(mesh.Table{"db": "db:1"})(w)
	}
	small := func(client, server mesh.Limits) func(*world) *mesh.Mesh {
		return toServer(withLimits(client), withLimits(server))
	}
	for _, f := range []failure{
		{name: "name not found", target: "db@nobody", want: wantError{verdict: mesh.Rejected, is: mesh.ErrNameNotFound, text: "nobody"}},
		{name: "local name not found", target: "db.sdb", want: wantError{verdict: mesh.Rejected, is: mesh.ErrNameNotFound}},
		{name: "stale handle", target: "db:00000001000000ff", want: wantError{verdict: mesh.Rejected, is: mesh.ErrStaleHandle}},
		{name: "unknown method", prepare: empty, want: wantError{verdict: mesh.Rejected, is: mesh.ErrUnknownMethod, text: "GET"}},
		{name: "unknown method of handle 0", target: "db:0000000000000000", want: wantError{verdict: mesh.Rejected, is: mesh.ErrUnknownMethod}},
		{name: "large, name not found", target: "db@nobody", payload: 100 << 10, want: wantError{verdict: mesh.Rejected, is: mesh.ErrNameNotFound}},
		{name: "reply too large", prepare: small(mesh.Limits{MessageBytes: 64 << 10}, mesh.Limits{}), target: "db@big", want: wantError{verdict: mesh.HandlerFailed, is: mesh.ErrReplyTooLarge}},
		{
			name: "reply too large for the call", payload: 100, options: []grpc.CallOption{grpc.MaxCallRecvMsgSize(99)},
			want: wantError{verdict: mesh.HandlerFailed, is: mesh.ErrReplyTooLarge},
		},
	} {
		if f.prepare == nil {
			f.prepare = toServer(unchanged, unchanged)
		}
		if f.target == "db@big" {
			inner := f.prepare
			f.prepare = func(w *world) *mesh.Mesh {
				m := inner(w)
				w.register(w.all[0], "big", func(context.Context, string, []byte) ([]byte, error) { return make([]byte, 64<<10+1), nil })
				return m
			}
		}
		t.Run(f.name, f.run)
	}
}

// M23, M56: a full service refuses a call that never started.
func TestFullServiceRejectsOverloaded(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.process("server", withLimits(mesh.Limits{QueueMessages: 1}))
		w.open(s, "db:1")
		ran, hold := 0, make(chan struct{})
		w.register(s, "sdb", func(context.Context, string, []byte) ([]byte, error) { ran++; <-hold; return nil, nil })
		m := lonely(mesh.Table{"db": "db:1"})(w)
		results := make(chan error, 2)
		for range 2 { // one runs, one waits
			go func() { _, err := m.Call(w.within(time.Minute), "db@sdb", "HOLD", nil); results <- err }()
			synctest.Wait()
		}
		_, err := m.Call(w.within(time.Minute), "db@sdb", "GET", nil)
		wantError{verdict: mesh.Rejected, is: mesh.ErrOverloaded, node: "db", target: "db@sdb", method: "GET"}.check(t, err)
		close(hold)
		for range 2 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if ran != 2 {
			t.Errorf("%d handlers ran, want 2", ran)
		}
	})
}

// M23, M34: after a call was sent, a break and a context that ends leave its
// execution open, and say so.
func TestMaybeExecutedAfterSending(t *testing.T) {
	type act func(w *world, m *mesh.Mesh, cancel func())
	for name, c := range map[string]struct {
		then act
		want error
	}{
		"link broken": {want: mesh.ErrLinkBroken, then: func(w *world, _ *mesh.Mesh, _ func()) { w.Cut("db:1") }},
		"set to down": {want: mesh.ErrLinkBroken, then: func(w *world, m *mesh.Mesh, _ func()) { w.reload(m, mesh.Table{"db": false}) }},
		"deadline":    {want: context.DeadlineExceeded, then: func(*world, *mesh.Mesh, func()) { time.Sleep(10 * time.Second) }},
		"cancelled":   {want: context.Canceled, then: func(_ *world, _ *mesh.Mesh, cancel func()) { cancel() }},
		"process ends": {want: mesh.ErrLinkBroken, then: func(_ *world, m *mesh.Mesh, _ func()) {
			over, end := context.WithCancel(context.Background())
			end()
			_ = m.Close(over)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.serve("server", "db:1", "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
					<-ctx.Done()
					time.Sleep(time.Second) // its answer is not what the caller gets
					return nil, nil
				})
				m := lonely(mesh.Table{"db": "db:1"})(w)
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				result := make(chan error, 1)
				go func() { _, err := m.Call(ctx, "db@sdb", "GET", nil); result <- err }()
				synctest.Wait()
				c.then(w, m, cancel)
				start := time.Now()
				wantError{verdict: mesh.MaybeExecuted, is: c.want, node: "db", target: "db@sdb", method: "GET"}.check(t, <-result)
				if !time.Now().Equal(start) {
					t.Errorf("it took %s to fail", time.Since(start))
				}
			})
		})
	}
}

// M23, M46: the errors of Query tell as much as those of Call.
func TestErrorsOfQueryAreComplete(t *testing.T) {
	inWorld(t, func(w *world) {
		w.listenPuppet("db:1", func(p *puppet) {
			for f := p.next(); f != nil; f = p.next() {
				p.say(replyFrame(f.GetSession(), "\xff\xff"))
			}
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		_, err := m.Query(w.within(time.Minute), "db@sdb")
		wantError{verdict: mesh.HandlerFailed, is: mesh.ErrInvalidRequest, node: "db", target: "db@sdb", method: "Query"}.check(t, err)
	})
}

// M23: an error that came from elsewhere has no verdict.
func TestOtherErrorsHaveNoVerdict(t *testing.T) {
	for _, err := range []error{nil, context.Canceled, mesh.ErrDown, status.Error(codes.Aborted, "x")} {
		if v := mesh.VerdictOf(err); v != 0 {
			t.Errorf("%v has the verdict %q", err, v)
		}
	}
}
