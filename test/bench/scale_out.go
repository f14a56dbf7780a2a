package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func listStudies(w io.Writer) {
	for _, s := range allStudies() {
		_, _ = fmt.Fprintf(w, "study   %-10s %s\n", s.name, s.about)
		for _, v := range s.variants {
			sizes := s.sizes
			if v.sizes != nil {
				sizes = v.sizes
			}
			_, _ = fmt.Fprintf(w, "variant %-10s %s (%s: %v)\n", s.name+"/"+v.name, v.about, s.unit, sizes)
		}
	}
}

// measureScale runs the studies and writes scale.json, scale.txt and charts.
func measureScale(o options) error {
	if flagIsUnset("rounds") && o.quick {
		o.rounds = 1
	}
	if o.rounds < 1 {
		return errors.New("give -rounds of 1 or more")
	}
	if !flagIsUnset("time") || !flagIsUnset("contestants") || !flagIsUnset("cpuprofile") {
		return errors.New("-time, -contestants and -cpuprofile are for cells; -scale has -cells STUDY/VARIANT/SIZE, -rounds, -quick and -out")
	}
	var chosen []chosenStudy
	for _, s := range allStudies() {
		points, err := s.points(o.cells, o.quick)
		if err != nil {
			return err
		}
		if len(points) > 0 {
			chosen = append(chosen, chosenStudy{&s, points})
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no point matches %q: see -scale -list", o.cells)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	res := &scaleResults{When: time.Now().UTC().Truncate(time.Second), Command: os.Args[1:], Revision: revision(), Machine: thisMachine(), Rounds: o.rounds}
	r := &scaleRunner{rounds: o.rounds, progress: os.Stderr, results: res}
	err := r.run(ctx, chosen, func(s *studyResult) { printStudy(os.Stdout, s) })
	res.Took = time.Since(r.begun).Round(time.Second).String()
	err = errors.Join(err, publishScale(o.out, res))
	if n := res.failures(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d points failed: see FAILED above", n))
	}
	return err
}

// publishScale prints the goals, and writes everything into dir.
func publishScale(dir string, res *scaleResults) error {
	printScaleGoals(os.Stdout, res)
	var text strings.Builder
	for _, s := range res.Studies {
		printStudy(&text, s)
	}
	printScaleGoals(&text, res)
	charts := scaleChartsOf(res)
	err := os.WriteFile(filepath.Join(dir, "scale.txt"), []byte(text.String()), 0o644)
	for name, c := range charts {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name+".svg"), []byte(c.svg()), 0o644))
	}
	b, jsonErr := json.MarshalIndent(res, "", " ")
	if err := errors.Join(err, jsonErr); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "scale.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(os.Stdout, "\n%s: scale.json, scale.txt and %d charts, after %s\n", dir, len(charts), res.Took)
	return nil
}

// studyNamed returns the zero study where there is none of that name any more.
func studyNamed(name string) study {
	for _, s := range allStudies() {
		if s.name == name {
			return s
		}
	}
	return study{}
}

// printStudy prints the medians of a study, a line for each point, by variant.
func printStudy(w io.Writer, s *studyResult) {
	_, _ = fmt.Fprintf(w, "\n%s: %s\n", s.Name, s.About)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	rows := studyRows(s)
	for _, r := range rows {
		row(t, r)
	}
	_ = t.Flush()
	for _, p := range s.Points {
		if p.Skipped != "" {
			_, _ = fmt.Fprintf(w, "  skipped %s/%d: %s\n", p.Variant, p.Size, p.Skipped)
		}
		if len(p.Errors) > 0 {
			_, _ = fmt.Fprintf(w, "  FAILED %s/%d: %s\n", p.Variant, p.Size, strings.Join(p.Errors, "; "))
		}
	}
}

// studyRows are the head and the lines of a study's table.
func studyRows(s *studyResult) [][]string {
	of := studyNamed(s.Name)
	head := []string{"variant", s.Unit}
	for _, c := range of.columns {
		head = append(head, c.title)
	}
	rows := [][]string{head}
	points := slices.Clone(s.Points)
	slices.SortStableFunc(points, func(a, b *pointResult) int { return of.order(a.Variant) - of.order(b.Variant) })
	for _, p := range points {
		if len(p.Median) == 0 {
			continue
		}
		r := []string{p.Variant, fmt.Sprint(p.Size)}
		for _, c := range of.columns {
			v, has := p.Median[c.metric]
			switch {
			case !has:
				r = append(r, "-")
			case strings.Contains(c.title, "KiB") && (c.metric == mMemory || c.metric == mResident):
				r = append(r, numberText(v/(1<<10)))
			default:
				r = append(r, numberText(v))
			}
		}
		rows = append(rows, r)
	}
	return rows
}

func (s *study) order(name string) int {
	return slices.IndexFunc(s.variants, func(v variant) bool { return v.name == name })
}

// scaleChartsOf draws what the results have points for.
func scaleChartsOf(r *scaleResults) map[string]chart {
	charts := map[string]chart{}
	for _, s := range r.Studies {
		sizes := map[int]bool{}
		for _, p := range s.Points {
			sizes[p.Size] = true
		}
		ordered := slices.Sorted(maps.Keys(sizes))
		for _, sc := range studyNamed(s.Name).charts {
			c := chart{title: sc.title, about: sc.about, yTitle: sc.yTitle, lines: len(ordered) > 1, log: !sc.linear}
			for _, n := range ordered {
				c.categories = append(c.categories, fmt.Sprintf("%s %s", tickText(float64(n)), s.Unit))
			}
			for i, l := range sc.lines {
				one, some := series{name: l.name, colour: seriesColour(l.name, i)}, false
				for _, n := range ordered {
					v := r.value(s.Name, l.variant, n, l.metric)
					one.values = append(one.values, v)
					some = some || v > 0
				}
				if some {
					c.series = append(c.series, one)
				}
			}
			if len(c.series) > 0 {
				charts["scale-"+sc.name] = c
			}
		}
	}
	return charts
}

// palette is for series that are no contestants.
var palette = []string{"#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

func seriesColour(name string, i int) string {
	if c := colours[name]; c != "" {
		return c
	}
	return palette[i%len(palette)]
}

// scaleGoalsOf are the figures of issue 3 about scale, as far as they were
// measured.
func scaleGoalsOf(r *scaleResults) (all []goal) {
	for _, n := range []int{10, 100, 1000} {
		ours, theirs := r.value("idle", "mesh", n, mMemory), r.value("idle", "grpc", n, mMemory)
		if ours > 0 && theirs > 0 {
			all = append(all, goal{fmt.Sprintf("idle, %d links: KiB of a link beyond those of a grpc-go connection with an idle stream", n), (ours - theirs) / (1 << 10), 100, false})
		}
	}
	grown := func(variant string) float64 {
		few, many := r.value("nodes", variant, 10, mCPU), r.value("nodes", variant, 1000, mCPU)
		if few == 0 {
			return 0
		}
		return many / few
	}
	add := func(text string, value float64) {
		if value > 0 {
			all = append(all, goal{"nodes: processor time of a call with 1,000 to that with 10, " + text, value, 1.2, false})
		}
	}
	add(fmt.Sprintf("%d callers a link", perLink), grown("mesh"))
	add("10 of them busy", grown("mesh-10-busy"))
	for _, control := range []string{"wire", "grpc-unary"} {
		if g := grown(control); g > 0 {
			add(fmt.Sprintf("%d callers a link, by the same of %s", perLink, control), grown("mesh")/g)
		}
	}
	return all
}

func printScaleGoals(w io.Writer, r *scaleResults) { printGoalList(w, scaleGoalsOf(r)) }
