//go:build faults

package faults_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// F32: replies race with breaks, cancels and Close, 100,000 calls: one
// completion each, no panic.
func TestF32Races(t *testing.T) {
	n := newNode(t, "db").start()
	p := newProxy(t, n.addr)
	h := newHistory(t, n)
	stop := make(chan struct{})
	var breaking sync.WaitGroup
	breaks := 0
	breaking.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(5+rand.IntN(20)) * time.Millisecond):
				breaks += p.reset()
			}
		}
	})
	const calls, rounds = 1000, 100
	for round := range rounds {
		m, err := mesh.New(mesh.Options{Name: fmt.Sprintf("client-%d", round), DrainTime: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Reload(mesh.Table{"db": p.addr()}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range calls / 20 {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(3000))*time.Microsecond)
					_ = h.call(ctx, m, "db@echo", 0)
					cancel()
				}
			})
		}
		if round%2 == 0 {
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
			_ = m.Close(context.Background()) // under load
			wg.Wait()
			continue
		}
		wg.Wait()
		_ = m.Close(context.Background())
	}
	close(stop)
	breaking.Wait()
	if n := len(h.entries); n != calls*rounds {
		t.Errorf("%d calls", n)
	}
	if breaks == 0 {
		t.Error("nothing was broken")
	}
	t.Logf("%d breaks: %v", breaks, h.count())
	h.check()
}

// rawLink opens a link by hand and says hello.
func rawLink(t *testing.T, addr string) (meshv1.ClusterService_LinkClient, *grpc.ClientConn) {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	s, err := meshv1.NewClusterServiceClient(cc).Link(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	say(t, s, &meshv1.Frame{Body: &meshv1.Frame_Hello{Hello: &meshv1.Hello{Version: 1, Process: "rogue", Incarnation: 7, HeartbeatIntervalMs: 3_600_000}}})
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	return s, cc
}

func say(t *testing.T, s meshv1.ClusterService_LinkClient, fs ...*meshv1.Frame) bool {
	t.Helper()
	return s.Send(&meshv1.LinkRequest{Frames: fs}) == nil
}

func request(session uint64, name string, push bool, payload []byte, total uint64) *meshv1.Frame {
	return &meshv1.Frame{Session: session, Body: &meshv1.Frame_Request{Request: &meshv1.Request{
		Address: &meshv1.Request_Name{Name: name}, Method: "GO", Push: push, Payload: payload, TotalSize: total,
	}}}
}

// F41: a peer stops reading its replies: what waits for it stays within its
// bound, it is cut off as a slow consumer, and other peers go on.
func TestF41PeerDoesNotRead(t *testing.T) {
	n := newNode(t, "db")
	n.config.Limits.LinkReplyBytes = 8 << 20
	n.config.Log = true
	n.start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	l := h.begin(m, "db@echo", 8, 100, 20*time.Second)
	l.goesOn(200, 20*time.Second)
	before := n.rss()
	s, _ := rawLink(t, n.addr)
	payload := append([]byte("push-rogue "), make([]byte, 30<<10)...)
	sent := atomic.Int64{}
	var flood sync.WaitGroup
	flood.Go(func() {
		for i := uint64(1); say(t, s, request(i, "@echo", false, payload, 0)); i++ {
			sent.Store(int64(i))
		}
	})
	start := time.Now()
	until(t, "the peer is cut off", 60*time.Second, func() bool { return n.stats().LinksIn == 1 })
	flood.Wait()
	if took := time.Since(start); took < 20*time.Second {
		t.Errorf("it was cut off after %s, before the write bound", took)
	}
	grown := n.rss() - before
	t.Logf("%d requests of 30 KiB taken; memory grew by %d MiB", sent.Load(), grown>>20)
	if sent.Load() < 100 {
		t.Error("the flood never began")
	}
	if grown > 256<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	l.goesOn(200, 20*time.Second)
	l.stop()
	if c := h.count(); len(c) != 1 {
		t.Errorf("others noticed: %v", c)
	}
	h.check()
}

// F42: far more calls than the limits allow, to a handler that holds them: what
// is beyond stands in line, what is beyond the line fails overloaded, a peer
// that breaks its hello is rejected before a handler starts; memory is bounded.
func TestF42Overload(t *testing.T) {
	n := newNode(t, "db")
	n.config.Limits = mesh.Limits{CallsInFlight: 1000}
	n.start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr}, func(o *mesh.Options) { o.Limits.LineCalls = 2000 })
	before := n.rss()
	const calls = 20_000
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() { _ = h.call(ctx, m, "db@hold", 0) })
	}
	until(t, "all but the line and those in flight have failed", 60*time.Second, func() bool { return h.count()["not sent"] == calls-3000 })
	s, _ := rawLink(t, n.addr)
	rejected := 0
	for i := uint64(1); i <= 2000; i++ {
		say(t, s, request(i, "@hold", false, []byte("push-rogue "), 0))
	}
	for rejected < 1000 {
		r, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.GetFrames() {
			if f.GetFailure().GetReason() == meshv1.Reason_REASON_OVERLOADED {
				rejected++
			}
		}
	}
	if running := n.stats().Running; running > 2000 {
		t.Errorf("%d handlers run", running)
	}
	if grown := n.rss() - before; grown > 128<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	_ = s.CloseSend()
	cancel()
	wg.Wait()
	for _, e := range h.entries {
		if mesh.VerdictOf(e.err) == mesh.NotSent && !errors.Is(e.err, mesh.ErrOverloaded) && !errors.Is(e.err, context.Canceled) {
			t.Fatal(e.err)
		}
	}
	if err := h.call(context.Background(), m, "db@echo", 0); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	t.Log(h.count())
	h.check()
}

// F43: a client opens and resets streams as fast as it can: goroutines stay
// bounded, and an honest peer keeps its calls.
func TestF43RapidReset(t *testing.T) {
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	l := h.begin(m, "db@echo", 8, 100, 10*time.Second)
	l.goesOn(200, 20*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var resets atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		cc, err := grpc.NewClient("passthrough:///"+n.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cc.Close() })
		wg.Go(func() {
			for ctx.Err() == nil {
				one, reset := context.WithCancel(ctx)
				if _, err := meshv1.NewClusterServiceClient(cc).Link(one); err == nil {
					resets.Add(1)
				}
				reset()
			}
		})
	}
	wg.Wait()
	during := l.made.Load()
	l.stop()
	threads := n.threads()
	t.Logf("%d streams opened and reset in 5 s; %d calls beside them, %d threads", resets.Load(), during, threads)
	if c := h.count(); resets.Load() < 5000 || float64(c["ok"]) < 0.99*float64(l.made.Load()) {
		t.Errorf("%d resets, %v", resets.Load(), c)
	}
	until(t, "its links are forgotten", 10*time.Second, func() bool { return n.stats().LinksIn <= 1 })
	h.check()
}

// threads are those of the process.
func (n *node) threads() int {
	all, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", n.cmd.Process.Pid))
	return len(all)
}

// F44: a storm of pushes to names that nobody has: each is counted, none is
// answered, the log stays short.
func TestF44PushStorm(t *testing.T) {
	n := newNode(t, "db")
	n.config.Log = true
	n.start()
	m := client(t, "client", mesh.Table{"db": n.addr})
	const pushes = 100_000
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range pushes {
		if err := m.Send(ctx, "db@nobody"+fmt.Sprint(i%1000), "GO", nil); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all are counted", 20*time.Second, func() bool { return n.stats().PushesUnknown == pushes })
	if s := m.Stats(); s.FramesStray != 0 || len(n.err.String()) > 64<<10 {
		t.Errorf("%d frames came back, the log has %d bytes", s.FramesStray, len(n.err.String()))
	}
}

// F34: a peer announces 4 GiB, and leaves 10,000 messages unfinished: what is
// held stays within its bound, and others go on.
func TestF33F34Hostile(t *testing.T) {
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	l := h.begin(m, "db@echo", 8, 100, 20*time.Second)
	l.goesOn(100, 20*time.Second)
	before := n.rss()
	s, _ := rawLink(t, n.addr)
	answered := make(chan int, 1)
	go func() {
		failures := 0
		for failures < 10_001-1024 {
			r, err := s.Recv()
			if err != nil {
				break
			}
			for _, f := range r.GetFrames() {
				if f.GetFailure() != nil {
					failures++
				}
			}
		}
		answered <- failures
	}()
	say(t, s, request(1, "@echo", false, make([]byte, 32<<10), 4<<30))
	for i := uint64(2); i <= 10_001; i++ {
		if !say(t, s, request(i, "@echo", false, make([]byte, 32<<10), 64<<10)) {
			t.Fatal("the link ended")
		}
	}
	if f := <-answered; f != 10_001-1024 {
		t.Errorf("%d were refused", f)
	}
	limits := mesh.Limits{}
	grown := n.rss() - before
	if grown > 2*limits.PerPeer() {
		t.Errorf("memory grew by %d MiB, the limits sum up to %d MiB", grown>>20, limits.PerPeer()>>20)
	}
	t.Logf("memory grew by %d MiB; the limits for one peer sum up to %d MiB", grown>>20, limits.PerPeer()>>20)
	l.goesOn(100, 20*time.Second)
	l.stop()
	h.check()
}

// A message that is longer than the batch bound ends its link, and holds nothing.
func TestF33LongBatch(t *testing.T) {
	n := newNode(t, "db").start()
	before := n.rss()
	s, _ := rawLink(t, n.addr)
	say(t, s, request(1, "@echo", false, make([]byte, 32<<20), 0))
	for {
		if _, err := s.Recv(); err != nil {
			if errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "ResourceExhausted") {
				t.Error(err)
			}
			break
		}
	}
	if grown := n.rss() - before; grown > 32<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
}
