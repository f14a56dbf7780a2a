package mesh_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// When the stream breaks, what the program had is maybe executed, what waits for
// it is rejected, and its names go.
func TestProgramThatIsLost(t *testing.T) {
	served(t, func(w *world, node, caller *mesh.Mesh) {
		p := w.program(window(1))
		h := p.registers("@model", false)
		had, waits := w.calling(caller, "db@model", "HAD", nil), w.calling(caller, "db@model", "WAITS", nil)
		p.asked("HAD")
		p.cancel()
		r := <-had
		wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken, target: "db@model", method: "HAD"}.check(t, r.err)
		r = <-waits
		wantError{verdict: mesh.Rejected, is: mesh.ErrDraining, text: "@model"}.check(t, r.err)
		synctest.Wait()
		_, err := caller.Call(w.within(time.Minute), "db@model", "GET", nil)
		wantError{verdict: mesh.Rejected, is: mesh.ErrNameNotFound}.check(t, err)
		_, err = caller.Call(w.within(time.Minute), "db"+h.String(), "GET", nil)
		wantError{verdict: mesh.Rejected, is: mesh.ErrStaleHandle}.check(t, err)
		if s := node.Stats(); s.Programs != 0 || s.Running != 0 {
			t.Errorf("%d programs, %d running", s.Programs, s.Running)
		}
		// It comes again: the name is a new service.
		if q := w.program(nil); q.registers("@model", false) == h {
			t.Error("the handle was used again")
		}
	})
}

// Where another program shares the name, what waits goes to that one.
func TestSharedNameOutlivesAProgram(t *testing.T) {
	served(t, func(w *world, _, caller *mesh.Mesh) {
		a := w.program(window(1))
		h := a.registers("@model", true)
		had, waits := w.calling(caller, "db@model", "1", nil), w.calling(caller, "db@model", "2", nil)
		a.asked("1")
		b := w.program(window(1))
		if b.registers("@model", true) != h {
			t.Error("another handle")
		}
		s2, _ := b.asked("2")
		third := w.calling(caller, "db@model", "3", nil)
		a.cancel()
		r := <-had
		wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken}.check(t, r.err)
		b.say(rogueReply(s2, []byte("b")))
		w.gets(waits, "b")
		s3, _ := b.asked("3")
		b.say(rogueReply(s3, []byte("b")))
		w.gets(third, "b")
	})
}

// M35: a goaway means no more requests. What was not taken goes to another
// program of the name, in order; what was taken is answered, and then the stream
// ends with OK.
func TestGoawayOfAProgram(t *testing.T) {
	served(t, func(w *world, node, caller *mesh.Mesh) {
		a, b := w.program(window(3)), w.program(window(3))
		a.registers("@model", true)
		var done []<-chan result
		for _, m := range []string{"1", "2", "3", "4"} {
			done = append(done, w.calling(caller, "db@model", m, nil))
		}
		for _, m := range []string{"1", "2", "3"} {
			a.asked(m)
		}
		a.say(rogueGoaway(1))
		// Nobody else is there: what was not taken, and what waits, is refused.
		for _, d := range done[1:] {
			r := <-d
			wantError{verdict: mesh.Rejected, is: mesh.ErrDraining}.check(t, r.err)
		}
		_, err := caller.Call(w.within(time.Minute), "db@model", "GET", nil)
		wantError{verdict: mesh.Rejected, is: mesh.ErrDraining}.check(t, err)
		// The name can be taken over before the stream ends, with its handle.
		a.session++
		a.say(registerFrame(a.session, "@late", false))
		a.refused(a.session, meshv1.Reason_REASON_DRAINING, codes.Unavailable)
		b.registers("@model", true)
		done = append(done, w.calling(caller, "db@model", "5", nil))
		s5, _ := b.asked("5")
		a.rests()
		a.say(rogueReply(1, []byte("a")))
		w.gets(done[0], "a")
		if st := a.ended(); st.Code() != codes.OK {
			t.Errorf("the stream ended with %v", st)
		}
		b.say(rogueReply(s5, []byte("b")))
		w.gets(done[4], "b")
		// With another one there, no call fails.
		c := w.program(nil)
		c.registers("@model", true)
		for i := range 4 {
			done[i] = w.calling(caller, "db@model", []string{"1", "2", "3", "4"}[i], nil)
		}
		b.asked("1")
		c.asked("2")
		b.asked("3")
		c.asked("4")
		b.say(rogueGoaway(s5))
		s, _ := c.asked("1")
		c.say(rogueReply(s, []byte("c")))
		w.gets(done[0], "c")
		s, _ = c.asked("3")
		c.say(rogueReply(s, []byte("c")))
		w.gets(done[2], "c")
		if st := b.ended(); st.Code() != codes.OK {
			t.Errorf("the stream ended with %v", st)
		}
		if n := node.Stats().Programs; n != 1 {
			t.Errorf("%d programs", n)
		}
	})
}

// A half-close is an orderly end: OK. What was not answered is maybe executed.
func TestProgramThatHalfCloses(t *testing.T) {
	served(t, func(w *world, _, caller *mesh.Mesh) {
		p := w.program(nil, "@model")
		answered, open := w.calling(caller, "db@model", "1", nil), w.calling(caller, "db@model", "2", nil)
		s, _ := p.asked("1")
		p.asked("2")
		p.say(rogueReply(s, []byte("x")))
		if err := p.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		w.gets(answered, "x")
		r := <-open
		wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken}.check(t, r.err)
		if st := p.ended(); st.Code() != codes.OK {
			t.Errorf("the stream ended with %v", st)
		}
		synctest.Wait()
		_, err := caller.Call(w.within(time.Minute), "db@model", "GET", nil)
		wantError{verdict: mesh.Rejected, is: mesh.ErrNameNotFound}.check(t, err)
	})
}

// M55: a process that closes lets its callers have their answers from programs
// first; then the streams of the programs end: UNAVAILABLE, come again.
func TestProgramsOfAClosingProcess(t *testing.T) {
	served(t, func(w *world, node, caller *mesh.Mesh) {
		p := w.program(window(1), "@model")
		first, second := w.calling(caller, "db@model", "1", nil), w.calling(caller, "db@model", "2", nil)
		s, _ := p.asked("1")
		closed := make(chan error, 1)
		go func() { closed <- node.Close(context.Background()) }()
		time.Sleep(time.Second)
		p.say(rogueReply(s, []byte("one")))
		w.gets(first, "one")
		s, _ = p.asked("2") // it was taken before the goaway
		time.Sleep(time.Second)
		p.say(rogueReply(s, []byte("two")))
		w.gets(second, "two")
		if st := p.ended(); st.Code() != codes.Unavailable || st.Message() != "the node is leaving" {
			t.Errorf("the stream ended with %v", st)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// M55: a program that does not answer is cut when the drain time is over.
func TestProgramThatHoldsUpAClose(t *testing.T) {
	served(t, func(w *world, node, caller *mesh.Mesh) {
		p := w.program(window(1), "@model")
		first, second := w.calling(caller, "db@model", "1", nil), w.calling(caller, "db@model", "2", nil)
		p.asked("1")
		began := time.Now()
		if err := node.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 10*time.Second || took > 12*time.Second {
			t.Errorf("it took %s", took)
		}
		if st := p.ended(); st.Code() != codes.Unavailable {
			t.Errorf("the stream ended with %v", st)
		}
		r := <-first
		wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken}.check(t, r.err)
		if r = <-second; mesh.VerdictOf(r.err) != mesh.Rejected && mesh.VerdictOf(r.err) != mesh.NotSent {
			t.Errorf("the one that waited: %v (%s)", r.err, mesh.VerdictOf(r.err))
		}
	})
}
