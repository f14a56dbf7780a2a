package mesh_test

import (
	"testing"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// M62: a client of whom nothing was proved does not get the rights of the process
// that passes its calls on, where that is believed.
func TestUnprovedClientIsNotItsForwarder(t *testing.T) {
	inWorld(t, func(w *world) {
		r := w.realm()
		server := w.process("server", r.named("server"), func(o *mesh.Options) {
			o.Rules = parsed(t, "default: deny\nrules:\n  - {allow: front, call: '@sdb'}\n  - {allow: front, rights: behalf}")
		})
		w.open(server, "db:1")
		var seen arrivals
		w.register(server, "sdb", seen.handle)
		front := w.process("front", r.named("front"), func(o *mesh.Options) { o.AllowForward = true })
		w.reload(front, mesh.Table{"db": "db:1"})
		if _, err := front.Call(w.within(time.Minute), "db@sdb", "OWN", nil); err != nil {
			t.Fatal(err)
		}
		onBehalf, err := front.Admit(w.within(time.Minute), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = front.Call(w.within(time.Minute), "db@sdb", "THEIRS", nil, mesh.Forwarded(0, onBehalf))
		wantError{verdict: mesh.Rejected, is: mesh.ErrNotPermitted}.check(t, err)
		if got := seen.methods(); len(got) != 1 {
			t.Errorf("ran %q", got)
		}
	})
}
