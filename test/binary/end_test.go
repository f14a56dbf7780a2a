package binary_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// SIGTERM lets the calls that run finish, takes no new ones, and ends with 0
// (M35, M55).
func TestTermDrains(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		s := serve(t, "--listen", "127.0.0.1:0", "--example", "pingserver", "--drain", bound.String())
		m := join(t, mesh.Table{"db": s.addr(1)})
		const calls = 32
		errs := make(chan error, calls)
		for i := range calls {
			go func() {
				text := fmt.Sprint("call ", i)
				reply, err := m.Call(t.Context(), "db@pingserver", "SLEEP", []byte("500ms "+text))
				if err == nil && string(reply) != text {
					err = fmt.Errorf("%s is answered with %q", text, reply)
				}
				errs <- err
			}()
		}
		s.wait("pingserver", calls, nil) // all run
		s.signal(sig)
		s.wait("draining", 1, line{"signal": sig.String()})
		if o := do(t, nil, "call", s.db(), "--timeout", "5s", "db@pingserver", "SLEEP", "0s"); o.code != 3 {
			t.Errorf("a call while the node drains: %+v, want not sent", o)
		}
		for range calls {
			if err := <-errs; err != nil {
				t.Errorf("a call that ran at the signal: %v", err)
			}
		}
		if code := s.exit(); code != 0 {
			t.Errorf("after %s it ended with %d\n%s", sig, code, s)
		}
	}
}

// --drain bounds what a handler that does not end can hold up (M55).
func TestDrainIsBounded(t *testing.T) {
	for _, drain := range []string{"0s", "200ms"} {
		s := serve(t, "--listen", "127.0.0.1:0", "--example", "pingserver", "--drain", drain)
		end := begin(t, command("call", s.db(), "--timeout", "0", "db@pingserver", "SLEEP", "1h"))
		s.wait("pingserver", 1, nil)
		s.signal(syscall.SIGTERM)
		if code := s.exit(); code != 0 {
			t.Errorf("--drain %s: it ended with %d\n%s", drain, code, s)
		}
		if o := end(); o.code != 5 && o.code != 1 {
			t.Errorf("--drain %s: the call that ran: %+v, want maybe executed, or that its handler failed", drain, o)
		}
	}
}

// A second signal ends the process at once, whatever runs, with 128 and its
// number; the call that ran is maybe executed (M34).
func TestSecondSignalEndsAtOnce(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		s := serve(t, "--listen", "127.0.0.1:0", "--example", "pingserver", "--drain", "1h")
		end := begin(t, command("call", s.db(), "--timeout", "0", "db@pingserver", "SLEEP", "1h"))
		s.wait("pingserver", 1, nil)
		s.signal(syscall.SIGTERM)
		s.wait("draining", 1, nil)
		s.signal(syscall.SIGHUP) // is none of those that end
		s.signal(sig)
		if code := s.exit(); code != 128+int(sig) {
			t.Errorf("after a second signal, %s, it ended with %d", sig, code)
		}
		s.wait("ended at once, by a second signal", 1, line{"signal": sig.String(), "handlers_running": 1.0})
		if o := end(); o.code != 5 || !strings.Contains(o.stderr, "maybe executed: ") {
			t.Errorf("the call that ran: %+v, want maybe executed", o)
		}
	}
}

// A peer that is killed may have executed what it was sent (M23, M34).
func TestKillIsMaybeExecuted(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "pingserver")
	end := begin(t, command("call", s.db(), "--timeout", "0", "db@pingserver", "SLEEP", "1h"))
	s.wait("pingserver", 1, nil)
	s.signal(syscall.SIGKILL)
	if o := end(); o.code != 5 || !strings.HasPrefix(o.stderr, "meshnode: maybe executed: link to [db] broke: ") {
		t.Errorf("%+v, want maybe executed", o)
	}
	if o := do(t, nil, "call", s.db(), "db@pingserver", "SLEEP", "0s"); o.code != 3 {
		t.Errorf("the next call: %+v, want not sent", o)
	}
}

// A process that is restarted in good order fails no call and runs none twice,
// under 64 callers that do nothing about it (M22, M35).
func TestRestartInGoodOrder(t *testing.T) {
	flags := []string{"--example", "pingserver", "--drain", bound.String()}
	s, table := serveNodes(t, []string{"db"}, flags...)
	m := join(t, mesh.Table{"db": s.addr(1)})
	stop := make(chan struct{})
	made := make([]int, 64)
	var wg sync.WaitGroup
	for caller := range made {
		wg.Go(func() {
			for running(stop) {
				text := fmt.Sprintf("%d-%d", caller, made[caller])
				reply, err := m.Call(t.Context(), "db@pingserver", "SLEEP", []byte("3ms "+text))
				if err != nil || string(reply) != text {
					t.Errorf("call %s: %q %v (%v)", text, reply, err, mesh.VerdictOf(err))
					return
				}
				made[caller]++
			}
		})
	}
	lives := []*server{s}
	for range 3 {
		s.wait("pingserver", 300, nil)
		s.signal(syscall.SIGTERM)
		if code := s.exit(); code != 0 {
			t.Errorf("it ended with %d\n%s", code, s)
		}
		s = serve(t, append([]string{"--table", table, "--open", "db"}, flags...)...)
		lives = append(lives, s)
	}
	s.wait("pingserver", 300, nil)
	close(stop)
	wg.Wait()
	s.signal(syscall.SIGTERM)
	s.exit() // until its log is complete
	ran := map[any]int{}
	for _, s := range lives {
		found, _ := s.lines("pingserver", nil)
		for _, l := range found {
			ran[l["text"]]++
		}
	}
	for caller, n := range made {
		for i := range n {
			if text := fmt.Sprintf("%d-%d", caller, i); ran[text] != 1 {
				t.Errorf("call %s ran %d times", text, ran[text])
			}
		}
	}
	t.Logf("%d calls, each ran once, over %d lives", len(ran), len(lives))
}

func running(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	default:
		return true
	}
}

// join makes the test process part of the mesh.
func join(t *testing.T, table mesh.Table) *mesh.Mesh {
	t.Helper()
	m, err := mesh.New(mesh.Options{Name: "test"})
	if err == nil {
		err = m.Reload(table)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		if err := errors.Join(m.Close(ctx), ctx.Err()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// SIGINT to a call cancels it: the caller is told what is known, and the handler
// is told to end (M31).
func TestInterruptedCall(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "pingserver")
	cmd := command("call", s.db(), "--timeout", "0", "db@pingserver", "SLEEP", "1h")
	end := begin(t, cmd)
	s.wait("pingserver", 1, nil)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if o := end(); o.code != 5 || !strings.Contains(o.stderr, "maybe executed") {
		t.Errorf("%+v, want maybe executed", o)
	}
	s.signal(syscall.SIGTERM) // would wait for a handler that goes on
	began := time.Now()
	if code := s.exit(); code != 0 || time.Since(began) > 5*time.Second {
		t.Errorf("the process ended with %d after %s: the handler went on", code, time.Since(began))
	}
}

// A push of which the node did not confirm that it read it does not end with 0
// (M36, M37).
func TestPushThatIsNotHandedOver(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	cutting := cutAfter(t, s.addr(1), 200<<10)
	// More than the window of the link, so that not all of it can be on its way.
	o := do(t, make([]byte, 8<<20), "push", "--node", "db="+cutting, "db@sdb", "PING")
	if o.code != 5 || !strings.Contains(o.stderr, "maybe executed: ") {
		t.Errorf("the link broke: %+v, want maybe executed", o)
	}
	s.signal(syscall.SIGSTOP)
	o = do(t, nil, "push", s.db(), "--timeout", "500ms", "db@sdb", "PING", "x")
	s.signal(syscall.SIGCONT)
	if o.code != 3 {
		t.Errorf("the process is stopped: %+v, want not sent", o)
	}
	if found, _ := s.lines("ping", nil); found != nil {
		t.Errorf("it ran: %v", found)
	}
}

// cutAfter listens for one connection to addr, and cuts it when so many bytes
// went there.
func cutAfter(t *testing.T, addr string, most int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		in, err := l.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer out.Close()
		wg.Go(func() { _, _ = io.Copy(in, out) })
		_, _ = io.CopyN(out, in, most)
	})
	return l.Addr().String()
}
