package registry

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// A serial service is compared, step by step, with a model that is a few
// slices: M26 (one at a time, in order, who comes back first, the bound of
// those away), M48, M57, and that no turn is ever lost.

// step is one thing that is done to the service; pick chooses the task.
type step struct {
	kind string
	pick int
	push bool
}

// actor is a task with what the model expects of it and what it saw.
type actor struct {
	job
	id     int
	end    chan bool // true: leave by Goexit
	expect seen
	got    seen

	inRun    bool // the model: Run was called and has not returned
	away     bool // the model: its turn is given away
	mustTake bool // the model: someone owes a Retake
}

type seen struct{ starts, backs, rejects int }

type model struct {
	service   *Service
	waiting   int // limit
	messages  int // limit
	actors    []*actor
	queue     []*actor
	returning []*actor
	holder    *actor
	away      int
	stopped   bool

	wantOrder, gotOrder []int // of starts, by id
}

func TestSerialServiceIsLikeItsModel(t *testing.T) {
	kinds := []string{"put", "put", "put", "yield", "yield", "retake", "retake", "end", "end", "goexit", "remove", "stop"}
	steps := rapid.Custom(func(t *rapid.T) step {
		return step{rapid.SampledFrom(kinds).Draw(t, "kind"), rapid.IntRange(0, 50).Draw(t, "pick"), rapid.Bool().Draw(t, "push")}
	})
	rapid.Check(t, func(rt *rapid.T) {
		// Of its own accord rapid draws mostly short ones.
		length := rapid.SampledFrom([]int{8, 30, 100}).Draw(rt, "length")
		script := rapid.SliceOfN(steps, length, length).Draw(rt, "script")
		waiting := rapid.IntRange(1, 3).Draw(rt, "waiting")
		messages := rapid.IntRange(1, 8).Draw(rt, "messages")
		var fault error
		synctest.Test(t, func(*testing.T) {
			m := &model{waiting: waiting, messages: messages}
			m.service = New(1).NewService(Limits{Waiting: waiting, Messages: messages})
			fault = m.play(script)
		})
		if fault != nil {
			rt.Fatal(fault)
		}
	})
}

// play runs the script, and then whatever is left to its end, so that the
// bubble holds no goroutine.
func (m *model) play(script []step) error {
	var fault error
	for i, st := range script {
		err := m.do(st)
		if err == nil {
			err = m.compare()
		}
		if err != nil {
			fault = fmt.Errorf("step %d, %+v: %w", i, st, err)
			break
		}
	}
	for _, a := range m.actors {
		close(a.end)
	}
	synctest.Wait()
	for _, a := range m.actors {
		if a.mustTake {
			a.Retake()
		}
	}
	synctest.Wait()
	if l := loadOf(m.service); fault == nil && l != (load{}) {
		fault = fmt.Errorf("at the end: load %+v", l)
	}
	return fault
}

func (m *model) do(st step) error {
	switch st.kind {
	case "put":
		return m.put(st.push)
	case "stop":
		if st.pick < 45 { // rarely, or all scripts are short
			return nil
		}
		m.service.Stop()
		m.stopped = true
		for _, a := range m.queue {
			a.expect.rejects++
		}
		m.queue = nil
		return nil
	case "yield":
		if a := m.choose(st, func(*actor) bool { return true }); a != nil {
			return m.yield(a)
		}
	case "retake":
		if a := m.choose(st, func(a *actor) bool { return a.mustTake }); a != nil {
			m.retake(a)
		}
	case "end", "goexit":
		if a := m.choose(st, func(a *actor) bool { return a.inRun }); a != nil {
			m.end(a, st.kind == "goexit")
		}
	case "remove":
		if a := m.choose(st, func(*actor) bool { return true }); a != nil {
			i := slices.Index(m.queue, a)
			if got := m.service.Remove(a); got != (i >= 0) {
				return fmt.Errorf("Remove is %v", got)
			}
			if i >= 0 {
				m.queue = slices.Delete(m.queue, i, i+1)
			}
		}
	}
	return nil
}

func (m *model) choose(st step, fits func(*actor) bool) *actor {
	var from []*actor
	for _, a := range m.actors {
		if fits(a) {
			from = append(from, a)
		}
	}
	if len(from) == 0 {
		return nil
	}
	return from[st.pick%len(from)]
}

func (m *model) put(push bool) error {
	a := &actor{id: len(m.actors), end: make(chan bool, 1)}
	a.Push = push
	a.run = func() {
		a.got.starts++
		m.gotOrder = append(m.gotOrder, a.id) // the turn guards it, so -race tells
		if <-a.end {
			runtime.Goexit()
		}
	}
	a.onReject = func() { a.got.rejects++ }
	m.actors = append(m.actors, a)
	bound := m.messages
	if push {
		bound = (3*m.messages + 3) / 4
	}
	var want error
	switch {
	case m.stopped:
		want = ErrStopped
	case len(m.queue) >= bound:
		want = ErrFull
	default:
		m.queue = append(m.queue, a)
	}
	room := closed(m.service.Room())
	if err := m.service.Put(a); !errors.Is(err, want) {
		return fmt.Errorf("Put is %v, want %v", err, want)
	}
	if push && room == (want == ErrFull) {
		return fmt.Errorf("Room said %v before a push that is %v", room, want)
	}
	m.settle()
	return nil
}

func (m *model) yield(a *actor) error {
	if got := a.Yield(); got != (m.holder == a) {
		return fmt.Errorf("Yield is %v", got)
	}
	if m.holder == a {
		m.holder, a.away, a.mustTake = nil, true, true
		m.away++
		m.settle()
	}
	return nil
}

func (m *model) retake(a *actor) {
	a.mustTake = false
	go func() {
		a.Retake()
		a.got.backs++
	}()
	if !a.away { // it ended meanwhile: returns with nothing
		a.expect.backs++
		return
	}
	m.returning = append(m.returning, a)
	m.settle()
}

func (m *model) end(a *actor, goexit bool) {
	a.end <- goexit
	a.inRun = false
	if m.holder == a {
		m.holder = nil
	}
	if a.away {
		a.away = false
		m.away--
	}
	if i := slices.Index(m.returning, a); i >= 0 {
		m.returning = slices.Delete(m.returning, i, i+1)
		a.expect.backs++
	}
	m.settle()
}

// settle is the rule of M26 in its plainest form.
func (m *model) settle() {
	switch {
	case m.holder != nil:
	case len(m.returning) > 0:
		m.holder, m.returning = m.returning[0], m.returning[1:]
		m.holder.away = false
		m.holder.expect.backs++
		m.away--
	case len(m.queue) > 0 && m.away < m.waiting:
		m.holder, m.queue = m.queue[0], m.queue[1:]
		m.holder.inRun = true
		m.holder.expect.starts++
		m.wantOrder = append(m.wantOrder, m.holder.id)
	}
}

func (m *model) compare() error {
	synctest.Wait()
	want := load{queued: len(m.queue), waiting: m.away}
	if m.holder != nil {
		want.running = 1
	}
	if got := loadOf(m.service); got != want {
		return fmt.Errorf("load is %+v, want %+v", got, want)
	}
	for _, a := range m.actors {
		if a.got != a.expect {
			return fmt.Errorf("task %d saw %+v, want %+v", a.id, a.got, a.expect)
		}
	}
	if !slices.Equal(m.gotOrder, m.wantOrder) {
		return fmt.Errorf("started in the order %v, want %v", m.gotOrder, m.wantOrder)
	}
	return nil
}
