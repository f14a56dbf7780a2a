package main

import (
	"fmt"
	"slices"
	"strings"
)

// addCells adds the blocks of cells.
func (d *document) addCells(r *results) {
	d.blocks["run"] = func() string {
		return machineTable(r.Machine, []string{"revision", r.Revision},
			[]string{"run", fmt.Sprintf("%s, %d rounds of %s, %s; `bench %s`", r.When.Format("2006-01-02 15:04 MST"), r.Rounds, r.SampleTime, r.Took, strings.Join(r.Command, " "))})
	}
	d.blocks["goals"] = func() string { return goalTable(goalsOf(r)) }
	d.blocks["closed"] = func() string { return d.closed(r) }
	d.blocks["one-caller"] = func() string {
		cells := cellsOf(r, func(c *cellResult) bool { return c.Kind == kindClosed && c.Callers == 1 })
		return figureTable(r, cells, func(c *cellResult) string { return bytesText(c.Payload) }, "payload", mP50, mP99) + d.image("one-caller", "One caller: p50 of a call")
	}
	d.blocks["open"] = func() string {
		cells := cellsOf(r, func(c *cellResult) bool { return c.Kind == kindOpen || c.Kind == kindOpenSame })
		return figureTable(r, cells, func(c *cellResult) string { return "`" + c.Name + "`" }, "cell", mP50, mP99) +
			d.image("open-same-64B", "p99 at the same rate for all, 64 B") + d.image("open-64B", "p99 at a share of the own rate, 64 B")
	}
	d.blocks["push"] = func() string {
		cells := cellsOf(r, func(c *cellResult) bool { return c.Kind == kindPush })
		return figureTable(r, cells, func(c *cellResult) string { return fmt.Sprintf("%s, %d senders", bytesText(c.Payload), c.Callers) }, "pushes a second", mRate) + d.image("push", "Pushes a second")
	}
	d.blocks["mix"] = func() string {
		cells := cellsOf(r, func(c *cellResult) bool { return c.Kind == kindMix })
		return figureTable(r, cells, func(c *cellResult) string { return "`" + c.Name + "`" }, "cell", mAloneP99, mP99, mGrowth, mLargeMBps) +
			d.image("mix-small", "Small calls beside large ones") + d.image("mix-large", "Large calls beside small ones")
	}
	d.blocks["where"] = func() string { return whereTable(r) }
	d.blocks["failed"] = func() string { return failedList(r) }
}

func cellsOf(r *results, wanted func(*cellResult) bool) (cells []*cellResult) {
	for _, c := range r.Cells {
		if wanted(c) {
			cells = append(cells, c)
		}
	}
	return cells
}

// closed is a table and a chart for each payload: calls a second.
func (d *document) closed(r *results) string {
	var b strings.Builder
	var sizes []int
	for _, c := range r.Cells {
		if c.Kind == kindClosed && !slices.Contains(sizes, c.Payload) {
			sizes = append(sizes, c.Payload)
		}
	}
	for _, size := range sizes {
		cells := cellsOf(r, func(c *cellResult) bool { return c.Kind == kindClosed && c.Payload == size })
		fmt.Fprintf(&b, "**%s each way**, calls a second\n\n", bytesText(size))
		b.WriteString(figureTable(r, cells, func(c *cellResult) string { return fmt.Sprint(c.Callers) }, "callers", mRate))
		b.WriteString(d.image("closed-"+bytesText(size), "Calls a second, "+bytesText(size)) + "\n")
	}
	if len(sizes) == 0 {
		return "Not measured in this run."
	}
	return b.String()
}

// figureTable has a line for each cell and metric, a column for each contestant,
// and the mesh's ratios.
func figureTable(r *results, cells []*cellResult, name func(*cellResult) string, title string, metrics ...string) string {
	if len(cells) == 0 {
		return "Not measured in this run.\n"
	}
	head := []string{title}
	if len(metrics) > 1 {
		head = append(head, "figure")
	}
	for _, s := range cells[0].Scores {
		head = append(head, s.Name)
	}
	rows := [][]string{append(head, "mesh / wire", "/ mailbox", "/ best peer")}
	for _, c := range cells {
		for _, k := range metrics {
			line := []string{name(c)}
			if len(metrics) > 1 {
				line = append(line, figureText(k))
			}
			rows = append(rows, append(line, figureLine(c, k)...))
		}
	}
	return markdown(rows)
}

func figureLine(c *cellResult, metric string) (line []string) {
	ratios := []string{"-", "-", "-"}
	for _, s := range c.Scores {
		v, has := s.Median[metric]
		switch {
		case s.Errors > 0:
			line = append(line, "failed")
		case !has:
			line = append(line, "-")
		default:
			line = append(line, numberText(v))
		}
		if s.Name == profiledContestant {
			ratios = []string{ratioText(s, toWire, metric), ratioText(s, toMailbox, metric), ratioText(s, toPeer, metric)}
		}
	}
	return append(line, ratios...)
}

// figureText is the name of a metric, with its unit.
func figureText(metric string) string {
	switch metric {
	case mAloneP99:
		return "p99 µs alone"
	case mGrowth:
		return "p99 / alone"
	case mLargeMBps:
		return "large MB/s"
	}
	return metricText(metric) + " µs"
}

// whereTable tells what processor time was spent on, cell by cell.
func whereTable(r *results) string {
	rows := [][]string{append([]string{"cell", "CPU µs"}, whereClasses...)}
	for _, c := range r.Cells {
		for _, s := range c.Scores {
			if s.Where == nil {
				continue
			}
			line := []string{"`" + c.Name + "`", "-"}
			if cpu, has := s.Median[mCPU]; has {
				line[1] = numberText(cpu)
			}
			for _, class := range whereClasses {
				line = append(line, fmt.Sprintf("%.0f %%", 100*s.Where.share(class)))
			}
			rows = append(rows, line)
		}
	}
	return markdown(rows)
}

// failedList names who failed and who took no part, and why.
func failedList(r *results) string {
	var b strings.Builder
	for _, c := range r.Cells {
		for _, s := range c.Scores {
			if s.Errors > 0 {
				fmt.Fprintf(&b, "- `%s`: %s failed: %s\n", c.Name, s.Name, strings.Join(s.ErrorTexts, "; "))
			} else if s.Skipped != "" {
				fmt.Fprintf(&b, "- `%s`: %s takes no part: %s\n", c.Name, s.Name, s.Skipped)
			}
		}
	}
	if b.Len() == 0 {
		return "Everyone took part in every cell, without an error."
	}
	return b.String()
}
