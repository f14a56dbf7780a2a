package mesh_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// serial is a world with a server whose service db@sdb is serial, and a client.
// The server's table has "gone", a node that is absent, and "other" with an
// echo at other@echo.
type serial struct {
	*world
	server, client *mesh.Mesh
	on             map[string]mesh.Handler
	state          int // guarded by the handlers' turn alone

	mu  sync.Mutex
	log []string // what the handlers did
}

func inSerialWorld(t *testing.T, limits mesh.Limits, f func(s *serial)) {
	t.Helper()
	inWorld(t, func(w *world) {
		s := &serial{world: w, on: make(map[string]mesh.Handler)}
		w.serve("other", "other:1", "echo", echo)
		s.server = w.process("server", withLimits(limits))
		w.open(s.server, "db:1")
		w.register(s.server, "sdb", s.handle)
		w.reload(s.server, mesh.Table{"other": "other:1"})
		s.client = lonely(mesh.Table{"db": "db:1"})(w)
		f(s)
	})
}

// handle notes when a handler begins and ends.
func (s *serial) handle(ctx context.Context, method string, p []byte) ([]byte, error) {
	s.state++
	s.note(method)
	if h := s.on[method]; h != nil {
		if _, err := h(ctx, method, p); err != nil {
			s.Errorf("%s: %v", method, err)
		}
	}
	s.state++
	s.note(method + " ends")
	return []byte(method), nil
}

func (s *serial) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, what)
}

// did is what the handlers did until everything is at rest.
func (s *serial) did() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// call makes a call in the background, and returns when everything is at rest.
func (s *serial) call(method string) {
	go func() {
		if got, err := s.client.Call(s.within(time.Hour), "db@sdb", method, nil); err != nil || string(got) != method {
			s.Errorf("%s: %q, %v", method, got, err)
		}
	}()
	synctest.Wait()
}

func (s *serial) want(what string, log ...string) {
	s.Helper()
	if got := s.did(); !slices.Equal(got, log) {
		s.Errorf("%s: the handlers did %q, want %q", what, got, log)
	}
}

// M26: messages of a serial service run one at a time, in the order of
// dispatch, and need no lock.
func TestSerialServiceRunsOneAtATime(t *testing.T) {
	inSerialWorld(t, mesh.Limits{}, func(s *serial) {
		running, total := 0, 0
		s.on["ADD"] = func(context.Context, string, []byte) ([]byte, error) {
			if running++; running != 1 {
				t.Errorf("%d run at once", running)
			}
			time.Sleep(time.Millisecond) // not in the mesh: it keeps the turn
			total++
			running--
			return nil, nil
		}
		start := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := s.client.Call(s.within(time.Hour), "db@sdb", "ADD", nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if total != 50 || time.Since(start) != 50*time.Millisecond {
			t.Errorf("%d messages ran in %s, want 50 in 50ms", total, time.Since(start))
		}
	})
}

// M26: a handler that waits in the mesh with its own context lets the next
// message start, and goes on with its turn back.
func TestWaitsInTheMeshGiveTheTurn(t *testing.T) {
	for name, wait := range map[string]func(s *serial, ctx context.Context) error{
		"Call": func(s *serial, ctx context.Context) error {
			_, err := s.server.Call(ctx, "gone@echo", "ECHO", nil)
			return err
		},
		"Proxy.Call": func(s *serial, ctx context.Context) error {
			_, err := s.server.Proxy("gone@echo").Call(ctx, "ECHO", nil)
			return err
		},
		"Send":      func(s *serial, ctx context.Context) error { return s.server.Send(ctx, "gone@echo", "ECHO", nil) },
		"Query":     func(s *serial, ctx context.Context) error { _, err := s.server.Query(ctx, "gone@echo"); return err },
		"WaitReady": func(s *serial, ctx context.Context) error { return s.server.WaitReady(ctx, "gone") },
		"Await": func(s *serial, ctx context.Context) (err error) {
			mesh.Await(ctx, func() { err = s.server.WaitReady(context.Background(), "gone") })
			return err
		},
		"derived context": func(s *serial, ctx context.Context) error {
			ctx, cancel := context.WithTimeout(context.WithValue(ctx, s, s), time.Minute)
			defer cancel()
			_, err := s.server.Call(ctx, "gone@echo", "ECHO", nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			inSerialWorld(t, mesh.Limits{}, func(s *serial) {
				s.on["WAIT"] = func(ctx context.Context, _ string, _ []byte) ([]byte, error) { return nil, wait(s, ctx) }
				s.call("WAIT")
				s.call("NEXT")
				s.want("while it waits", "WAIT", "NEXT", "NEXT ends")
				s.reload(s.server, mesh.Table{"gone": "other:1"})
				s.want("after it waited", "WAIT", "NEXT", "NEXT ends", "WAIT ends")
				s.call("LAST")
				s.want("later", "WAIT", "NEXT", "NEXT ends", "WAIT ends", "LAST", "LAST ends")
			})
		})
	}
}

// M26: another wait, or another context, gives nothing away.
func TestOtherWaitsKeepTheTurn(t *testing.T) {
	for name, wait := range map[string]func(s *serial, ctx context.Context) error{
		"sleep": func(*serial, context.Context) error { time.Sleep(time.Second); return nil },
		"Call with another context": func(s *serial, _ context.Context) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, _ = s.server.Call(ctx, "gone@echo", "ECHO", nil)
			return nil
		},
		"Await with another context": func(*serial, context.Context) error {
			mesh.Await(context.Background(), func() { time.Sleep(time.Second) })
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			inSerialWorld(t, mesh.Limits{}, func(s *serial) {
				s.on["WAIT"] = func(ctx context.Context, _ string, _ []byte) ([]byte, error) { return nil, wait(s, ctx) }
				s.call("WAIT")
				s.call("NEXT")
				s.want("while it waits", "WAIT")
				time.Sleep(2 * time.Second)
				s.want("after it", "WAIT", "WAIT ends", "NEXT", "NEXT ends")
			})
		})
	}
}

// M26: who waited goes on before any message that has not started, and not
// beside the one that runs.
func TestHandlerGoesOnBeforeNewMessages(t *testing.T) {
	inSerialWorld(t, mesh.Limits{}, func(s *serial) {
		hold, release := make(chan struct{}), make(chan struct{})
		s.on["WAIT"] = func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			mesh.Await(ctx, func() { <-release })
			s.note("WAIT goes on")
			_, err := s.server.Call(ctx, "other@echo", "ECHO", nil)
			return nil, err
		}
		s.on["HOLD"] = func(context.Context, string, []byte) ([]byte, error) { <-hold; return nil, nil }
		s.call("WAIT")
		s.call("HOLD")
		s.call("NEXT")
		s.want("two wait", "WAIT", "HOLD")
		close(release)
		s.want("it does not go on beside another", "WAIT", "HOLD")
		close(hold)
		// In its second wait NEXT may start, and not before.
		if got := s.did(); len(got) != 7 || !slices.Equal(got[:5], []string{"WAIT", "HOLD", "HOLD ends", "WAIT goes on", "NEXT"}) {
			t.Errorf("the handlers did %q", got)
		}
	})
}

// M26: while a handler is in Await its goroutines may wait with its context:
// they give and take nothing.
func TestGoroutinesOfAHandlerTakeNoTurn(t *testing.T) {
	inSerialWorld(t, mesh.Limits{}, func(s *serial) {
		hold, callers := make(chan struct{}), make(chan error, 5)
		s.on["FAN"] = func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			mesh.Await(ctx, func() {
				var wg sync.WaitGroup
				for range cap(callers) {
					wg.Go(func() {
						time.Sleep(time.Second) // HOLD runs by then
						_, err := s.server.Call(ctx, "other@echo", "ECHO", nil)
						mesh.Await(ctx, func() {})
						callers <- err
					})
				}
				wg.Wait()
			})
			return nil, nil
		}
		s.on["HOLD"] = func(context.Context, string, []byte) ([]byte, error) { <-hold; return nil, nil }
		s.call("FAN")
		s.call("HOLD")
		s.call("NEXT")
		for range cap(callers) { // none of them waits for HOLD's turn
			if err := <-callers; err != nil {
				t.Error(err)
			}
		}
		s.want("they gave no turn away either", "FAN", "HOLD")
		close(hold)
		s.want("at last", "FAN", "HOLD", "HOLD ends", "FAN ends", "NEXT", "NEXT ends")
	})
}

// M26, M56: at most ServiceWaiting handlers wait; then the next message does not
// start until one of them has gone on.
func TestAtMostServiceWaitingHandlersWait(t *testing.T) {
	inSerialWorld(t, mesh.Limits{ServiceWaiting: 3}, func(s *serial) {
		release := make(chan struct{})
		s.on["WAIT"] = func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			mesh.Await(ctx, func() { <-release })
			return nil, nil
		}
		for range 5 {
			s.call("WAIT")
		}
		s.call("NEXT")
		s.want("three wait", "WAIT", "WAIT", "WAIT")
		release <- struct{}{}
		s.want("one went on", "WAIT", "WAIT", "WAIT", "WAIT ends", "WAIT")
		close(release)
		if got := s.did(); len(got) != 12 || !slices.Contains(got, "NEXT ends") {
			t.Errorf("in the end the handlers did %q", got)
		}
	})
}

// M26: a handler's context ends when it returns; what it left behind can give
// no turn away, and its calls fail at once.
func TestContextEndsWithItsHandler(t *testing.T) {
	inSerialWorld(t, mesh.Limits{}, func(s *serial) {
		var left context.Context
		hold := make(chan struct{})
		s.on["LEAVE"] = func(ctx context.Context, _ string, _ []byte) ([]byte, error) { left = ctx; return nil, ctx.Err() }
		s.on["HOLD"] = func(context.Context, string, []byte) ([]byte, error) { <-hold; return nil, nil }
		s.call("LEAVE")
		s.call("HOLD")
		s.call("NEXT")
		select {
		case <-left.Done():
		default:
			t.Error("the context of a handler that returned goes on")
		}
		if left.Err() != context.Canceled {
			t.Errorf("the context ended with %v", left.Err())
		}
		mesh.Await(left, synctest.Wait)
		_, err := s.server.Call(left, "gone@echo", "ECHO", nil)
		wantError{verdict: mesh.NotSent, is: context.Canceled}.check(t, err)
		s.want("nobody lost his turn", "LEAVE", "LEAVE ends", "HOLD")
		close(hold)
		s.want("at last", "LEAVE", "LEAVE ends", "HOLD", "HOLD ends", "NEXT", "NEXT ends")
	})
}

// M26: a goroutine that a handler left in a wait takes no turn when it comes
// back.
func TestGoroutineLeftBehindTakesNoTurn(t *testing.T) {
	inSerialWorld(t, mesh.Limits{}, func(s *serial) {
		release, back, hold := make(chan struct{}), make(chan struct{}), make(chan struct{})
		s.on["LEAVE"] = func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			go func() {
				mesh.Await(ctx, func() { <-release })
				close(back)
			}()
			synctest.Wait() // the goroutine has given the turn away
			return nil, nil
		}
		s.on["HOLD"] = func(context.Context, string, []byte) ([]byte, error) { <-hold; return nil, nil }
		go func() { _, _ = s.client.Call(s.within(time.Hour), "db@sdb", "LEAVE", nil) }()
		time.Sleep(time.Second)
		s.call("HOLD")
		close(release)
		<-back
		s.call("NEXT")
		s.want("HOLD has the turn", "LEAVE", "LEAVE ends", "HOLD")
		close(hold)
		s.want("at last", "LEAVE", "LEAVE ends", "HOLD", "HOLD ends", "NEXT", "NEXT ends")
	})
}
