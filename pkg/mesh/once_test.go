package mesh_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// ledger counts what ran, by method, over all processes of a world.
type ledger struct {
	mu  sync.Mutex
	ran map[string]int
}

func (l *ledger) note(method string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ran == nil {
		l.ran = make(map[string]int)
	}
	l.ran[method]++
}

func (l *ledger) of(method string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ran[method]
}

// storm makes calls while links break, nodes move and listeners leave.
type storm struct {
	*world
	ledger
	servers  [2]*mesh.Mesh
	client   *mesh.Mesh
	verdicts map[mesh.Verdict]int // under mu
}

func (s *storm) handle(ctx context.Context, method string, p []byte) ([]byte, error) {
	s.note(method)
	mesh.Await(ctx, func() { time.Sleep(time.Duration(len(p)%1500) * time.Millisecond) })
	return append([]byte(method), p...), nil
}

// call makes one call and looks at what its outcome says of its execution.
func (s *storm) call(rng *rand.Rand, method string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(4000)+1)*time.Millisecond)
	defer cancel()
	size := rng.IntN(2000)
	if rng.IntN(5) == 0 {
		size = rng.IntN(200_000)
	}
	reply, err := s.client.Call(ctx, "db@sdb", method, make([]byte, size), mesh.WaitUp)
	time.Sleep(time.Minute) // whatever may still run has run
	ran, verdict := s.of(method), mesh.VerdictOf(err)
	s.mu.Lock()
	s.verdicts[verdict]++
	s.mu.Unlock()
	switch {
	case err == nil && (ran != 1 || len(reply) != size+len(method) || string(reply[:len(method)]) != method):
		s.Errorf("%s has a reply of %d bytes and ran %d times", method, len(reply), ran)
	case (verdict == mesh.NotSent || verdict == mesh.Rejected) && ran != 0:
		s.Errorf("%s ran %d times: %v", method, ran, err)
	case ran > 1:
		s.Errorf("%s ran %d times: %v", method, ran, err)
	case err != nil && verdict == 0, verdict == mesh.HandlerFailed:
		s.Errorf("%s: %v", method, err)
	}
}

// rage does something bad to one server every now and then, until the calls are
// over.
func (s *storm) rage(i int, rng *rand.Rand, over <-chan struct{}) {
	addr := s.addr(i)
	upTo := func(most time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(most))) }
	l := s.open(s.servers[i], addr)
	for {
		select {
		case <-over:
			return
		case <-time.After(upTo(4 * time.Second)):
		}
		switch rng.IntN(4) {
		case 0:
			s.Cut(addr)
		case 1:
			if err := s.client.Reload(mesh.Table{"db": addr}); err != nil {
				s.Error(err)
			}
		case 2:
			_ = l.Close(context.Background())
			time.Sleep(upTo(time.Second))
			l = s.open(s.servers[i], addr)
		case 3:
			s.Freeze(addr, rng.IntN(2) == 0, rng.IntN(2) == 0)
			time.Sleep(upTo(8 * time.Second))
			s.Freeze(addr, false, false)
		}
	}
}

func (s *storm) addr(i int) string { return fmt.Sprintf("db:%d", i+1) }

// M21, M22, M23, F24: in a storm of breaks, moves, leaving listeners and frozen
// networks every call has one outcome, none runs twice, and what the outcome
// says of the execution is true.
func TestEveryCallOfAStormHasOneTrueOutcome(t *testing.T) {
	for seed := range uint64(3) {
		inWorld(t, func(w *world) {
			s := &storm{world: w, verdicts: make(map[mesh.Verdict]int)}
			for i := range s.servers {
				s.servers[i] = w.process("server")
				w.register(s.servers[i], "sdb", s.handle)
			}
			s.client = w.process("client")
			over := make(chan struct{})
			var rage, calls sync.WaitGroup
			for i := range s.servers {
				rage.Go(func() { s.rage(i, rand.New(rand.NewPCG(seed, uint64(i))), over) })
			}
			for caller := range 40 {
				calls.Go(func() {
					rng := rand.New(rand.NewPCG(seed, uint64(caller)+2))
					time.Sleep(time.Duration(rng.IntN(100)) * time.Second)
					s.call(rng, fmt.Sprintf("%d-a", caller))
					s.call(rng, fmt.Sprintf("%d-b", caller))
					s.call(rng, fmt.Sprintf("%d-c", caller))
				})
			}
			calls.Wait()
			close(over)
			rage.Wait()
			t.Logf("seed %d: %v, %d dials, %d links lost", seed, s.verdicts, s.client.Stats().Dials, s.client.Stats().LinksLost)
			if s.verdicts[0] == 0 || s.verdicts[mesh.MaybeExecuted] == 0 || s.client.Stats().LinksLost == 0 {
				t.Error("that was no storm")
			}
		})
	}
}

// M21, M22: a call whose link broke has its outcome, and is not sent again.
func TestCallInFlightIsNotSentAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		var l ledger
		w.serve("server", "db:1", "sdb", func(ctx context.Context, method string, _ []byte) ([]byte, error) {
			l.note(method)
			if method == "HOLD" {
				<-ctx.Done()
			}
			return nil, nil
		}, mesh.Concurrent(2))
		m := lonely(mesh.Table{"db": "db:1"})(w)
		result := make(chan error, 1)
		go func() { _, err := m.Call(w.within(time.Hour), "db@sdb", "HOLD", nil, mesh.WaitUp); result <- err }()
		time.Sleep(10 * time.Second)
		w.Cut("db:1")
		if err := <-result; mesh.VerdictOf(err) != mesh.MaybeExecuted {
			t.Error(err)
		}
		if _, err := m.Call(w.within(time.Minute), "db@sdb", "NEXT", nil); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if l.of("HOLD") != 1 || l.of("NEXT") != 1 {
			t.Errorf("ran %v", l.ran)
		}
	})
}

// M22, M34, F2: a call that stood in the line when the link broke never left; it
// goes by the next link, and runs once.
func TestCallInTheLineGoesByTheNextLink(t *testing.T) {
	inWorld(t, func(w *world) {
		var l ledger
		s := w.process("server", withLimits(mesh.Limits{CallsInFlight: 1}))
		w.open(s, "db:1")
		w.register(s, "sdb", func(ctx context.Context, method string, p []byte) ([]byte, error) {
			l.note(method)
			if method == "HOLD" {
				<-ctx.Done()
			}
			return p, nil
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		results := make(chan error, 2)
		for _, method := range []string{"HOLD", "WAIT"} {
			go func() { _, err := m.Call(w.within(time.Hour), "db@sdb", method, nil); results <- err }()
			synctest.Wait()
		}
		if st := m.Stats(); st.InFlight != 1 || st.Waiting != 1 {
			t.Errorf("%d calls in flight, %d in the line; want one each", st.InFlight, st.Waiting)
		}
		w.Cut("db:1")
		wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken, method: "HOLD"}.check(t, <-results)
		if err := <-results; err != nil {
			t.Error(err)
		}
		if l.of("HOLD") != 1 || l.of("WAIT") != 1 {
			t.Errorf("ran %v", l.ran)
		}
	})
}

// M22, M35: of the calls in flight at a goaway only those that it says were not
// taken, and those refused as draining, are sent again: once, in their order.
func TestOnlyWhatWasNotTakenIsSentAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		var links [][]string // what each link got
		serve := func(p *puppet) {
			n := len(links)
			links = append(links, nil)
			for f := p.next(); f != nil; f = p.next() {
				r := f.GetRequest()
				if r == nil {
					continue
				}
				links[n] = append(links[n], r.GetMethod())
				if n > 0 {
					p.say(replyFrame(f.GetSession(), r.GetMethod()))
				} else if len(links[0]) == 5 {
					break
				}
			}
			if n == 0 { // 3 is refused, 4 and 5 were not taken
				p.say(goawayFrame(3), failureFrame(3, &meshv1.Failure{Reason: meshv1.Reason_REASON_DRAINING}))
				time.Sleep(time.Second)
				p.say(replyFrame(1, "first link"))
			} // the link ends with call 2 unanswered
		}
		w.listenPuppet("db:1", serve)
		m := lonely(mesh.Table{"db": "db:1"})(w)
		type result struct {
			reply string
			err   error
		}
		results := make([]result, 6)
		var wg sync.WaitGroup
		for i := 1; i < len(results); i++ {
			wg.Go(func() {
				b, err := m.Call(w.within(time.Minute), "db@sdb", fmt.Sprint(i), nil)
				results[i] = result{string(b), err}
			})
			synctest.Wait()
		}
		wg.Wait()
		if want := []string{"1", "2", "3", "4", "5"}; !slices.Equal(links[0], want) {
			t.Fatalf("the first link got %v", links[0])
		}
		if len(links) != 2 || !slices.Equal(links[1], []string{"3", "4", "5"}) {
			t.Errorf("later links got %v, want what was not taken", links[1:])
		}
		if results[1] != (result{"first link", nil}) {
			t.Errorf("call 1: %+v", results[1])
		}
		wantError{verdict: mesh.MaybeExecuted, is: mesh.ErrLinkBroken, node: "db", method: "2"}.check(t, results[2].err)
		for i := 3; i < len(results); i++ {
			if results[i] != (result{fmt.Sprint(i), nil}) {
				t.Errorf("call %d: %+v", i, results[i])
			}
		}
	})
}

// M22, M35: a call that was given up is not sent again at a goaway.
func TestCallThatWasGivenUpIsNotSentAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		requests := 0
		w.listenPuppet("db:1", func(p *puppet) {
			for f := p.next(); f != nil; f = p.next() {
				switch {
				case f.GetRequest() != nil:
					requests++
				case f.GetCancel() != nil:
					p.say(goawayFrame(0))
					return
				}
			}
		})
		m := lonely(mesh.Table{"db": "db:1"})(w)
		_, err := m.Call(w.within(time.Second), "db@sdb", "GET", nil)
		wantError{verdict: mesh.MaybeExecuted, is: context.DeadlineExceeded}.check(t, err)
		time.Sleep(time.Minute)
		synctest.Wait()
		if requests != 1 {
			t.Errorf("it was sent %d times", requests)
		}
	})
}
