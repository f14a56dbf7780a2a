package mesh_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

func parsed(t *testing.T, text string) *mesh.Rules {
	t.Helper()
	r, err := mesh.ParseRules([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// M62: which names a program may register is a right of its own.
func TestRightToServe(t *testing.T) {
	served(t, func(w *world, _, caller *mesh.Mesh) {
		p := w.program(nil, "@model", "@model-2")
		p.say(registerFrame(9, "@sdb", false))
		p.refused(9, meshv1.Reason_REASON_NOT_PERMITTED, codes.PermissionDenied)
		done := w.calling(caller, "db@model", "M", nil)
		s, _ := p.asked("M")
		p.say(rogueReply(s, nil))
		w.gets(done, "")
		_, err := caller.Call(w.within(time.Minute), "db@model-2", "M", nil)
		wantError{verdict: mesh.Rejected, is: mesh.ErrNotPermitted}.check(t, err)
	}, func(o *mesh.Options) {
		o.Rules = parsed(t, "default: deny\nrules:\n  - {allow: unknown, serve: '@model*'}\n  - {allow: unknown, call: '@model'}")
	})
}

// M62: to have calls passed on is another; a name of the process itself is
// judged by the rules for that name.
func TestRightToHaveCallsPassedOn(t *testing.T) {
	forwarder(t, func(w *world, near, _ *mesh.Mesh, c meshv1.ClusterServiceClient) {
		refused := func(target string) {
			t.Helper()
			_, err := c.Call(w.within(time.Minute), &meshv1.CallRequest{Target: target, Method: "ECHO"})
			if reason, executed := info(t, err); status.Code(err) != codes.PermissionDenied || reason != "NOT_PERMITTED" || executed != "no" {
				t.Errorf("%s: %v", target, err)
			}
		}
		refused("db@sdb")
		refused("@own")
		near.SetRules(parsed(t, "default: deny\nrules:\n  - {allow: unknown, rights: forward}\n  - {allow: unknown, call: '@own'}"))
		for _, target := range []string{"db@sdb", "@own"} {
			if _, err := c.Call(w.within(time.Minute), &meshv1.CallRequest{Target: target, Method: "ECHO"}); err != nil {
				t.Errorf("%s: %v", target, err)
			}
		}
		refused(":0000000000000000")
	}, func(o *mesh.Options) { o.Rules = parsed(t, "default: deny\nrules: []") })
}

// M59, M62: for whom a peer says that it asks counts only where a rule gives it
// the right behalf; then the first caller is judged, and shown to handler and
// program.
func TestOnBehalfIsBelievedByRuleAlone(t *testing.T) {
	const tokens = "0123456789abcdef"
	rules := "default: deny\nrules:\n  - {allow: king, call: ['@sdb', '@model']}\n  - {allow: token, serve: '@model'}"
	inWorld(t, func(w *world) {
		var seen mesh.Caller
		secret := func(o *mesh.Options) { o.Tokens = []string{tokens} }
		server := w.process("server", secret, func(o *mesh.Options) { o.Rules, o.AllowServe = parsed(t, rules), true })
		w.open(server, "db:1")
		w.register(server, "sdb", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			seen, _ = mesh.CallerFrom(ctx)
			return nil, nil
		})
		front := w.process("front", secret)
		w.reload(front, mesh.Table{"db": "db:1"})
		call := func() error {
			_, err := front.Call(w.within(time.Minute), "db@sdb", "M", nil, mesh.Forwarded(0, "king"))
			return err
		}
		wantError{verdict: mesh.Rejected, is: mesh.ErrNotPermitted}.check(t, call())
		server.SetRules(nil)
		if err := call(); err != nil || seen.OnBehalf != "" || seen.Identity != "token" || seen.Hops != 1 {
			t.Errorf("without rules: %v, %+v", err, seen)
		}
		server.SetRules(parsed(t, rules+"\n  - {allow: token, rights: behalf}"))
		if err := call(); err != nil || seen.OnBehalf != "king" || seen.Identity != "token" {
			t.Errorf("with the right: %v, %+v", err, seen)
		}
		_, err := front.Call(w.within(time.Minute), "db@sdb", "M", nil)
		wantError{verdict: mesh.Rejected, is: mesh.ErrNotPermitted}.check(t, err)

		p := w.programWith(w.rogueConn("db:1"), tokens)
		p.say(rogueHello())
		p.listen()
		p.hear()
		p.beating()
		p.registers("@model", false)
		done := make(chan error, 1)
		go func() {
			_, err := front.Call(w.within(time.Minute), "db@model", "M", nil, mesh.Forwarded(2, "king"))
			done <- err
		}()
		synctest.Wait()
		s, q := p.asked("M")
		if q.GetOnBehalf() != "king" || q.GetHops() != 4 {
			t.Errorf("%v", q)
		}
		p.say(rogueReply(s, nil))
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
