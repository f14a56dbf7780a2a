package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// render rewrites, in a Markdown file, what stands between
//
//	<!-- bench: NAME -->
//	<!-- /bench -->
//
// by the tables of results.json and scale.json in dir, and draws their charts
// into the directory that is named after the file. One of the two may be
// missing: its blocks stay as they are.
func render(file, dir string, w io.Writer) error {
	var res results
	var scale scaleResults
	hasCells, err := readJSON(filepath.Join(dir, "results.json"), &res)
	if err != nil {
		return err
	}
	hasScale, err := readJSON(filepath.Join(dir, "scale.json"), &scale)
	if err != nil {
		return err
	}
	if !hasCells && !hasScale {
		return fmt.Errorf("%s has neither results.json nor scale.json: run bench first, or name another directory with -out", dir)
	}
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	charts := strings.TrimSuffix(file, filepath.Ext(file))
	d := document{charts: filepath.Base(charts), blocks: map[string]func() string{}}
	if hasCells {
		d.addCells(&res)
	}
	if hasScale {
		d.addScale(&scale)
	}
	text, written, err := d.rewrite(string(old))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.MkdirAll(charts, 0o755); err != nil {
		return err
	}
	n := 0
	if hasCells {
		if n, err = writeCharts(charts, &res); err != nil {
			return err
		}
	}
	if hasScale {
		for name, c := range scaleChartsOf(&scale) {
			if err := os.WriteFile(filepath.Join(charts, name+".svg"), []byte(c.svg()), 0o644); err != nil {
				return err
			}
			n++
		}
	}
	_, _ = fmt.Fprintf(w, "%s: %d blocks; %s: %d charts\n", file, written, charts, n)
	return os.WriteFile(file, []byte(text), 0o644)
}

// readJSON returns false where there is no such file.
func readJSON(file string, into any) (bool, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return false, fmt.Errorf("%s: %w", file, err)
	}
	return true, nil
}

// document knows how to write each block.
type document struct {
	charts string // where they lie, as the document says it
	blocks map[string]func() string
}

const (
	blockBegin = "<!-- bench: "
	blockEnd   = "<!-- /bench -->"
)

// rewrite replaces the blocks that are known. Others must be known to exist, so
// that a misspelt one is told.
func (d *document) rewrite(old string) (text string, written int, err error) {
	var b strings.Builder
	for rest := old; ; {
		before, after, found := strings.Cut(rest, blockBegin)
		b.WriteString(before)
		if !found {
			return b.String(), written, nil
		}
		name, after, ok := strings.Cut(after, " -->\n")
		body, after, closed := strings.Cut(after, blockEnd)
		if !ok || !closed || strings.Contains(body, blockBegin) {
			return "", 0, fmt.Errorf("block %.40q does not end with %s", name, blockEnd)
		}
		switch make := d.blocks[name]; {
		case make != nil:
			body = "\n" + strings.TrimSpace(make()) + "\n\n"
			written++
		case !slices.Contains(blockNames(), name):
			return "", 0, fmt.Errorf("there is no block %q: %s", name, strings.Join(blockNames(), ", "))
		}
		b.WriteString(blockBegin + name + " -->\n" + body + blockEnd)
		rest = after
	}
}

// blockNames are all the blocks there may be.
func blockNames() []string {
	d := document{blocks: map[string]func() string{}}
	d.addCells(&results{})
	d.addScale(&scaleResults{})
	return slices.Sorted(maps.Keys(d.blocks))
}

// markdown writes a table: the first column to the left, figures to the right.
func markdown(rows [][]string) string {
	if len(rows) < 2 {
		return "Not measured in this run."
	}
	var b strings.Builder
	for i, r := range rows {
		b.WriteString("| " + strings.Join(r, " | ") + " |\n")
		if i == 0 {
			b.WriteString("|---|" + strings.Repeat("---:|", len(r)-1) + "\n")
		}
	}
	return b.String()
}

func (d *document) image(name, title string) string {
	return fmt.Sprintf("\n![%s](%s/%s.svg)\n", title, d.charts, name)
}

func machineTable(m machine, rows ...[]string) string {
	all := [][]string{{"", ""}, {"processor", fmt.Sprintf("%s, %d cores, GOMAXPROCS %d", m.CPU, m.Cores, m.GOMAXPROCS)}, {"system", strings.TrimSpace(m.OS + " " + firstWords(m.Kernel, 3))}, {"Go", m.Go}}
	for _, name := range slices.Sorted(maps.Keys(m.Modules)) {
		all = append(all, []string{name, m.Modules[name]})
	}
	return strings.Replace(markdown(append(all, rows...)), "---:|", "---|", 1)
}

func firstWords(s string, n int) string {
	words := strings.Fields(s)
	return strings.Join(words[:min(len(words), n)], " ")
}

// addScale adds the blocks of studies.
func (d *document) addScale(r *scaleResults) {
	d.blocks["scale-run"] = func() string {
		return machineTable(r.Machine, []string{"revision", r.Revision}, []string{"run", fmt.Sprintf("%s, %d rounds, %s", r.When.Format("2006-01-02 15:04 MST"), r.Rounds, r.Took)})
	}
	d.blocks["scale-goals"] = func() string { return goalTable(scaleGoalsOf(r)) }
	for _, s := range allStudies() {
		d.blocks["scale-"+s.name] = func() string {
			for _, result := range r.Studies {
				if result.Name == s.name {
					return d.study(s, result)
				}
			}
			return "Not measured in this run."
		}
	}
}

func (d *document) study(s study, result *studyResult) string {
	var b strings.Builder
	for _, v := range s.variants {
		if about := result.Variants[v.name]; about != "" {
			fmt.Fprintf(&b, "- `%s`: %s.\n", v.name, about)
		}
	}
	b.WriteString("\n" + markdown(studyRows(result)))
	for _, p := range result.Points {
		if len(p.Errors) > 0 || p.Skipped != "" {
			fmt.Fprintf(&b, "\n%s/%d: %s%s\n", p.Variant, p.Size, strings.Join(p.Errors, "; "), p.Skipped)
		}
	}
	for _, c := range s.charts {
		b.WriteString(d.image("scale-"+c.name, c.title))
	}
	return b.String()
}

// goalTable says of each goal whether the run met it.
func goalTable(all []goal) string {
	met, rows := 0, [][]string{{"goal", "", "bound", "measured"}}
	for _, g := range all {
		sign, mark := "≤", "**missed**"
		if g.atMin {
			sign = "≥"
		}
		if g.met() {
			mark = "met"
			met++
		}
		rows = append(rows, []string{g.text, mark, fmt.Sprintf("%s %.2f", sign, g.bound), fmt.Sprintf("%.2f", g.value)})
	}
	return fmt.Sprintf("%s\n%d of %d met.", markdown(rows), met, len(all))
}
