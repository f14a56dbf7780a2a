package mesh_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M21, M37: a caller that writes its own call does not wait in Send for a peer
// that has stopped reading, past its context: here large pushes fill the window
// although a small call behind their beginning was answered.
func TestCallReturnsInTimeBesideAFullWindow(t *testing.T) {
	inWorld(t, func(w *world) {
		release := make(chan struct{})
		s := w.process("server", func(o *mesh.Options) { o.Limits.QueueMessages = 4 })
		w.open(s, "db:1")
		w.register(s, "slow", func(context.Context, string, []byte) ([]byte, error) { <-release; return nil, nil })
		w.register(s, "sink", echo)
		w.register(s, "other", echo)
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		send := func(target string, size int) {
			if err := m.Send(w.within(time.Second), target, "x", make([]byte, size)); err != nil {
				t.Fatal(err)
			}
		}
		for range 4 {
			send("db@slow", 0)
		}
		synctest.Wait()
		send("db@slow", 6<<20)
		send("db@sink", 6<<20+576<<10)
		_, _ = m.Call(w.within(time.Second), "db@other", "x", []byte("behind their beginning"))
		synctest.Wait()
		time.AfterFunc(10*time.Minute, func() { close(release) })
		start := time.Now()
		_, _ = m.Call(w.within(time.Second), "db@other", "x", []byte("x"))
		if took := time.Since(start); took > time.Second {
			t.Errorf("a call with a deadline of 1s returned after %s", took)
		}
		<-release
	})
}

// M37: nor for one that answers what it has not read.
func TestCallReturnsInTimeBesideALyingPeer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.listenPuppet("db:1", func(p *puppet) {
			for range 3000 { // five minutes
				fs := []*meshv1.Frame{{Body: &meshv1.Frame_Heartbeat{Heartbeat: &meshv1.Heartbeat{ReadingStopped: true}}}}
				for i := range uint64(59) {
					fs = append(fs, replyFrame(i+1, "x"))
				}
				p.say(fs...)
				time.Sleep(100 * time.Millisecond)
			}
		})
		m := w.process("client")
		w.reload(m, mesh.Table{"db": "db:1"})
		for i := range 40 {
			start := time.Now()
			_, _ = m.Call(w.within(time.Second), "db@sdb", "x", make([]byte, 32<<10))
			if took := time.Since(start); took > time.Second {
				t.Fatalf("call %d with a deadline of 1s returned after %s", i, took)
			}
		}
		time.Sleep(10 * time.Minute)
	})
}

// M58: an answer that is sent by its handler's goroutine never keeps it: here a
// caller makes one call at a time and reads nothing, until all windows are full.
func TestHandlerIsDoneBesideACallerWhoDoesNotRead(t *testing.T) {
	withVictim(t, func(v *victim) {
		r := v.rogue()
		serial := make(chan struct{}, 1000)
		v.register(v.server, "one", func(_ context.Context, _ string, payload []byte) ([]byte, error) {
			serial <- struct{}{}
			return payload, nil
		})
		for i := range uint64(100) { // of 32 KiB each: fifty times a stream's window
			r.say(rogueCall(i+1, "@one", "x", make([]byte, 32<<10)), rogueBeat())
			synctest.Wait()
			if len(serial) != int(i+1) {
				t.Fatalf("%d handlers ran after %d calls, of which each waits for the one before", len(serial), i+1)
			}
		}
		if n := v.server.Stats().ReplyBytes; n < 1<<20 {
			t.Errorf("%d bytes of replies wait: the test did not fill the windows", n)
		}
		v.undisturbed()
		r.cancel()
	})
}
