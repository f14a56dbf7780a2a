package file

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// One file over time, for the rule of M3: same content for 100 ms.
func TestSettle(t *testing.T) {
	s := settle{after: 100 * time.Millisecond}
	start := time.Now()
	for i, step := range []struct {
		at   int // ms
		key  string
		take bool
		wait int // ms
		bad  bool
	}{
		{at: 0, key: "a", wait: 100},
		{at: 40, key: "a", wait: 60},
		{at: 99, key: "a", wait: 1},
		{at: 100, key: "a", take: true, wait: 2000},
		{at: 5000, key: "a", wait: 2000},
		// A change that does not last, and one that goes on changing.
		{at: 5010, key: "half", wait: 100},
		{at: 5020, key: "a", wait: 2000},
		{at: 5030, key: "half", wait: 100},
		{at: 5130, key: "b", wait: 100},
		{at: 5200, key: "c", wait: 100},
		{at: 5301, key: "c", take: true, wait: 2000},
		// A bad content is told once; then what was good before is nothing new.
		{at: 6000, key: "bad", wait: 100},
		{at: 6100, key: "bad", take: true, wait: 2000, bad: true},
		{at: 6200, key: "bad", wait: 2000},
		{at: 7000, key: "c", wait: 100},
		{at: 7100, key: "c", wait: 2000},
		{at: 8000, key: "bad", wait: 100},
		{at: 8100, key: "bad", take: true, wait: 2000, bad: true},
		{at: 9000, key: "a", wait: 100},
		{at: 9999, key: "a", take: true, wait: 2000},
	} {
		take, wait := s.see(step.key, start.Add(time.Duration(step.at)*time.Millisecond))
		if take != step.take || wait != time.Duration(step.wait)*time.Millisecond {
			t.Errorf("step %d, %s at %d ms: take %v, wait %v", i, step.key, step.at, take, wait)
		}
		if take && !step.bad {
			s.good = step.key
		}
	}
}

// shell runs a watch in a bubble, where nothing but the test changes the file.
type shell struct {
	notice chan fsnotify.Event
	lost   chan error

	mu    sync.Mutex
	text  string // the content of the file
	reads int    // since text was set
	taken []string
	last  time.Time // when the last was taken
}

func newShell(t *testing.T) *shell {
	s := &shell{text: "a", notice: make(chan fsnotify.Event), lost: make(chan error)}
	w := watch{
		settle: settle{after: defaultSettle},
		read: func() content {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.reads++
			return content{text: []byte(s.text)}
		},
		take: func(c content) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.taken, s.last = append(s.taken, string(c.text)), time.Now()
			return true
		},
		events: s.notice, errors: s.lost,
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *shell) write(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.reads = text, 0
}

// want checks what was taken since the last want, after d has passed.
func (s *shell) want(t *testing.T, d time.Duration, taken ...string) {
	t.Helper()
	time.Sleep(d)
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.taken, taken) {
		t.Fatalf("taken %q, want %q", s.taken, taken)
	}
	s.taken = nil
}

func TestWatchTakesWhatSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShell(t)
		s.want(t, 99*time.Millisecond)
		s.want(t, time.Millisecond, "a")
		// Written in ten pieces, 50 ms each: only the last counts.
		for i := range 10 {
			s.write(strings.Repeat("x", i+1))
			s.notice <- fsnotify.Event{}
			s.want(t, 50*time.Millisecond)
		}
		s.want(t, defaultSettle, "xxxxxxxxxx")
		// Without any notice, and with a lost one.
		s.write("polled")
		s.want(t, pollInterval+defaultSettle, "polled")
		s.write("lost")
		s.lost <- fsnotify.ErrEventOverflow
		s.want(t, gather+defaultSettle, "lost")
		// The notices end: polling goes on, and nothing spins.
		close(s.notice)
		close(s.lost)
		s.write("end")
		s.want(t, pollInterval+defaultSettle, "end")
		if s.reads > 5 {
			t.Errorf("read %d times", s.reads)
		}
	})
}

// A directory in which something else changes all the time (M3, F26): the table
// is taken when it settled all the same, and not read at every notice.
func TestWatchWithManyNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShell(t)
		s.want(t, time.Second, "a")
		s.write("b")
		changed := time.Now()
		for range 1000 {
			s.notice <- fsnotify.Event{}
			time.Sleep(time.Millisecond)
		}
		s.want(t, 0, "b")
		if d := s.last.Sub(changed); d > defaultSettle+2*gather {
			t.Errorf("taken after %v", d)
		}
		if s.reads > 250 {
			t.Errorf("read %d times", s.reads)
		}
	})
}
