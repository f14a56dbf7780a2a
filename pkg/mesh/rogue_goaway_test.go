package mesh_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// calls makes n calls, one after the other into the line, and returns what they
// ended with.
func (w *world) calls(m *mesh.Mesh, target string, n int) func() []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			_, errs[i] = m.Call(w.within(time.Hour), target, "GET", []byte{byte(i)})
		})
		synctest.Wait()
	}
	return func() []error { wg.Wait(); return errs }
}

// M35, M22: a goaway with last session 0 took nothing: the calls are made again
// on the next link, in order and once; pushes are gone and counted.
func TestGoawayThatTookNothing(t *testing.T) {
	for _, ends := range []bool{true, false} {
		inWorld(t, func(w *world) {
			var order []byte
			m, l := w.prey(func(e *rogueEnd, link int) error {
				e.greet()
				if link == 1 {
					var sessions []uint64
					for range 7 {
						sessions = append(sessions, e.hear().GetSession())
					}
					e.say(rogueGoaway(0))
					if ends {
						return nil
					}
					e.say(rogueGoaway(3), rogueGoaway(1<<63)) // only the first counts
					for _, n := range sessions {
						e.say(rogueReply(n, nil)) // of a call that was not taken
					}
					return e.serve()
				}
				for f := e.hear(); f != nil; f = e.hear() {
					order = append(order, f.GetRequest().GetPayload()...)
					e.say(rogueReply(f.GetSession(), nil))
				}
				return nil
			})
			wait := w.calls(m, "db@sdb", 3)
			for range 2 {
				if err := m.Send(w.within(time.Second), "db@sdb", "PUSH", nil); err != nil {
					t.Fatal(err)
				}
			}
			more := w.calls(m, "db@sdb", 2)
			for i, err := range slices.Concat(wait(), more()) {
				if err != nil {
					t.Errorf("call %d: %v", i, err)
				}
			}
			if want := []byte{0, 1, 2, 0, 1}; !slices.Equal(order, want) {
				t.Errorf("made again as %v, want %v", order, want)
			}
			if n := m.Stats().PushesLostGoaway; n != 2 {
				t.Errorf("%d pushes counted as lost, want 2", n)
			}
			w.unhurt(m)
			if n := l.count(); n != 2 {
				t.Errorf("%d links, want 2", n)
			}
		})
	}
}

// M35: a goaway with a session beyond the last one took everything: the old link
// answers what it has, new calls go to the next.
func TestGoawayThatTookEverything(t *testing.T) {
	inWorld(t, func(w *world) {
		m, l := w.prey(func(e *rogueEnd, link int) error {
			e.greet()
			if link > 1 {
				return e.serve()
			}
			one, two := e.hear().GetSession(), e.hear().GetSession()
			e.say(rogueGoaway(1<<64 - 1))
			time.Sleep(5 * time.Second)
			e.say(rogueReply(two, nil), rogueReply(one, nil))
			return e.serve()
		})
		began := time.Now()
		wait := w.calls(m, "db@sdb", 2)
		time.Sleep(time.Second)
		if got, err := m.Call(w.within(time.Second), "db@sdb", "GET", []byte("new")); err != nil || string(got) != "new" {
			t.Errorf("a new call: %q, %v", got, err)
		}
		for i, err := range wait() {
			if err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("answered after %s, want by the old link, after 5 s", took)
		}
		w.unhurt(m)
		if s := m.Stats(); l.count() != 2 || s.PushesLostGoaway != 0 {
			t.Errorf("%d links, %d pushes lost", l.count(), s.PushesLostGoaway)
		}
	})
}

// M35, M39: after a goaway the parts of what was taken are still sent, and those
// of what was not taken are not.
func TestGoawayInTheMiddleOfLargeCalls(t *testing.T) {
	inWorld(t, func(w *world) {
		const size = 8 << 20 // more than the windows hold
		m, l := w.prey(func(e *rogueEnd, link int) error {
			e.greet()
			got := make(map[uint64]int)
			for f := e.hear(); f != nil; f = e.hear() {
				n := f.GetSession()
				got[n] += len(f.GetRequest().GetPayload()) + len(f.GetPart().GetPayload())
				if link == 1 && f.GetRequest() != nil && n == 2 {
					e.say(rogueGoaway(1))
				}
				if got[n] == size {
					e.say(rogueReply(n, nil))
				}
			}
			if link == 1 && (got[1] != size || got[2] == size) {
				t.Errorf("the link that was left carried %d bytes of the call that it took and %d of the other", got[1], got[2])
			}
			return nil
		})
		for i, err := range w.largeCalls(m, 2, size) {
			if err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		}
		w.unhurt(m)
		if n := l.count(); n != 2 {
			t.Errorf("%d links, want 2", n)
		}
	})
}

// largeCalls makes n calls of a size at once, and returns what they ended with.
func (w *world) largeCalls(m *mesh.Mesh, n, size int) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { _, errs[i] = m.Call(w.within(time.Hour), "db@sdb", "GET", make([]byte, size)) })
	}
	wg.Wait()
	return errs
}

// M15, M56: a listener that says goaway on every link as soon as it is open is
// not dialled without a pause, and its links do not pile up.
func TestGoawayOnEveryLink(t *testing.T) {
	for _, after := range []time.Duration{0, 5 * time.Second} {
		inWorld(t, func(w *world) {
			const enough = 200
			m, l := w.prey(func(e *rogueEnd, link int) error {
				e.greet()
				if link == enough {
					return e.serve()
				}
				time.Sleep(after)
				e.say(rogueGoaway(0))
				<-e.stream.Context().Done()
				return nil
			}, func(o *mesh.Options) { o.DrainTime = -1 })
			_, err := m.Call(w.within(100*time.Second), "db@sdb", "GET", nil)
			if after == 0 && err == nil {
				t.Errorf("%d links in less than 100 s: they are not spaced", l.count())
			}
			if n := m.Stats().LinksOut; n > 10 {
				t.Errorf("%d links stand open after %d goaways", n, l.count())
			}
		})
	}
}

// M28, M58: what a listener says of a node's end is text for the log, in one
// line and not without end.
func TestGoawayTextIsOneLine(t *testing.T) {
	inWorld(t, func(w *world) {
		m, _ := w.prey(func(e *rogueEnd, link int) error {
			e.greet()
			if link == 1 {
				e.hear()
				e.say(&meshv1.Frame{Body: &meshv1.Frame_Goaway{Goaway: &meshv1.Goaway{LastSession: 1, Message: "a\nb" + strings.Repeat("c", 5000)}}})
			}
			return e.serve()
		})
		wait := w.calls(m, "db@sdb", 1)
		time.Sleep(time.Second)
		i := m.Node("db")
		if i.State != mesh.Leaving || strings.Contains(i.Reason, "\n") || len(i.Reason) > 1024 {
			t.Errorf("node: %.60q", i.Reason)
		}
		_ = wait
	})
}
