package mesh_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// turnstile is a handler that waits until it is opened, and counts.
type turnstile struct {
	let chan struct{}

	mu  sync.Mutex
	ran []string // methods, in the order of their starts
}

func newTurnstile() *turnstile { return &turnstile{let: make(chan struct{})} }

func (g *turnstile) handle(_ context.Context, method string, payload []byte) ([]byte, error) {
	g.mu.Lock()
	g.ran = append(g.ran, method)
	g.mu.Unlock()
	<-g.let
	return payload, nil
}

func (g *turnstile) started() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.ran...)
}

// limited sets limits, for world.process.
func limited(l mesh.Limits) func(*mesh.Options) { return func(o *mesh.Options) { o.Limits = l } }

// isFull says that err is overloaded with a verdict.
func isFull(err error, v mesh.Verdict) bool {
	return errors.Is(err, mesh.ErrOverloaded) && mesh.VerdictOf(err) == v && status.Code(err) == codes.ResourceExhausted
}

// M56: the sums of what one peer, and all of them, can make a process hold.
func TestSumsOfTheLimits(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		limits    mesh.Limits
		peer, all int64
	}{
		// 128 of replies and as much of streams, 64 unfinished, 4096 streams of two
		// windows and two messages' pieces, 32 windows of 1, a batch; all: 512 of
		// replies and of streams and 4 a link of both, 256 unfinished, 256 that
		// streams receive, 16384 streams, windows of 64 links more.
		{mesh.Limits{}, 352*mib + 256<<10 + 4096*(192<<10+128), 2*(512*mib+1024*4*mib) + 2*256*mib + 16384*(192<<10+128) + (1024+64)*32*mib + 1024*256<<10},
		{mesh.Limits{LinkReplyBytes: 1, UnfinishedBytes: 10, UnfinishedRequests: 5, WindowBytes: 64 << 10, BatchBytes: 1, Links: 1, ReplyBytes: 2,
			LinkStreams: 7, Streams: 3, StreamWindow: 100, StreamMessages: 11},
			2 + 5 + 2*mib + 64<<10 + 3*(200+64<<10+128), 2*(2+4*mib) + 5 + 11 + 3*(200+64<<10+128) + 65*2*mib + 64<<10},
	} {
		if peer, all := c.limits.PerPeer(), c.limits.AllPeers(); peer != c.peer || all != c.all {
			t.Errorf("%+v: %d for a peer and %d for all, want %d and %d", c.limits, peer, all, c.peer, c.all)
		}
	}
}

// M56, M12: the line of a node takes so many calls; one more fails at once, and
// one that leaves makes room. Pushes have a bound of their own.
func TestLineTakesSoManyCalls(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("client", limited(mesh.Limits{LineCalls: 3}))
		ctx, cancel := context.WithCancel(context.Background())
		first := make(chan error, 1)
		go func() { _, err := m.Call(ctx, "db@sdb", "M", nil); first <- err }()
		wait := w.calls(m, "db@sdb", 2)
		began := time.Now()
		if _, err := m.Call(w.within(time.Second), "db@sdb", "M", nil); !isFull(err, mesh.NotSent) || time.Since(began) != 0 {
			t.Errorf("the fourth: %v after %s", err, time.Since(began))
		}
		pushed := make(chan error, 1)
		go func() { pushed <- m.Send(w.within(time.Hour), "db@sdb", "M", nil) }()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) || mesh.VerdictOf(err) != mesh.NotSent {
			t.Errorf("the one that left: %v", err)
		}
		last := w.calls(m, "db@sdb", 1)
		if n := m.Stats().Waiting; n != 3 {
			t.Errorf("%d calls wait, want 3", n)
		}
		w.serve("server", "db:1", "sdb", echo)
		w.reload(m, mesh.Table{"db": "db:1"})
		if err := errors.Join(errors.Join(wait()...), errors.Join(last()...), <-pushed); err != nil {
			t.Error(err)
		}
	})
}

// M56, M29: the line of a node takes so many bytes of pushes; then Send waits for
// room, as long as it may.
func TestLineTakesSoManyBytesOfPushes(t *testing.T) {
	for wait, want := range map[time.Duration]time.Duration{0: time.Second, 3 * time.Second: 3 * time.Second, -1: 0} {
		inWorld(t, func(w *world) {
			m := w.process("client", limited(mesh.Limits{LinePushBytes: 1000}), func(o *mesh.Options) { o.SendWait = wait })
			sent := make(chan error, 10)
			send := func(ctx context.Context) error { return m.Send(ctx, "db@sdb", "M", make([]byte, 200)) }
			for range 3 { // each counts 200, 256 and its names: the third is taken at 922
				go func() { sent <- send(w.within(time.Hour)) }()
				synctest.Wait()
			}
			if n := m.Stats().PushBytes; n < 1000 || n > 1500 {
				t.Errorf("%d bytes of pushes wait", n)
			}
			began := time.Now()
			if err := send(w.within(time.Hour)); !isFull(err, mesh.NotSent) || time.Since(began) != want {
				t.Errorf("SendWait %s: %v after %s", wait, err, time.Since(began))
			}
			if want == 0 {
				w.serve("server", "db:1", "sdb", echo)
				w.reload(m, mesh.Table{"db": "db:1"})
				return
			}
			go func() { sent <- send(w.within(time.Hour)) }()
			synctest.Wait()
			got := make(chan struct{}, 10)
			w.serve("server", "db:1", "sdb", func(context.Context, string, []byte) ([]byte, error) { got <- struct{}{}; return nil, nil })
			w.reload(m, mesh.Table{"db": "db:1"})
			for range 4 {
				if err := <-sent; err != nil {
					t.Error(err)
				}
				<-got
			}
			if n := m.Stats().PushBytes; n != 0 {
				t.Errorf("%d bytes of pushes are left", n)
			}
		})
	}
}

// M56, M12: calls beyond what the node takes at once stay in the line, in order.
func TestCallsBeyondThePeersBoundStayInTheLine(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newTurnstile()
		m := w.process("server", limited(mesh.Limits{CallsInFlight: 2}))
		w.open(m, "db:1")
		w.register(m, "sdb", g.handle, mesh.Concurrent(0))
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1"})
		wait := w.calls(client, "db@sdb", 5)
		if s, n := client.Stats(), len(g.started()); s.InFlight != 2 || s.Waiting != 3 || n != 2 {
			t.Errorf("%d in flight, %d wait, %d started", s.InFlight, s.Waiting, n)
		}
		close(g.let)
		if err := errors.Join(wait()...); err != nil {
			t.Error(err)
		}
	})
}

// M56, M57: a service's queue takes so many messages and so many bytes; a call
// that finds it full is rejected. Other services do not notice.
func TestServiceQueueIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		limits mesh.Limits
		size   int
		taken  int // beside the one that runs
	}{
		"messages": {mesh.Limits{QueueMessages: 4}, 0, 4},
		"bytes":    {mesh.Limits{QueueBytes: 10000}, 4000, 3}, // taken at 8,5xx
		"one":      {mesh.Limits{QueueMessages: 1}, 0, 1},
		"large":    {mesh.Limits{QueueBytes: 1}, 100 << 10, 1}, // whatever its size
	} {
		inWorld(t, func(w *world) {
			g := newTurnstile()
			m := w.process("server", limited(c.limits))
			w.open(m, "db:1")
			w.register(m, "sdb", g.handle)
			w.register(m, "other", echo)
			client := w.process("client")
			w.reload(client, mesh.Table{"db": "db:1"})
			var wg sync.WaitGroup
			for range c.taken + 1 {
				wg.Go(func() {
					if _, err := client.Call(w.within(time.Hour), "db@sdb", "M", make([]byte, c.size)); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
				synctest.Wait()
			}
			_, err := client.Call(w.within(time.Second), "db@sdb", "M", make([]byte, c.size))
			if !isFull(err, mesh.Rejected) || err.Error() != "overloaded: the queue of the service is full" {
				t.Errorf("%s: one more: %v", name, err)
			}
			if _, err := client.Call(w.within(time.Second), "db@other", "M", nil); err != nil {
				t.Errorf("%s: another service: %v", name, err)
			}
			close(g.let)
			wg.Wait()
			if n := len(g.started()); n != c.taken+1 {
				t.Errorf("%s: %d ran, want %d", name, n, c.taken+1)
			}
		})
	}
}

// M56, M40: a message is as large as both sides take, and no byte larger: that is
// known before it is sent, whichever side says it.
func TestMessageIsBounded(t *testing.T) {
	const most = 100000
	for name, here := range map[string]bool{"here": true, "there": false} {
		inWorld(t, func(w *world) {
			small, large := limited(mesh.Limits{MessageBytes: most}), limited(mesh.Limits{})
			if here {
				small, large = large, small
			}
			ran := 0
			m := w.process("server", small)
			w.open(m, "db:1")
			w.register(m, "sdb", func(_ context.Context, method string, payload []byte) ([]byte, error) {
				ran++
				if method == "MORE" {
					payload = append(payload, 0)
				}
				return payload, nil
			})
			client := w.process("client", large)
			w.reload(client, mesh.Table{"db": "db:1"})
			if got, err := client.Call(w.within(time.Second), "db@sdb", "M", make([]byte, most)); err != nil || len(got) != most {
				t.Errorf("%s: at the bound: %d bytes, %v", name, len(got), err)
			}
			for use, err := range map[string]error{
				"call": func() error {
					_, err := client.Call(w.within(time.Second), "db@sdb", "M", make([]byte, most+1))
					return err
				}(),
				"send": client.Send(w.within(time.Second), "db@sdb", "M", make([]byte, most+1)),
			} {
				if !errors.Is(err, mesh.ErrTooLarge) || mesh.VerdictOf(err) != mesh.NotSent || status.Code(err) != codes.ResourceExhausted {
					t.Errorf("%s: %s of one byte more: %v", name, use, err)
				}
			}
			_, err := client.Call(w.within(time.Second), "db@sdb", "MORE", make([]byte, most))
			if !errors.Is(err, mesh.ErrReplyTooLarge) || mesh.VerdictOf(err) != mesh.HandlerFailed || status.Code(err) != codes.OutOfRange {
				t.Errorf("%s: a reply of one byte more: %v", name, err)
			}
			if ran != 2 {
				t.Errorf("%s: %d ran, want 2", name, ran)
			}
		})
	}
}

// M56: headers, methods and texts have bounds that are the protocol's own.
func TestHeadersMethodsAndTextsAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		detail := func(n int) error {
			st, err := status.New(codes.DataLoss, "text").WithDetails(&errdetails.DebugInfo{Detail: strings.Repeat("d", n)})
			if err != nil {
				t.Error(err)
			}
			return st.Err()
		}
		w.serve("server", "db:1", "sdb", func(ctx context.Context, method string, _ []byte) ([]byte, error) {
			switch method {
			case "TEXT":
				return nil, status.Error(codes.DataLoss, strings.Repeat("é", 1000))
			case "DETAIL":
				return nil, detail(2000)
			case "DETAILS":
				return nil, detail(4000)
			case "HEADERS":
				return nil, grpc.SetHeader(ctx, metadata.Pairs("k", strings.Repeat("v", 8<<10)))
			}
			return nil, nil
		})
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		call := func(method string, header int) error {
			_, err := m.Call(w.within(time.Second), "db@sdb", method, nil, mesh.Headers(metadata.Pairs("k", strings.Repeat("v", header))))
			return err
		}
		if err := call(strings.Repeat("m", 1024), 8<<10-33); err != nil {
			t.Errorf("at the bounds: %v", err)
		}
		for what, err := range map[string]error{"method": call(strings.Repeat("m", 1025), 0), "headers": call("M", 8<<10-32)} {
			if !errors.Is(err, mesh.ErrInvalidRequest) || mesh.VerdictOf(err) != mesh.NotSent || !strings.Contains(err.Error(), what) {
				t.Errorf("%s beyond: %v", what, err)
			}
		}
		if err := call("TEXT", 0); status.Code(err) != codes.DataLoss || err.Error() != strings.Repeat("é", 512) {
			t.Errorf("text: %d bytes, %s", len(err.Error()), status.Code(err))
		}
		for method, want := range map[string]int{"DETAIL": 1, "DETAILS": 0} {
			if err := call(method, 0); status.Code(err) != codes.DataLoss || err.Error() != "text" || len(status.Convert(err).Details()) != want {
				t.Errorf("%s: %v with %d details, want %d", method, err, len(status.Convert(err).Details()), want)
			}
		}
		if err := call("HEADERS", 0); mesh.VerdictOf(err) != mesh.HandlerFailed || status.Code(err) != codes.Internal {
			t.Errorf("headers of a reply: %v", err)
		}
	})
}

// M56, M41: a large message that the node has no room for waits in the line; the
// node never sees more than it allows.
func TestLargeCallsWaitForThePeersRoom(t *testing.T) {
	inWorld(t, func(w *world) {
		const size = 5 * partSize
		most := 0
		m, _ := w.prey(func(e *rogueEnd, _ int) error {
			e.greet(func(h *meshv1.Hello) { h.MaxUnfinishedBytes = 2*size + partSize })
			open := make(map[uint64]int)
			for f := e.hear(); f != nil; f = e.hear() {
				n := f.GetSession()
				open[n] += len(f.GetRequest().GetPayload()) + len(f.GetPart().GetPayload())
				most = max(most, len(open))
				if open[n] == size {
					delete(open, n)
					e.say(rogueReply(n, nil))
				}
			}
			return nil
		})
		if err := errors.Join(w.largeCalls(m, 10, size)...); err != nil {
			t.Error(err)
		}
		if most != 2 {
			t.Errorf("%d messages were unfinished at once, want 2", most)
		}
		_, err := m.Call(w.within(time.Second), "db@sdb", "M", make([]byte, 2*size+partSize+1))
		if !errors.Is(err, mesh.ErrTooLarge) || mesh.VerdictOf(err) != mesh.NotSent {
			t.Errorf("one that never fits: %v", err)
		}
		w.unhurt(m)
	})
}
