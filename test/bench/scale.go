package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
)

// study asks what something costs as there is more of it. Each of its points, a
// variant at a size, runs in a process of its own, so that none inherits the
// memory of another.
type study struct {
	name, about string
	unit        string // what a size counts
	sizes       []int
	quick       []int // the sizes of -quick; none: the first and the last
	variants    []variant
	columns     []column
	charts      []scaleChart
	seconds     float64 // of a point, for the estimate
	files       int     // open files for one of size
}

// variant is one way of doing it: ours, or a control beside it.
type variant struct {
	name, about string
	sizes       []int // where they are other than the study's
	env         []string
	run         func(ctx context.Context, size int) (metrics, error)
}

// scaleChart draws figures of a study over its sizes.
type scaleChart struct {
	name, title, about, yTitle string
	lines                      []scaleLine
	linear                     bool // the vertical axis; otherwise it is logarithmic
}

type scaleLine struct{ name, variant, metric string }

// The metrics that only studies have. Sizes are bytes.
const (
	mMemory     = "memory_bytes"     // heap in use and stacks, of one, when garbage is gone
	mResident   = "resident_bytes"   // of the process as the system counts it, of one
	mGoroutines = "goroutines"       // of one
	mIdleCPU    = "idle_cpu_percent" // of a processor, for a thousand
	mSetup      = "setup_ms"         // for all
)

func allStudies() []study {
	return []study{nodesStudy(), idleStudy(), redialStudy(), reloadStudy(), waitingStudy(), namesStudy(), coresStudy()}
}

// point is one variant of a study at one size.
type point struct {
	study   *study
	variant *variant
	size    int
}

func (p point) String() string {
	return fmt.Sprintf("%s/%s/%d", p.study.name, p.variant.name, p.size)
}

// points lists those of the study that the patterns choose, by size.
func (s *study) points(patterns string, quick bool) ([]point, error) {
	var chosen []point
	for i := range s.variants {
		v := &s.variants[i]
		sizes := s.sizes
		if v.sizes != nil {
			sizes = v.sizes
		}
		for _, n := range sizes {
			p := point{s, v, n}
			ok, err := matches(patterns, p.String())
			if err != nil {
				return nil, err
			}
			if ok && (!quick || patterns != "" || s.isQuick(n)) {
				chosen = append(chosen, p)
			}
		}
	}
	slices.SortStableFunc(chosen, func(a, b point) int { return a.size - b.size })
	return chosen, nil
}

func (s *study) isQuick(size int) bool {
	if s.quick == nil {
		return size == s.sizes[0] || size == s.sizes[len(s.sizes)-1]
	}
	return slices.Contains(s.quick, size)
}

// answer is what the process of a point says on its standard output.
type answer struct {
	Metrics metrics `json:"metrics,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// servePoint is the process of one point: STUDY/VARIANT/SIZE.
func servePoint(ctx context.Context, name, memprofile string) error {
	elements := strings.Split(name, "/")
	if len(elements) != 3 {
		return fmt.Errorf("point %q is not STUDY/VARIANT/SIZE", name)
	}
	size, err := strconv.Atoi(elements[2])
	if err != nil || size < 1 {
		return fmt.Errorf("point %q: %q is not a size", name, elements[2])
	}
	for _, s := range allStudies() {
		for _, v := range s.variants {
			if s.name != elements[0] || v.name != elements[1] {
				continue
			}
			var a answer
			if a.Metrics, err = v.run(ctx, size); err != nil {
				a = answer{Error: err.Error()}
			}
			if err := writeMemory(memprofile); err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(a)
		}
	}
	return fmt.Errorf("there is no point %q: see -scale -list", name)
}

// writeMemory writes a profile of the memory in use, if a file is named.
func writeMemory(file string) error {
	if file == "" {
		return nil
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	runtime.GC()
	return errors.Join(pprof.WriteHeapProfile(out), out.Close())
}

var errFewFiles = errors.New("the limit of open files is too low for it: ulimit -n")
