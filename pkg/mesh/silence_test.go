package mesh_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

func interval(d time.Duration) func(*mesh.Options) {
	return func(o *mesh.Options) { o.HeartbeatInterval = d }
}

// M32, M34, M37, F3, F11, F12, F18: a silent peer is found by both ends in 6 to
// 8 s, whichever direction is cut; calls in flight fail at once, each once, and
// after the cut the next call goes over a new link.
func TestSilentPeerIsFound(t *testing.T) {
	for name, cut := range map[string]struct{ up, down bool }{
		"both": {true, true}, "to the listener": {true, false}, "from the listener": {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				g := newDoor("a ")
				server := w.serve("server", "db:1", "sdb", g.handle)
				m := w.process("client")
				w.reload(m, mesh.Table{"db": "db:1"})
				time.Sleep(time.Minute)
				var calls []*asked
				for i := range 10 {
					calls = append(calls, w.ask(context.Background(), m, "db@sdb", fmt.Sprint(i), nil))
				}
				w.Freeze("db:1", cut.up, cut.down)
				time.Sleep(6*time.Second - 1)
				w.rests(calls...)
				w.counts("handlers cut too early", g.wasCut(), 0)
				time.Sleep(2*time.Second + 1)
				synctest.Wait()
				for i, a := range calls {
					if !a.over() {
						t.Fatalf("call %d waits on", i)
					}
					w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken)
				}
				w.counts("handlers whose contexts ended", g.wasCut(), 10)
				w.counts("links of the listener", server.Stats().LinksIn, 0)
				w.counts("links lost", int(m.Stats().LinksLost), 1)
				w.Freeze("db:1", false, false)
				close(g.open)
				w.succeeds(w.ask(context.Background(), m, "db@sdb", "next", nil), "a next")
			})
		})
	}
}

// M37: a peer whose interval is longer than the silence is not taken for dead.
func TestSilenceFollowsThePeersInterval(t *testing.T) {
	inWorld(t, func(w *world) {
		server := w.process("server", interval(10*time.Second))
		w.open(server, "db:1")
		g := newDoor("")
		w.register(server, "sdb", g.handle)
		m := w.process("client", interval(time.Second))
		w.reload(m, mesh.Table{"db": "db:1"})
		a := w.ask(context.Background(), m, "db@sdb", "a", nil)
		time.Sleep(10*time.Minute + time.Second)
		w.rests(a)
		w.Freeze("db:1", false, true)
		w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken) // by gRPC's keepalive at the latest
		if d := a.took - 10*time.Minute; d > 31*time.Second {
			t.Errorf("found after %v", d)
		}
	})
}

// M37, F4: what is shorter than the silence is latency, no break.
func TestShortStallIsNoBreak(t *testing.T) {
	inWorld(t, func(w *world) {
		w.serve("server", "db:1", "sdb", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		for range 20 {
			w.succeeds(w.ask(context.Background(), m, "db@sdb", "GET", []byte("x")), "x")
			w.Freeze("db:1", true, true)
			a := w.ask(context.Background(), m, "db@sdb", "GET", []byte("y"))
			time.Sleep(3900 * time.Millisecond)
			w.rests(a)
			w.Freeze("db:1", false, false)
			w.succeeds(a, "y")
		}
		w.counts("links lost", int(m.Stats().LinksLost), 0)
		w.counts("dials", w.Dials("db:1"), 1)
	})
}

// M37: heartbeats keep a link on which nothing else happens, while it idles and
// while a call takes hours.
func TestHeartbeatsKeepALinkForHours(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("")
		server := w.serve("server", "db:1", "sdb", g.handle)
		m := w.process("client", func(o *mesh.Options) { o.IdleTime = -1 })
		w.reload(m, mesh.Table{"db": "db:1"})
		if err := m.WaitReady(context.Background(), "db"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		a := w.ask(context.Background(), m, "db@sdb", "a", nil)
		time.Sleep(2 * time.Hour)
		w.rests(a)
		w.counts("dials", w.Dials("db:1"), 1)
		w.counts("links lost", int(m.Stats().LinksLost), 0)
		if up, down := w.Bytes("db:1"); up < 5000*10 || down < 5000*10 {
			t.Errorf("%d bytes up and %d down in 5,400 intervals", up, down)
		}
		close(g.open)
		w.succeeds(a, "a")
		w.counts("links of the listener", server.Stats().LinksIn, 1)
	})
}

// M29, M37, M57: a listener that has stopped reading because a queue is full is
// not mistaken for dead, for minutes; then all goes on, in order.
func TestPeerThatStoppedReadingIsNotCut(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("")
		server := w.process("server", func(o *mesh.Options) { o.Limits.QueueMessages = 4 })
		w.open(server, "db:1")
		w.register(server, "sdb", func(_ context.Context, method string, payload []byte) ([]byte, error) {
			return g.handle(context.Background(), method, payload)
		}, mesh.Concurrent(1))
		w.register(server, "other", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		w.succeeds(w.ask(context.Background(), m, "db@other", "GET", nil), "")
		sent := 0
		var err error
		for ; err == nil && sent < 1000; sent++ {
			err = m.Send(context.Background(), "db@sdb", fmt.Sprint(sent), make([]byte, 30_000))
		}
		sent--
		w.isError(err, mesh.NotSent, mesh.ErrOverloaded)
		a := w.ask(context.Background(), m, "db@other", "GET", []byte("behind"))
		for range 100 {
			time.Sleep(10 * time.Second)
			w.rests(a)
		}
		w.counts("links lost", int(m.Stats().LinksLost), 0)
		w.counts("links of the listener", server.Stats().LinksIn, 1)
		w.counts("pushes that started", len(g.list()), 1)
		close(g.open)
		w.succeeds(a, "behind")
		synctest.Wait()
		got := g.list()
		w.counts("pushes that ran", len(got), sent)
		for i, method := range got {
			if method != fmt.Sprint(i) {
				t.Fatalf("push %d is %s", i, method)
			}
		}
		w.counts("dials", w.Dials("db:1"), 1)
	})
}

// deaf is a listener that is no mesh: it says hello and heartbeats, never reads
// after that, and says what it is told of its reading.
func deaf(stopped *atomic.Bool) fakeLink {
	return func(s grpc.BidiStreamingServer[meshv1.LinkRequest, meshv1.LinkResponse]) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		if err := s.Send(hello()); err != nil {
			return err
		}
		for {
			select {
			case <-s.Context().Done():
				return io.EOF
			case <-time.After(2 * time.Second):
			}
			if err := s.Send(heartbeat(stopped.Load())); err != nil {
				return err
			}
		}
	}
}

// M34, M37: a peer that does not read and does not say so is cut when a Send
// has not returned for 30 s; one that says so is not. When it reads again, a
// Send that waits has its time anew.
func TestSlowConsumerIsCut(t *testing.T) {
	inWorld(t, func(w *world) {
		var stopped atomic.Bool
		w.fake("db:1", deaf(&stopped))
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		stopped.Store(true)
		var err error
		for err == nil {
			err = m.Send(context.Background(), "db@sdb", "SET", make([]byte, 30_000))
		}
		w.isError(err, mesh.NotSent, mesh.ErrOverloaded)
		time.Sleep(5 * time.Minute)
		if s := m.Node("db").State; s != mesh.Up {
			t.Errorf("the node that said that it does not read is %v", s)
		}
		stopped.Store(false)
		time.Sleep(29 * time.Second)
		if s := m.Node("db").State; s != mesh.Up {
			t.Errorf("the node that says since 29 s that it reads is %v", s)
		}
		time.Sleep(8 * time.Second)
		w.counts("links lost", int(m.Stats().LinksLost), 1)
	})
}

// M37: the reason of a cut is in the node's state.
func TestSlowConsumerIsTheReason(t *testing.T) {
	inWorld(t, func(w *world) {
		var stopped atomic.Bool
		w.fake("db:1", deaf(&stopped))
		m := w.process("client", func(o *mesh.Options) { o.SendWait = -1 })
		w.reload(m, mesh.Table{"db": "db:1"})
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var reasons []string
		go func() {
			for i := range m.Watch(ctx) {
				if i.State == mesh.Lost {
					reasons = append(reasons, i.Reason)
				}
			}
		}()
		start := time.Now()
		a := w.ask(context.Background(), m, "db@sdb", "GET", make([]byte, 8<<20))
		w.Hang("db:1", true) // no new link hides the loss
		w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		if d := time.Since(start); d < 30*time.Second || d > 32*time.Second {
			t.Errorf("cut after %v", d)
		}
		synctest.Wait()
		if len(reasons) != 1 || !strings.HasPrefix(reasons[0], "slow consumer") {
			t.Errorf("reasons %q", reasons)
		}
	})
}

// M12, M34, F1, F2: when a link breaks, what is in flight fails at once; what
// stands in the line goes over the next link, calls and pushes, in order.
func TestBreakFailsWhatIsInFlightAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("")
		server := w.process("server", callsInFlight(3))
		w.open(server, "db:1")
		w.register(server, "sdb", g.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		time.Sleep(time.Minute)
		var flight, line []*asked
		for i := range 3 {
			flight = append(flight, w.ask(context.Background(), m, "db@sdb", fmt.Sprint("flight ", i), nil))
		}
		for i := range 3 {
			line = append(line, w.ask(context.Background(), m, "db@sdb", fmt.Sprint("line ", i), nil))
		}
		w.sends(m, "db@sdb", "push", nil)
		time.Sleep(10 * time.Second) // else the break counts as a failed dial
		w.Cut("db:1")
		for _, a := range flight {
			w.fails(a, mesh.MaybeExecuted, mesh.ErrLinkBroken)
			if a.took != 10*time.Second {
				t.Errorf("failed after %v", a.took)
			}
		}
		close(g.open)
		for i, a := range line {
			w.succeeds(a, fmt.Sprint("line ", i))
		}
		w.ranExactly(&g.diary, "flight 0", "flight 1", "flight 2", "line 0", "line 1", "line 2", "push")
		w.counts("dials", w.Dials("db:1"), 2)
	})
}

// M15, M34: where the dial after a break fails too, the calls of the line were
// not sent, and its pushes are counted.
func TestBreakWithoutAWayBackFailsTheLine(t *testing.T) {
	inWorld(t, func(w *world) {
		g := newDoor("")
		server := w.process("server", callsInFlight(1))
		w.open(server, "db:1")
		w.register(server, "sdb", g.handle)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		flight := w.ask(context.Background(), m, "db@sdb", "flight", nil)
		line := w.ask(context.Background(), m, "db@sdb", "line", nil)
		w.sends(m, "db@sdb", "push", nil)
		w.sends(m, "db@sdb", "push", nil)
		time.Sleep(10 * time.Second)
		w.Hang("db:1", true)
		w.Cut("db:1")
		w.fails(flight, mesh.MaybeExecuted, mesh.ErrLinkBroken)
		w.rests(line)
		w.fails(line, mesh.NotSent, mesh.ErrConnect)
		w.counts("pushes lost", int(m.Stats().PushesLostConnect), 2)
		synctest.Wait()
		w.ranExactly(&g.diary, "flight")
	})
}
