package main

import (
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

// Every variant of every study answers at its smallest size, in a process of
// its own, with every figure that its table and charts show of it.
func TestEveryPointIsRight(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	var studies []chosenStudy
	for _, s := range allStudies() {
		all, err := s.points("", false)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		first := slices.DeleteFunc(all, func(p point) bool {
			again := seen[p.variant.name]
			seen[p.variant.name] = true
			return again
		})
		studies = append(studies, chosenStudy{&s, first})
	}
	r := &scaleRunner{rounds: 1, progress: io.Discard, results: &scaleResults{}}
	if err := r.run(t.Context(), studies, func(*studyResult) {}); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.results.Studies {
		known := studyNamed(s.Name)
		for _, p := range s.Points {
			if len(p.Errors) > 0 || p.Skipped != "" {
				t.Errorf("%s/%s/%d: %v%s", s.Name, p.Variant, p.Size, p.Errors, p.Skipped)
			}
		}
		for _, c := range known.charts {
			for _, l := range c.lines {
				if !slices.ContainsFunc(s.Points, func(p *pointResult) bool { return p.Variant == l.variant && p.Median[l.metric] != 0 }) {
					t.Errorf("%s: chart %s has no %s of %s", s.Name, c.name, l.metric, l.variant)
				}
			}
		}
		for _, c := range known.columns {
			if !slices.ContainsFunc(s.Points, func(p *pointResult) bool { _, has := p.Median[c.metric]; return has }) {
				t.Errorf("%s: column %q has no figures", s.Name, c.title)
			}
		}
	}
	for name, c := range scaleChartsOf(r.results) {
		if svg := c.svg(); !strings.HasPrefix(svg, "<svg") || strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
			t.Errorf("chart %s is not drawn", name)
		}
	}
}

func TestScaleGoals(t *testing.T) {
	at := func(variant string, size int, k string, v float64) *pointResult {
		return &pointResult{Variant: variant, Size: size, Median: metrics{k: v}}
	}
	r := &scaleResults{Studies: []*studyResult{
		{Name: "idle", Points: []*pointResult{at("mesh", 1000, mMemory, 200<<10), at("grpc", 1000, mMemory, 50<<10)}},
		{Name: "nodes", Points: []*pointResult{at("mesh", 10, mCPU, 10), at("mesh", 1000, mCPU, 22), at("wire", 10, mCPU, 4), at("wire", 1000, mCPU, 8)}},
	}}
	want := []struct {
		value float64
		met   bool
	}{{150, false}, {2.2, false}, {1.1, true}}
	got := scaleGoalsOf(r)
	if len(got) != len(want) {
		t.Fatalf("%d goals: %v", len(got), got)
	}
	for i, g := range got {
		if math.Abs(g.value-want[i].value) > 1e-9 || g.met() != want[i].met {
			t.Errorf("%s: %v, met %v; want %v", g.text, g.value, g.met(), want[i])
		}
	}
}

func TestStacksAreSorted(t *testing.T) {
	for want, stack := range map[string][]string{
		whereSocket:    {"internal/runtime/syscall/linux.Syscall6", "syscall.write", "internal/poll.(*FD).Write", "net.(*conn).Write", "google.golang.org/grpc/internal/transport.(*bufWriter).Flush"},
		whereScheduler: {"runtime.futex", "runtime.notesleep", "runtime.stopm", "runtime.findRunnable", "runtime.schedule"},
		whereMemory:    {"runtime.memclrNoHeapPointers", "runtime.mallocgcLarge", "runtime.mallocgc", "runtime.makeslice", "github.com/meshnode/meshnode/pkg/channel.x"},
		whereCopying:   {"runtime.memmove", "github.com/meshnode/meshnode/pkg/channel.(*batch).add"},
		whereMesh:      {"runtime.mapaccess2_fast64", "github.com/meshnode/meshnode/pkg/channel.(*outlet).answer"},
		whereGRPC:      {"runtime.chansend", "google.golang.org/grpc/internal/transport.(*controlBuffer).put"},
		whereLoad:      {"time.Now", "main.(*gate).loop"},
		whereOther:     {"runtime.asyncPreempt"},
	} {
		if got := classOf(stack); got != want {
			t.Errorf("%v is %s, not %s", stack, got, want)
		}
	}
}

func TestPointsAreChosen(t *testing.T) {
	s := idleStudy()
	for patterns, want := range map[string]int{"": 8, "idle": 8, "idle/mesh": 3, "idle/*/1000": 2, "nodes": 0} {
		if got, err := s.points(patterns, false); err != nil || len(got) != want {
			t.Errorf("%q: %d points, %v; want %d", patterns, len(got), err, want)
		}
	}
	if got, _ := s.points("", true); len(got) != 4 {
		t.Errorf("quick: %d points", len(got))
	}
}
