package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

// profiledContestant is the one whose processor time is told by what it was
// spent on, in a sample after those that count.
const profiledContestant = "mesh"

// whereTime is the least time of that sample: a profile has 100 samples a second
// and processor.
const whereTime = 500 * time.Millisecond

// The classes of processor time.
const (
	whereSocket    = "socket"    // in the kernel, reading and writing sockets
	whereScheduler = "scheduler" // waking, parking and finding goroutines, and polling the network
	whereMemory    = "memory"    // allocating and collecting
	whereCopying   = "copying"   // moving and clearing bytes
	whereGRPC      = "grpc"      // in gRPC and HTTP/2
	whereMesh      = "mesh"      // in the mesh's own code
	whereLoad      = "load"      // in bench: its checks, clocks and histograms, and the handler
	whereOther     = "other"
)

var whereClasses = []string{whereSocket, whereScheduler, whereMemory, whereCopying, whereGRPC, whereMesh, whereLoad, whereOther}

// where is processor time by class, in seconds.
type where map[string]float64

func (w where) add(other where) {
	for class, v := range other {
		w[class] += v
	}
}

// String lists the shares.
func (w where) String() string {
	texts := make([]string, len(whereClasses))
	for i, class := range whereClasses {
		texts[i] = fmt.Sprintf("%s %.0f %%", class, 100*w.share(class))
	}
	return strings.Join(texts, ", ")
}

// share is a class's part of all, 0 to 1.
func (w where) share(class string) float64 {
	all := 0.0
	for _, v := range w {
		all += v
	}
	if all == 0 {
		return 0
	}
	return w[class] / all
}

// spotlight profiles this process and sorts the samples.
type spotlight struct{ out bytes.Buffer }

func (s *spotlight) start() error {
	s.out.Reset()
	return pprof.StartCPUProfile(&s.out)
}

func (s *spotlight) stop() (where, error) {
	pprof.StopCPUProfile()
	p, err := profile.Parse(&s.out)
	if err != nil {
		return nil, err
	}
	value := len(p.SampleType) - 1 // the last one is time, in ns
	if value < 0 {
		return nil, errors.New("a profile without samples")
	}
	w := where{}
	for _, sample := range p.Sample {
		w[classOf(stackOf(sample))] += float64(sample.Value[value]) / 1e9
	}
	return w, nil
}

// stackOf lists the functions of a sample, the innermost first.
func stackOf(s *profile.Sample) (stack []string) {
	for _, l := range s.Location {
		for _, line := range l.Line {
			if line.Function != nil {
				stack = append(stack, line.Function.Name)
			}
		}
	}
	return stack
}

// What marks a stack, wherever in it it stands.
var (
	memoryMarks    = []string{"runtime.gcBgMarkWorker", "runtime.mallocgc", "runtime.gcAssistAlloc", "runtime.gcStart", "runtime.bgsweep", "runtime.bgscavenge", "runtime.growslice", "runtime.newstack", "runtime.gcDrain", "runtime.sweepone", "runtime.gcWriteBarrier"}
	schedulerMarks = []string{"runtime.schedule", "runtime.findRunnable", "runtime.mcall", "runtime.park_m", "runtime.ready", "runtime.goready", "runtime.wakep", "runtime.startm", "runtime.stopm", "runtime.netpoll", "runtime.sysmon", "runtime.futex", "runtime.mstart", "runtime.newproc", "runtime.goexit0", "runtime.entersyscall", "runtime.exitsyscall"}
	copyingLeaves  = []string{"runtime.memmove", "runtime.memclrNoHeapPointers", "runtime.memequal", "memeqbody", "runtime.typedmemmove"}
)

// classOf sorts one stack.
func classOf(stack []string) string {
	if len(stack) == 0 {
		return whereOther
	}
	if anyIs(stack, memoryMarks) {
		return whereMemory
	}
	if strings.Contains(stack[0], "syscall") {
		for _, f := range stack {
			if strings.HasPrefix(f, "internal/poll.(*FD).") || strings.HasPrefix(f, "net.(*conn).") {
				return whereSocket
			}
		}
		return whereScheduler
	}
	if strings.HasPrefix(stack[0], "runtime.") && anyIs(stack, schedulerMarks) {
		return whereScheduler
	}
	for _, leaf := range copyingLeaves {
		if stack[0] == leaf {
			return whereCopying
		}
	}
	for _, f := range stack {
		switch {
		case strings.HasPrefix(f, "github.com/meshnode/meshnode/pkg/"), strings.HasPrefix(f, "github.com/meshnode/meshnode/proto/"):
			return whereMesh
		case strings.HasPrefix(f, "google.golang.org/grpc"), strings.HasPrefix(f, "golang.org/x/net/"):
			return whereGRPC
		case strings.HasPrefix(f, "main."), strings.HasPrefix(f, "github.com/HdrHistogram/"):
			return whereLoad
		}
	}
	return whereOther
}

func anyIs(stack, marks []string) bool {
	for _, f := range stack {
		for _, mark := range marks {
			if strings.HasPrefix(f, mark) {
				return true
			}
		}
	}
	return false
}

// lookWhere runs the cell's load once more, for the profile of both processes.
func (r *runner) lookWhere(ctx context.Context, c cell, e *entry) error {
	for _, what := range []string{askBegin, askProfile} {
		if _, err := e.server.ask(what); err != nil {
			return err
		}
	}
	var mine spotlight
	if err := mine.start(); err != nil {
		return err
	}
	_, f, err := c.load(ctx, e.bout, max(r.time, whereTime))
	w, stopErr := mine.stop()
	theirs, askErr := e.server.ask(askWhere)
	if err := errors.Join(firstFault(f, err), stopErr, askErr); err != nil {
		return fmt.Errorf("profiling: %w", err)
	}
	w.add(theirs.Where)
	e.score.Where = w
	return nil
}
