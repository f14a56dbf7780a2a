package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// tell answers with a text of its own, so that a test sees who answered.
func tell(who string) mesh.Handler {
	return func(context.Context, string, []byte) ([]byte, error) { return []byte(who), nil }
}

// M42: what parses as a target, and which service of which node it is.
func TestTargetsThatParse(t *testing.T) {
	long := "@" + strings.Repeat("n", 254)
	cases := map[string]struct{ node, name string }{
		"db@sdb": {"db", "@sdb"}, "db.launcher": {"db", ".launcher"}, "a.b@c": {"a", ".b@c"}, "a@b.c": {"a", "@b.c"}, "a@b:c": {"a", "@b:c"},
		"db@@x": {"db", "@@x"}, "db..x": {"db", "..x"}, "d_b-1@x": {"d_b-1", "@x"}, "1@1": {"1", "@1"}, "db@ünïcode ☃": {"db", "@ünïcode ☃"},
		"db@a b": {"db", "@a b"}, "db" + long: {"db", long},
		strings.Repeat("n", 255) + "@x": {strings.Repeat("n", 255), "@x"},
	}
	inWorld(t, func(w *world) {
		m := w.process("server")
		w.open(m, "db:1")
		client := w.process("client")
		for _, c := range cases {
			m.Unregister(c.name) // some have the same
			w.register(m, c.name, tell(c.name))
			w.reload(client, mesh.Table{c.node: "db:1"})
		}
		for target, c := range cases {
			got, err := client.Call(w.within(time.Second), target, "M", nil)
			if err != nil || string(got) != c.name {
				t.Errorf("%.40q: %q, %v", target, got, err)
			}
			h, err := client.Query(w.within(time.Second), target)
			if err != nil {
				t.Errorf("%.40q: %v", target, err)
				continue
			}
			for _, text := range []string{h.String(), strings.ToUpper(h.String())} {
				if got, err := client.Call(w.within(time.Second), c.node+text, "M", nil); err != nil || string(got) != c.name {
					t.Errorf("%.40q by its handle %s: %q, %v", target, text, got, err)
				}
			}
		}
	})
}

// M42: what is no target is told at first use, by a proxy too, before anything
// is dialled or waited for.
func TestTargetsThatDoNotParse(t *testing.T) {
	targets := []string{
		"", "db", "@x", ".x", ":0000000000000001", "db@", "db.", "db:", "@", ":", "a b@x", "dä@x", "__nowaiting@x", "db\n@x", strings.Repeat("n", 256) + "@x",
		"db@\n", "db@a\x00", "db@\xff", "db@" + strings.Repeat("n", 255), "db:1", "db:sdb", "db:00000000000000001", "db:000000000000000g", "db:+000000000000001", "db:0x00000000000001", "db:0000_0000_0000_1",
	}
	inWorld(t, func(w *world) {
		m := w.process("client") // its table is empty: a right target would wait
		ctx := w.within(time.Second)
		for _, target := range targets {
			p := m.Proxy(target)
			if p.Target() != target {
				t.Errorf("the proxy's target is %q, want %q", p.Target(), target)
			}
			_, call := m.Call(ctx, target, "M", nil)
			_, query := m.Query(ctx, target)
			_, proxied := p.Call(ctx, "M", nil)
			for use, err := range map[string]error{
				"call": call, "query": query, "send": m.Send(ctx, target, "M", nil), "proxy call": proxied, "proxy send": p.Send(ctx, "M", nil),
				"stub": p.Invoke(ctx, "/a.B/C", &meshv1.PingRequest{}, &meshv1.PingResponse{}),
			} {
				var e *mesh.Error
				if !errors.Is(err, mesh.ErrInvalidTarget) || mesh.VerdictOf(err) != mesh.NotSent || status.Code(err) != codes.InvalidArgument ||
					!errors.As(err, &e) || e.Target != target || !strings.HasPrefix(e.Message, "invalid target ") || strings.Contains(err.Error(), "\n") || len(err.Error()) > 2000 {
					t.Errorf("%s of %.40q: %v", use, target, err)
				}
			}
		}
	})
}

// M42, M43, F38: names are checked at register.
func TestRegisterChecksTheName(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("p")
		s := m.NewService(echo)
		for _, name := range append([]string{""}, ruleBreakers...) {
			if err := m.Register(name, s); err == nil || strings.Contains(err.Error(), "\n") || len(err.Error()) > 500 {
				t.Errorf("register %.40q: %v", name, err)
			}
		}
	})
}

// M43: a name is taken with its sign; a taken one is an error, for the same
// service too; a service has one name of each kind, and a second one replaces
// the first.
func TestNamesOfAService(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.process("server")
		w.open(m, "db:1")
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1"})
		who := func(name string) string {
			got, err := client.Call(w.within(time.Second), "db"+name, "M", nil)
			if errors.Is(err, mesh.ErrNameNotFound) && mesh.VerdictOf(err) == mesh.Rejected {
				return ""
			} else if err != nil {
				t.Fatal(err)
			}
			return string(got)
		}
		expect := func(step string, want map[string]string) {
			t.Helper()
			for name, w := range want {
				if got := who(name); got != w {
					t.Errorf("%s: %s is %q, want %q", step, name, got, w)
				}
			}
		}
		a, b := m.NewService(tell("a")), m.NewService(tell("b"))
		right := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		taken := func(name string, s *mesh.Service) {
			t.Helper()
			if err := m.Register(name, s); err == nil || !strings.Contains(err.Error(), "taken") {
				t.Errorf("register %s: %v", name, err)
			}
		}
		right(m.Register("sdb", a))
		expect("without a sign", map[string]string{"@sdb": "a", ".sdb": ""})
		taken("@sdb", b)
		taken("sdb", a)
		right(m.Register(".sdb", b))
		right(m.Register(".own", a))
		expect("two kinds", map[string]string{"@sdb": "a", ".sdb": "b", ".own": "a"})
		right(m.Register("@new", a))
		expect("replaced", map[string]string{"@sdb": "", "@new": "a", ".own": "a"})
		right(m.Register("@sdb", b))
		taken("@new", b)
		expect("a refusal changes nothing", map[string]string{"@sdb": "b", "@new": "a", ".sdb": "b"})
		m.Unregister("sdb")
		m.Unregister("sdb")
		m.Unregister("@never")
		m.Unregister("")
		m.Unregister("\xff\n")
		expect("unregistered", map[string]string{"@sdb": "", ".sdb": "b", "@new": "a"})
		right(m.Register("@sdb", a))
		expect("free again", map[string]string{"@sdb": "a", "@new": ""})
	})
}

// M44: what is dispatched after Register or Unregister has returned sees it;
// what waits in a queue stays with its service.
func TestNameThatMovesUnderLoad(t *testing.T) {
	inWorld(t, func(w *world) {
		let := make(chan struct{})
		m := w.process("server")
		w.open(m, "db:1")
		old := m.NewService(func(context.Context, string, []byte) ([]byte, error) { <-let; return []byte("old"), nil })
		young := m.NewService(tell("young"))
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1"})
		call := func() chan string {
			got := make(chan string, 1)
			go func() {
				b, err := client.Call(w.within(time.Minute), "db@sdb", "M", nil)
				got <- fmt.Sprint(string(b), err)
			}()
			synctest.Wait()
			return got
		}
		missed := call()
		if got := <-missed; !strings.Contains(got, "name not found") {
			t.Errorf("before: %s", got)
		}
		if err := m.Register("sdb", old); err != nil { // a miss is not remembered
			t.Fatal(err)
		}
		runs, waits := call(), call()
		m.Unregister("sdb")
		if got := <-call(); !strings.Contains(got, "name not found") {
			t.Errorf("unregistered: %s", got)
		}
		if err := m.Register("sdb", young); err != nil {
			t.Fatal(err)
		}
		if got := <-call(); got != "young<nil>" {
			t.Errorf("the new one: %s", got)
		}
		close(let)
		if one, two := <-runs, <-waits; one != "old<nil>" || two != "old<nil>" {
			t.Errorf("what ran and what waited: %s, %s", one, two)
		}
	})
}

// M44: a large message is refused by its first frame where nobody has the name,
// and goes to whom the name belongs when it is whole.
func TestLargeMessageIsResolvedWhenItIsWhole(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.serve("server", "db:1", "sdb", tell("old"))
		r := w.rogue("db:1")
		large := func(n uint64, name string) *meshv1.Frame {
			return rogueCall(n, name, "M", make([]byte, partSize), func(q *meshv1.Request) { q.TotalSize = partSize + 1 })
		}
		r.say(large(1, "@nobody"))
		r.fails(1, meshv1.Reason_REASON_NAME_NOT_FOUND)
		r.say(large(2, "@sdb"))
		synctest.Wait()
		m.Unregister("sdb")
		w.register(m, "sdb", tell("young"))
		r.say(roguePart(2, 1))
		if f := r.hear(); string(f.GetReply().GetPayload()) != "young" {
			t.Errorf("answered by %v", f)
		}
		r.say(large(3, "@sdb"))
		synctest.Wait()
		m.Unregister("sdb")
		r.say(roguePart(3, 1))
		r.fails(3, meshv1.Reason_REASON_NAME_NOT_FOUND)
	})
}

// M45: names belong to the process, whichever node name it was reached by.
func TestNamesBelongToTheProcess(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.serve("server", "db:1", "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			c, _ := mesh.CallerFrom(ctx)
			return []byte(c.Node), nil
		})
		w.reload(m, mesh.Table{"db2": "db:2"})
		w.open(m, "db2")
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1", "db2": "db:2", "alias": "db:1"})
		var handles []mesh.Handle
		for _, node := range []string{"db", "db2", "alias"} {
			got, err := client.Call(w.within(time.Second), node+"@sdb", "M", nil)
			if err != nil || string(got) != node {
				t.Errorf("%s: %q, %v", node, got, err)
			}
			h, err := client.Query(w.within(time.Second), node+"@sdb")
			if err != nil {
				t.Error(err)
			}
			handles = append(handles, h)
		}
		if handles[0] != handles[1] || handles[0] != handles[2] || handles[0] == 0 {
			t.Errorf("handles: %v, want one", handles)
		}
		if n := m.Stats().LinksIn; n != 3 {
			t.Errorf("%d links, want one for each node name", n)
		}
	})
}

// M46: Query gives the handle of a name or says that there is none; it waits for
// its node as a call does, and a handle is its own answer.
func TestQuery(t *testing.T) {
	inWorld(t, func(w *world) {
		m := w.serve("server", "db:1", "sdb", tell("sdb"))
		local := w.register(m, ".sdb", tell("local"))
		client := w.process("client")
		if _, err := client.Query(w.within(time.Hour), "db@sdb", mesh.NoWait); !errors.Is(err, mesh.ErrAbsent) || mesh.VerdictOf(err) != mesh.NotSent {
			t.Errorf("NoWait: %v", err)
		}
		if h, err := client.Query(w.within(time.Second), "nowhere:00000001000000ff"); err != nil || h != 0x1000000ff {
			t.Errorf("a handle: %s, %v", h, err)
		}
		time.AfterFunc(time.Minute, func() { w.reload(client, mesh.Table{"db": "db:1"}) })
		began := time.Now()
		h, err := client.Query(w.within(time.Hour), "db@sdb")
		if err != nil || time.Since(began) != time.Minute {
			t.Errorf("%v after %s, want when the node had come", err, time.Since(began))
		}
		if i := client.Node("db").Incarnation; uint32(h>>32) != i || i == 0 || uint32(h) == 0 {
			t.Errorf("handle %s of incarnation %08x", h, i)
		}
		if got, err := client.Query(w.within(time.Second), "db.sdb"); err != nil || got != local.Handle() || got == h {
			t.Errorf("the local name: %s, %v", got, err)
		}
		_, err = client.Query(w.within(time.Second), "db@nobody")
		if !errors.Is(err, mesh.ErrNameNotFound) || mesh.VerdictOf(err) != mesh.Rejected || status.Code(err) != codes.NotFound || err.Error() != `name not found: "@nobody"` {
			t.Errorf("nobody: %v", err)
		}
	})
}

// M47: after a restart a handle is stale, and never another service.
func TestHandleIsStaleAfterARestart(t *testing.T) {
	inWorld(t, func(w *world) {
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1"})
		ran := 0
		start := func() *mesh.Mesh {
			return w.serve("server", "db:1", "sdb", func(context.Context, string, []byte) ([]byte, error) { ran++; return nil, nil })
		}
		m := start()
		h, err := client.Query(w.within(time.Second), "db@sdb")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Call(w.within(time.Second), "db"+h.String(), "M", nil); err != nil || ran != 1 {
			t.Errorf("before: %v, ran %d times", err, ran)
		}
		if err := m.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		m = start()
		_, err = client.Call(w.within(time.Minute), "db"+h.String(), "M", nil)
		if !errors.Is(err, mesh.ErrStaleHandle) || mesh.VerdictOf(err) != mesh.Rejected || status.Code(err) != codes.FailedPrecondition || ran != 1 {
			t.Errorf("after: %v, ran %d times", err, ran)
		}
		again, err := client.Query(w.within(time.Second), "db@sdb")
		if err != nil || again>>32 == h>>32 {
			t.Errorf("the new handle is %s, the old one %s, %v", again, h, err)
		}
		pushes := m.Stats().PushesUnknown
		if err := client.Send(w.within(time.Second), "db"+h.String(), "M", nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := m.Stats().PushesUnknown - pushes; n != 1 {
			t.Errorf("%d pushes to a stale handle counted, want 1", n)
		}
	})
}

// M48, M47: when a service stops its names go with it, messages that wait for it
// are rejected, the one that runs goes on, and its handle is never given again.
func TestServiceThatStops(t *testing.T) {
	inWorld(t, func(w *world) {
		let := make(chan struct{})
		m := w.process("server")
		w.open(m, "db:1")
		s := w.register(m, "sdb", func(context.Context, string, []byte) ([]byte, error) { <-let; return nil, nil })
		if err := m.Register(".sdb", s); err != nil {
			t.Fatal(err)
		}
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1"})
		runs, waits := w.calls(client, "db@sdb", 1), w.calls(client, "db.sdb", 2)
		s.Stop()
		for _, err := range waits() {
			if !errors.Is(err, mesh.ErrStaleHandle) || mesh.VerdictOf(err) != mesh.Rejected {
				t.Errorf("what waited: %v", err)
			}
		}
		for target, want := range map[string]error{"db@sdb": mesh.ErrNameNotFound, "db.sdb": mesh.ErrNameNotFound, "db" + s.Handle().String(): mesh.ErrStaleHandle} {
			if _, err := client.Call(w.within(time.Second), target, "M", nil); !errors.Is(err, want) || mesh.VerdictOf(err) != mesh.Rejected {
				t.Errorf("%s: %v, want %v", target, err, want)
			}
		}
		if err := m.Register("again", s); err == nil {
			t.Error("a stopped service got a name")
		}
		next := w.register(m, "sdb", tell("next"))
		if next.Handle() <= s.Handle() {
			t.Errorf("handle %s after %s", next.Handle(), s.Handle())
		}
		if got, err := client.Call(w.within(time.Second), "db@sdb", "M", nil); err != nil || string(got) != "next" {
			t.Errorf("the next service: %q, %v", got, err)
		}
		s.Stop()
		close(let)
		if err := runs()[0]; err != nil {
			t.Errorf("what ran: %v", err)
		}
	})
}
