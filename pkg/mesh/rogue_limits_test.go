package mesh_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M56: a peer that has more calls in flight than the hello allows is refused:
// overloaded. Pushes do not count; a large call is refused by its first frame.
func TestCallsBeyondTheHello(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogueOn(v.conn())
		r.say(rogueHello())
		if n := r.hear().GetHello().GetMaxCalls(); n != 2 {
			t.Errorf("the hello says %d calls", n)
		}
		r.beating()
		r.say(rogueCall(1, "@sdb", "UNTIL", nil), rogueCall(2, "@sdb", "UNTIL", nil))
		for _, f := range []*meshv1.Frame{rogueCall(3, "@sdb", "BEYOND", nil), rogueLarge(4, 1<<20, partSize), rogueCall(5, "", "Ping", nil, toHandle(0))} {
			r.say(f)
			got := r.fails(f.GetSession(), meshv1.Reason_REASON_OVERLOADED)
			if codes.Code(got.GetCode()) != codes.ResourceExhausted || !strings.HasPrefix(got.GetMessage(), "overloaded: ") {
				t.Errorf("refused with %v", got)
			}
		}
		r.say(roguePart(4, partSize), rogueCall(6, "@sdb", "PUSHED", nil, roguePush), rogueCancel(1))
		r.fails(1, meshv1.Reason_REASON_CANCELLED)
		r.answers(7)
		synctest.Wait()
		if s := v.server.Stats(); v.ran("BEYOND") != 0 || v.ran("PUSHED") != 1 || s.UnfinishedBytes != 0 || s.FramesStray != 1 {
			t.Errorf("%d beyond and %d pushes ran, %d bytes unfinished, %d strays", v.ran("BEYOND"), v.ran("PUSHED"), s.UnfinishedBytes, s.FramesStray)
		}
		r.say(rogueCancel(2))
		r.fails(2, meshv1.Reason_REASON_CANCELLED)
	}, func(o *mesh.Options) { o.Limits.CallsInFlight = 2 })
}

// M57, M37: a push that finds its service's queue three quarters full stops the
// reading of its link, for as long as it takes; whatever is behind it waits too.
// Other links, and calls into the last quarter, go on. When there is room the
// link is read again, in order.
func TestPushStopsTheReadingOfItsLink(t *testing.T) {
	for name, limits := range map[string]mesh.Limits{"messages": {QueueMessages: 4}, "bytes": {QueueBytes: 4000}} {
		inWorld(t, func(w *world) {
			g := newTurnstile()
			m := w.process("server", limited(limits))
			w.open(m, "db:1")
			w.register(m, "sdb", g.handle)
			w.register(m, "other", echo)
			r, honest := w.rogue("db:1"), w.process("honest")
			w.reload(honest, mesh.Table{"db": "db:1"})
			r.beating()
			push := func(n uint64, method string) *meshv1.Frame {
				return rogueCall(n, "@sdb", method, make([]byte, 700), roguePush) // counts 1,000 with its names, or less
			}
			// One runs, three wait, the fifth is in the reader's hand.
			for i, method := range []string{"1", "2", "3", "4", "5"} {
				r.say(push(uint64(i+1), method))
				synctest.Wait()
			}
			if name == "bytes" { // 957 each: 3,000 is not reached by three
				r.say(push(6, "6"))
			}
			r.say(rogueCall(9, "@other", "ECHO", nil), push(10, "10"))
			heard := make(chan *meshv1.Frame, 1)
			go func() { heard <- r.hear() }()
			time.Sleep(time.Minute)
			select {
			case f := <-heard:
				t.Fatalf("%s: %v was answered behind a push that has no room", name, f)
			default:
			}
			if !r.stopped.Load() {
				t.Errorf("%s: no heartbeat says that reading has stopped", name)
			}
			if _, err := honest.Call(w.within(time.Second), "db@other", "M", nil); err != nil {
				t.Errorf("%s: another link: %v", name, err)
			}
			wait := w.calls(honest, "db@sdb", 1)
			close(g.let)
			if err := wait()[0]; err != nil {
				t.Errorf("%s: a call into the last quarter: %v", name, err)
			}
			if f := <-heard; f.GetSession() != 9 || f.GetReply() == nil {
				t.Errorf("%s: behind it came %v", name, f)
			}
			r.say(rogueBeat())
			r.say(rogueCall(11, "@other", "ECHO", nil))
			r.hear()
			time.Sleep(5 * time.Second)
			r.say(rogueCall(12, "@other", "ECHO", nil))
			if r.hear(); r.stopped.Load() {
				t.Errorf("%s: the heartbeats still say that reading has stopped", name)
			}
			ran := slices.DeleteFunc(g.started(), func(m string) bool { return m == "GET" })
			want := []string{"1", "2", "3", "4", "5", "10"}
			if name == "bytes" {
				want = []string{"1", "2", "3", "4", "5", "6", "10"}
			}
			if !slices.Equal(ran, want) {
				t.Errorf("%s: ran %q, want %q", name, ran, want)
			}
			if s := m.Stats(); s.PushesUnplaced != 0 || s.PushesRefused != 0 {
				t.Errorf("%s: %d pushes unplaced, %d refused", name, s.PushesUnplaced, s.PushesRefused)
			}
		})
	}
}

// M57, M56: while a link is not read its peer can send what the HTTP/2 window
// holds, and no more; then its Send waits, and nothing is lost.
func TestWindowBoundsWhatIsNotRead(t *testing.T) {
	inWorld(t, func(w *world) {
		const pushes = 100
		g := newTurnstile()
		m := w.process("server", limited(mesh.Limits{QueueMessages: 1, WindowBytes: 128 << 10}))
		w.open(m, "db:1")
		w.register(m, "sdb", g.handle)
		r := w.rogue("db:1")
		done := make(chan error, 1)
		go func() {
			for n := range uint64(pushes) {
				if err := r.trySay(rogueCall(n+1, "@sdb", "M", make([]byte, partSize), roguePush)); err != nil {
					done <- err
					return
				}
			}
			done <- r.stream.CloseSend()
		}()
		time.Sleep(20 * time.Second)
		// Three pushes were read: one runs, one waits, one is in the reader's
		// hand.
		if up, _ := w.Bytes("db:1"); up < 3*partSize || up > 3*partSize+2*(128<<10) {
			t.Errorf("%d bytes were taken of a link that is not read", up)
		}
		close(g.let)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if st := r.ended(); st.Code() != codes.OK {
			t.Errorf("the link ended with %v", st)
		}
		synctest.Wait() // they were placed; now they run
		if n := len(g.started()); n != pushes {
			t.Errorf("%d pushes ran, want %d", n, pushes)
		}
	})
}

// hundreds is a service that answers with as many bytes as its payload is long,
// a thousand times.
func hundreds(_ context.Context, _ string, payload []byte) ([]byte, error) {
	return make([]byte, 1000*len(payload)), nil
}

// asks makes calls one after the other, each with its reply waiting before the
// next one comes, and reads nothing of what comes.
func (r *rogue) asks(n, thousands int) {
	r.Helper()
	for i := range n {
		r.say(rogueCall(uint64(i+1), "@sdb", "M", make([]byte, thousands)))
		synctest.Wait()
	}
}

// M56, M58: replies that wait for one link stop its reading at the bound; others
// are read; when the peer reads, every call has its reply.
func TestRepliesThatWaitForALinkStopItsReading(t *testing.T) {
	inWorld(t, func(w *world) {
		const calls, bound = 300, 1 << 20
		ran := 0
		m := w.process("server", limited(mesh.Limits{LinkReplyBytes: bound}))
		w.open(m, "db:1")
		w.register(m, "sdb", func(ctx context.Context, _ string, p []byte) ([]byte, error) { ran++; return hundreds(ctx, "", p) })
		other, r := w.rogue("db:1"), w.rogue("db:1")
		r.asks(calls, 20)
		// Beyond the bound there is the reply of a call that was read already, a
		// batch on its way, and what the windows hold.
		if n := m.Stats().ReplyBytes; n < bound || n > bound+2*20256 || ran*20256 > bound+600000 {
			t.Errorf("%d bytes of replies wait, of %d calls", n, ran)
		}
		other.say(rogueCall(1, "@sdb", "M", []byte("x")))
		if f := other.hear(); len(f.GetReply().GetPayload()) != 1000 {
			t.Errorf("another link: %v", f)
		}
		for n, got := range r.replies(calls) {
			if len(got) != 20000 {
				t.Errorf("reply %d has %d bytes", n, len(got))
			}
		}
		synctest.Wait()
		if n := m.Stats().ReplyBytes; n != 0 {
			t.Errorf("%d bytes are left", n)
		}
	})
}

// M56: at the bound of the whole process, links with more than 4 MiB of waiting
// replies are not read; one with less is, and those are again when there is
// room.
func TestRepliesThatWaitInTheProcess(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("server", limited(mesh.Limits{ReplyBytes: 6 << 20}))
		w.open(m, "db:1")
		w.register(m, "sdb", hundreds)
		a, b, c := w.rogue("db:1"), w.rogue("db:1"), w.rogue("db:1")
		const reply = 1000256
		// The first number above the bound is 7, or 5 above 4 MiB; one more call
		// may have been read before its reply waited.
		a.asks(10, 1000)
		one := m.Stats().ReplyBytes
		if one < 7*reply || one > 8*reply {
			t.Errorf("%d bytes of replies wait for the first link, want %d", one, 7*reply)
		}
		b.asks(10, 1000)
		if n := m.Stats().ReplyBytes - one; n < 5*reply || n > 6*reply {
			t.Errorf("%d bytes of replies wait for the second link, want %d", n, 5*reply)
		}
		c.say(rogueCall(1, "@sdb", "M", []byte("x")))
		if f := c.hear(); len(f.GetReply().GetPayload()) != 1000 {
			t.Errorf("a link with little: %v", f)
		}
		if got := a.replies(10); len(got) != 10 {
			t.Errorf("%d replies", len(got))
		}
		synctest.Wait()
		if n := m.Stats().ReplyBytes; n < 7*reply || n > 10*reply {
			t.Errorf("%d bytes wait for the second link: it was not read again", n)
		}
		if got := b.replies(10); len(got) != 10 {
			t.Errorf("%d replies", len(got))
		}
	})
}

// M56: messages are as long as the receiver's hello allows, and no longer, in
// both directions; a frame is never longer than that.
func TestBatchesKeepToTheHello(t *testing.T) {
	withVictim(t, func(v *victim) {
		for said, most := range map[uint32]int{0: 256 << 10, 1: 64 << 10, 64 << 10: 64 << 10, 1 << 30: 1 << 20} {
			r := v.rogue(func(h *meshv1.Hello) { h.MaxBatchBytes = said })
			var fs []*meshv1.Frame
			for n := range uint64(20) {
				fs = append(fs, rogueCall(n+1, "@sdb", "ECHO", make([]byte, 10000)))
			}
			fs = append(fs, rogueCall(21, "@sdb", "LARGE", nil), rogueCall(22, "@sdb", "LARGE", nil))
			r.say(fs...)
			synctest.Wait() // the first reply fills the window; the others make one batch
			if got := r.replies(22); len(got[22]) != 1<<20 || r.longest > most || r.longest < most/4 && most < 1<<20 {
				t.Errorf("hello says %d: the longest message has %d bytes, want at most %d", said, r.longest, most)
			}
		}
	})
	inWorld(t, func(w *world) {
		longest := 0
		m, _ := w.prey(func(e *rogueEnd, _ int) error {
			e.greet(func(h *meshv1.Hello) { h.MaxBatchBytes = 64 << 10 })
			defer func() { longest = e.longest }()
			time.Sleep(time.Second)
			for f := e.hear(); f != nil; f = e.hear() {
				if q := f.GetRequest(); q != nil {
					e.say(rogueReply(f.GetSession(), nil))
				}
			}
			return nil
		})
		if err := errors.Join(w.largeCalls(m, 50, 20000)...); err != nil {
			t.Error(err)
		}
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if longest > 64<<10 || longest < 40000 {
			t.Errorf("the longest message has %d bytes, want at most %d", longest, 64<<10)
		}
	})
}

// M56, M54: a listener takes so many links, and 64 connections more. One more is
// refused before its hello, and the others do not notice.
func TestLinksAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("server", limited(mesh.Limits{Links: 2}))
		w.open(m, "db:1")
		w.register(m, "sdb", echo)
		a, b := w.rogue("db:1"), w.rogue("db:1")
		c := w.rogueOn(w.rogueConn("db:1"))
		if st := c.ended(); st.Code() != codes.ResourceExhausted || !strings.HasPrefix(st.Message(), "too many links") {
			t.Errorf("the third link ended with %v", st)
		}
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1"})
		_, err := client.Call(w.within(time.Minute), "db@sdb", "M", nil)
		failsWith(t, "a dialler", err, mesh.NotSent, mesh.ErrConnect, "connect [db] (db:1): too many links: this listener takes at most 2")
		a.answers(1)
		b.answers(1)
		_ = a.cc.Close()
		synctest.Wait()
		if _, err := client.Call(w.within(time.Minute), "db@sdb", "M", nil); err != nil {
			t.Errorf("when one has left: %v", err)
		}
	})
	inWorld(t, func(w *world) {
		m := w.process("server", limited(mesh.Limits{Links: 1}))
		w.open(m, "db:1")
		w.register(m, "sdb", echo)
		r := w.rogue("db:1")
		for i := range 70 {
			conn, err := w.Dial(context.Background(), "db:1")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			synctest.Wait()
			if open := w.Conns("db:1"); open != min(i+2, 65) {
				t.Fatalf("%d connections are open after %d", open, i+2)
			}
			if i+2 > 65 {
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Fatalf("connection %d was taken: %v", i+2, err)
				}
			}
		}
		r.answers(1)
	})
}
