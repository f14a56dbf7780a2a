package script_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnode/meshnode/test/memnet"
)

// world is what a script plays in.
type world struct {
	*testing.T
	*memnet.Net
	began     time.Time
	clock     time.Duration // times are told up to so much
	commands  map[string]func(args)
	processes map[string]*process
	beside    sync.WaitGroup // what runs beside the script
	stop      map[string]context.CancelFunc
	handles   map[string]string // variable -> ":HANDLE"

	mu     sync.Mutex
	held   map[string]chan struct{}
	lives  map[string][]uint32 // the incarnations of a process, as they were seen
	events []event
}

// event is a line of output. who is "" where the script waits for it. node is
// that of a watch, which need not see states that passed in the same instant.
type event struct {
	at              time.Time
	who, text, node string
}

// args are the words of a command.
type args []string

func (a *args) next() string {
	word := (*a)[0] // a script with too few words panics: that is told
	*a = (*a)[1:]
	return word
}

func (a *args) duration() time.Duration {
	d, err := time.ParseDuration(a.next())
	if err != nil {
		panic(err)
	}
	return d
}

// name takes the "& NAME" from the end.
func (a *args) name() (name string) {
	if n := len(*a); n >= 2 && (*a)[n-2] == "&" {
		name, *a = (*a)[n-1], (*a)[:n-2]
	}
	return name
}

func newWorld(t *testing.T) *world {
	w := &world{
		T: t, Net: memnet.New(), began: time.Now(), clock: time.Millisecond,
		processes: map[string]*process{}, stop: map[string]context.CancelFunc{}, handles: map[string]string{},
		held: map[string]chan struct{}{}, lives: map[string][]uint32{},
	}
	w.commands = map[string]func(args){
		// process NAME OPTION=VALUE...: starts one, with Options and Limits by their names.
		"process": w.newProcess,
		// kill NAME: its connections break, and it is never heard of again.
		"kill": func(a args) { w.living(a[0]).kill() },
		// stop NAME: Close.
		"stop":    func(a args) { name := a.name(); w.living(a[0]).stop(name) },
		"advance": func(a args) { time.Sleep(a.duration()) },
		// clock D: times are told up to D from here on, because pauses between dials are random.
		"clock": func(a args) { w.clock = a.duration() },
		"cut":   func(a args) { w.Cut(a[0]) },
		// freeze ADDR up|down|both|none: what goes there, and comes from there.
		"freeze": func(a args) { w.Freeze(a[0], a[1] == "up" || a[1] == "both", a[1] == "down" || a[1] == "both") },
		// hang ADDR [off]: dials get no answer.
		"hang":  func(a args) { w.Hang(a[0], len(a) == 1) },
		"dials": func(a args) { w.count(w.Dials(a[0]), "dials", a[1:]) },
		"conns": func(a args) { w.count(w.Conns(a[0]), "connections", a[1:]) },
		// release NAME: lets HOLD NAME and STUCK NAME return.
		"release": func(a args) { close(w.hold(a[0])) },
		"cancel":  func(a args) { w.stop[a[0]]() },
		// repeat N COMMAND: # stands for 1 to N.
		"repeat": func(a args) {
			n, _ := strconv.Atoi(a.next())
			for i := range n {
				w.command(strings.Fields(strings.ReplaceAll(strings.Join(a, " "), "#", strconv.Itoa(i+1))))
				synctest.Wait()
			}
		},
	}
	return w
}

func (w *world) command(a args) {
	name := a.next()
	f := w.commands[name]
	if f == nil {
		p := w.living(name)
		name = a.next()
		f = p.commands[name]
	}
	if f == nil {
		panic("no such command")
	}
	f(a)
}

func (w *world) living(name string) *process {
	if w.processes[name] == nil {
		panic("no such process or command")
	}
	return w.processes[name]
}

var (
	variable   = regexp.MustCompile(`\$[a-z]+`)
	handleText = regexp.MustCompile(`:[0-9a-f]{16}\b`)
	panicID    = regexp.MustCompile(`internal error [0-9A-Z]{12}`)
	// What ends a connection reaches the other end in one of these ways.
	connEnd = regexp.MustCompile(`(broke|lost): (.*(error reading from server|closing transport).*|the node is leaving|nothing arrived .*)`)
)

// play runs one command and returns what came out.
func (w *world) play(line string) string {
	began := time.Now()
	line = variable.ReplaceAllStringFunc(line, func(v string) string { return cmp.Or(w.handles[v[1:]], v) })
	func() {
		defer func() {
			if mistake := recover(); mistake != nil {
				w.Errorf("%s: %v", line, mistake)
			}
		}()
		w.command(strings.Fields(line))
	}()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.SortStableFunc(w.events, func(a, b event) int {
		return cmp.Or(w.told(a).Compare(w.told(b)), cmp.Compare(cmp.Or(a.who, "~"), cmp.Or(b.who, "~")), cmp.Compare(a.node, b.node))
	})
	var out strings.Builder
	for i, e := range w.events {
		passed := func(l event) bool { return l.who == e.who && l.node == e.node && l.at.Equal(e.at) }
		if e.node != "" && slices.ContainsFunc(w.events[i+1:], passed) {
			continue
		}
		text := w.mask(e.text)
		if e.who != "" {
			text = e.who + ": " + text
		}
		switch at := w.told(e).Sub(w.began); {
		case !e.at.After(began):
		case w.clock == time.Millisecond:
			text = fmt.Sprintf("[%s] %s", at, text)
		default:
			text = fmt.Sprintf("[by %s] %s", at, text)
		}
		out.WriteString("  " + strings.ReplaceAll(text, "\n", "\n  ") + "\n")
	}
	w.events = nil
	return out.String()
}

// told is the time of an event as the script tells it.
func (w *world) told(e event) time.Time {
	return w.began.Add((e.at.Sub(w.began) + w.clock - 1).Truncate(w.clock))
}

// mask hides what is random.
func (w *world) mask(text string) string {
	text = handleText.ReplaceAllStringFunc(text, func(handle string) string {
		for _, name := range slices.Sorted(maps.Keys(w.handles)) {
			if w.handles[name] == handle {
				return "$" + name
			}
		}
		return ":HANDLE"
	})
	text = panicID.ReplaceAllString(text, "internal error ID")
	return connEnd.ReplaceAllString(text, "$1: the connection ended")
}

func (w *world) tell(e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.at = time.Now()
	w.events = append(w.events, e)
}

// count tells a number. Where it depends on chance the script says "MIN to MAX".
func (w *world) count(n int, what string, a args) {
	text := fmt.Sprintf("%d %s", n, what)
	if len(a) == 3 {
		low, _ := strconv.Atoi(a[0])
		high, _ := strconv.Atoi(a[2])
		if low <= n && n <= high {
			text = "that is so"
		}
	}
	w.tell(event{text: text})
}

// hold is what handlers wait for by that name.
func (w *world) hold(name string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[name] == nil {
		w.held[name] = make(chan struct{})
	}
	return w.held[name]
}

// run runs f: beside the script where it has a name, else the script waits for it.
func (w *world) run(name string, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	w.beside.Go(func() { defer close(done); f(ctx) })
	w.stop[name] = cancel
	if name != "" {
		return
	}
	select {
	case <-done:
		cancel()
	case <-time.After(10 * time.Minute): // the heartbeats of virtual time would go on for ever
		panic(`not over after 10 minutes: give it a name ("& NAME")`)
	}
}

// end kills what still lives. What happens then is not told any more.
func (w *world) end() {
	for _, p := range w.processes {
		p.kill()
	}
	for _, cancel := range w.stop {
		cancel()
	}
	w.mu.Lock()
	for _, held := range w.held {
		select {
		case <-held:
		default:
			close(held)
		}
	}
	w.mu.Unlock()
	w.beside.Wait()
	time.Sleep(time.Minute) // what gRPC's timers hold
}
