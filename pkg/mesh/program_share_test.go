package mesh_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

func window(n uint32) func(*meshv1.Hello) { return func(h *meshv1.Hello) { h.MaxCalls = n } }

// succeeds waits for the reply of a call that was made with calling.
func (w *world) gets(done <-chan result, want string) {
	w.Helper()
	if r := <-done; r.err != nil || string(r.reply) != want {
		w.Errorf("got %q, %v, want %q", r.reply, r.err, want)
	}
}

// Several programs serve one name if all said so; each message goes to the one
// with the fewest in flight, and what waits goes to whoever has room first.
func TestSharedNameIsSpread(t *testing.T) {
	served(t, func(w *world, _, caller *mesh.Mesh) {
		a, b := w.program(window(2)), w.program(window(2))
		h := a.registers("@model", true)
		if b.registers("@model", true) != h {
			t.Error("two handles of one name")
		}
		var done []<-chan result
		for i := range 6 {
			done = append(done, w.calling(caller, "db@model", fmt.Sprint(i), nil))
		}
		s0, _ := a.asked("0")
		b.asked("1")
		a.asked("2")
		s3, _ := b.asked("3")
		a.rests() // both windows are used up
		b.rests()
		b.say(rogueReply(s3, []byte("b")))
		w.gets(done[3], "b")
		s4, _ := b.asked("4")
		b.say(rogueReply(s4, []byte("b")))
		w.gets(done[4], "b")
		b.asked("5")
		a.rests()
		a.say(rogueReply(s0, []byte("a")))
		w.gets(done[0], "a")
	})
}

// M43: a name is taken for whoever does not share it, for the same program too,
// and for the process's own services.
func TestNameIsTakenUnlessAllShareIt(t *testing.T) {
	served(t, func(w *world, node, _ *mesh.Mesh) {
		w.register(node, "own", echo)
		a, b := w.program(nil), w.program(nil)
		a.registers("@alone", false)
		a.registers("@shared", true)
		taken := func(p *program, name string, shared bool) {
			t.Helper()
			p.session++
			p.say(registerFrame(p.session, name, shared))
			f := p.refused(p.session, meshv1.Reason_REASON_NAME_TAKEN, codes.AlreadyExists)
			if f.GetMessage() != fmt.Sprintf("name taken: %q", name) {
				t.Error(f.GetMessage())
			}
		}
		taken(b, "@alone", false)
		taken(b, "@alone", true)
		taken(b, "@shared", false)
		taken(a, "@alone", false)
		taken(a, "@shared", true)
		taken(a, "@own", true)
		b.registers("@shared", true)
		if err := node.Register("@alone", node.NewService(echo)); err == nil {
			t.Error("the process took the name of a program")
		}
		// A name is free when its program has ended, or taken it back.
		a.session++
		a.say(unregisterFrame(a.session, "alone"))
		a.registered()
		b.registers("@alone", false)
		a.registers("@free", false)
		a.cancel()
		synctest.Wait()
		b.registers("@free", false)
		taken(b, "@shared", true)
	})
}

// M44: what came before an unregister is answered, what comes after is not
// found; an unknown name is no error.
func TestUnregisterAnswersWhatCameBefore(t *testing.T) {
	served(t, func(w *world, _, caller *mesh.Mesh) {
		p, other := w.program(window(1)), w.program(nil)
		h := p.registers("@model", false)
		first, second := w.calling(caller, "db@model", "1", nil), w.calling(caller, "db@model", "2", nil)
		s1, _ := p.asked("1")
		p.session++
		p.say(unregisterFrame(p.session, "@model"))
		if p.registered() != h {
			t.Error("another handle")
		}
		other.registers("@model", false)
		third := w.calling(caller, "db@model", "3", nil)
		s3, _ := other.asked("3")
		_, err := caller.Call(w.within(time.Minute), "db"+h.String(), "GET", nil)
		wantError{verdict: mesh.Rejected, is: mesh.ErrStaleHandle}.check(t, err)
		p.say(rogueReply(s1, []byte("one")))
		w.gets(first, "one")
		s2, _ := p.asked("2")
		p.say(rogueReply(s2, []byte("two")))
		w.gets(second, "two")
		other.say(rogueReply(s3, []byte("three")))
		w.gets(third, "three")
		for _, name := range []string{"@model", "@never"} {
			p.session++
			p.say(unregisterFrame(p.session, name))
			if p.registered() != 0 {
				t.Errorf("%s has a handle", name)
			}
		}
		_, err = caller.Call(w.within(time.Minute), "db"+h.String(), "GET", nil)
		wantError{verdict: mesh.Rejected, is: mesh.ErrStaleHandle}.check(t, err)
	})
}

// M57, M56: beyond the window calls wait in the queue of the name, and are
// refused where that is full; pushes do not count in the window.
func TestWindowOfAProgram(t *testing.T) {
	served(t, func(w *world, node, caller *mesh.Mesh) {
		p := w.program(window(1), "@model")
		var done []<-chan result
		for i := range 4 { // one is there, two wait, one is too much
			done = append(done, w.calling(caller, "db@model", fmt.Sprint(i), nil))
		}
		r := <-done[3]
		wantError{verdict: mesh.Rejected, is: mesh.ErrOverloaded, target: "db@model"}.check(t, r.err)
		for i := range 3 {
			s, _ := p.asked(fmt.Sprint(i))
			p.rests()
			p.say(rogueReply(s, nil))
			w.gets(done[i], "")
		}
		hold := w.calling(caller, "db@model", "HOLD", nil)
		s, _ := p.asked("HOLD")
		for i := range 100 {
			if err := caller.Send(w.within(time.Second), "db@model", "PUSH", nil); err != nil {
				t.Fatal(i, err)
			}
			if _, q := p.asked("PUSH"); !q.GetPush() {
				t.Fatal(q)
			}
		}
		p.say(rogueReply(s, nil))
		w.gets(hold, "")
		if s := node.Stats(); s.Running != 0 || s.PushesRefused != 0 {
			t.Errorf("%+v", s)
		}
	}, func(o *mesh.Options) { o.Limits.QueueMessages = 2 })
}

// A program has at most so many bytes of calls that it has not answered.
func TestBytesOfAProgramAreBounded(t *testing.T) {
	served(t, func(w *world, _, caller *mesh.Mesh) {
		p := w.program(nil, "@model")
		payload := make([]byte, 1000)
		var done []<-chan result
		for i := range 4 {
			done = append(done, w.calling(caller, "db@model", fmt.Sprint(i), payload))
		}
		s0, _ := p.asked("0")
		s1, _ := p.asked("1")
		p.rests()
		p.say(rogueReply(s1, nil))
		s2, _ := p.asked("2")
		p.rests()
		p.say(rogueReply(s0, nil), rogueReply(s2, nil))
		s3, _ := p.asked("3")
		p.say(rogueReply(s3, nil))
		for _, d := range done {
			w.gets(d, "")
		}
	}, func(o *mesh.Options) { o.Limits.ProgramBytes = 2000 })
}
