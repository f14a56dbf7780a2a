package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// column is one figure of a table.
type column struct {
	title  string
	metric string
	// plus is added to it behind a '+'.
	plus string
}

var columns = map[string][]column{
	kindClosed:   {{"calls/s", mRate, ""}, {"MB/s", mMBps, ""}, {"p50 µs", mP50, ""}, {"p99", mP99, ""}, {"p99.9", mP999, ""}, {"CPU µs cli+srv", mClientCPU, mServerCPU}, {"allocs cli+srv", mClientMem, mServerMem}},
	kindOpen:     {{"offered/s", mOffered, ""}, {"calls/s", mRate, ""}, {"p50 µs", mP50, ""}, {"p90", mP90, ""}, {"p99", mP99, ""}, {"p99.9", mP999, ""}, {"max", mMax, ""}, {"pacer p99", mLag, ""}},
	kindPush:     {{"pushes/s", mRate, ""}, {"MB/s", mMBps, ""}, {"CPU µs cli+srv", mClientCPU, mServerCPU}, {"allocs cli+srv", mClientMem, mServerMem}},
	kindMix:      {{"small/s", mSmallRate, ""}, {"p50 µs", mP50, ""}, {"p99", mP99, ""}, {"p99 alone", mAloneP99, ""}, {"growth", mGrowth, ""}, {"large MB/s", mLargeMBps, ""}, {"large p50 µs", mLargeP50, ""}},
	kindOpenSame: nil, // as kindOpen
}

// columnsOf also tells the metrics of which ratios are shown.
func columnsOf(c *cellResult) (cols []column, ratios []string) {
	switch {
	case c.Kind == kindOpenSame:
		return columns[kindOpen], []string{c.Headline}
	case c.Kind == kindMix:
		return columns[kindMix], []string{mP99, mLargeMBps}
	case c.Kind == kindClosed || c.Kind == kindPush:
		return columns[c.Kind], []string{c.Headline, mCPU}
	}
	return columns[c.Kind], []string{c.Headline}
}

// printCell prints the medians of a cell and the ratios.
func printCell(w io.Writer, c *cellResult) {
	_, _ = fmt.Fprintf(w, "\n%s: %s; load average %.1f\n", c.Name, c.About, c.LoadAverage)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	cols, ratios := columnsOf(c)
	head := []string{"contestant"}
	for _, col := range cols {
		head = append(head, col.title)
	}
	head = append(head, "spread")
	for _, k := range ratios {
		for _, to := range []string{"wire", "mailbox", "peer"} {
			head = append(head, metricText(k)+"/"+to)
		}
	}
	row(t, head)
	for _, s := range c.Scores {
		if s.Skipped == "" {
			row(t, scoreRow(s, cols, ratios))
		}
	}
	_ = t.Flush()
	for _, s := range c.Scores {
		if s.Where != nil {
			_, _ = fmt.Fprintf(w, "  processor time of %s: %s\n", s.Name, s.Where)
		}
		if s.Skipped != "" {
			_, _ = fmt.Fprintf(w, "  %s takes no part: %s\n", s.Name, s.Skipped)
		}
		if s.Errors > 0 {
			_, _ = fmt.Fprintf(w, "  FAILED %s: %d errors: %s\n", s.Name, s.Errors, strings.Join(s.ErrorTexts, "; "))
		}
	}
}

func scoreRow(s *score, cols []column, ratios []string) []string {
	r := []string{s.Name}
	for _, col := range cols {
		text := numberText(s.Median[col.metric])
		if col.plus != "" {
			text += "+" + numberText(s.Median[col.plus])
		}
		r = append(r, text)
	}
	r = append(r, fmt.Sprintf("%.0f%%", 100*s.Spread))
	for _, k := range ratios {
		for _, to := range []string{toWire, toMailbox, toPeer} {
			r = append(r, ratioText(s, to, k))
		}
	}
	return r
}

// row writes cells; the first is set to the left.
func row(t *tabwriter.Writer, cells []string) {
	_, _ = fmt.Fprintf(t, "  %-16s\t%s\t\n", cells[0], strings.Join(cells[1:], "\t"))
}

func ratioText(s *score, to, metric string) string {
	if s.Errors > 0 {
		return "FAILED"
	}
	v, ok := s.Ratios[to][metric]
	if !ok {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

func metricText(metric string) string {
	if metric == mCPU {
		return "CPU"
	}
	return strings.TrimSuffix(metric, "_us")
}

// numberText is short: 1234567 is 1.23M.
func numberText(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 1e5:
		return fmt.Sprintf("%.0fk", v/1e3)
	case v >= 1e4:
		return fmt.Sprintf("%.1fk", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// printSummary prints the headline of every cell, a line each.
func printSummary(w io.Writer, r *results) {
	if len(r.Cells) == 0 {
		return
	}
	_, _ = fmt.Fprintf(w, "\nsummary: medians of %d rounds of %s; rates: more is better, times (µs): less is better\n", r.Rounds, r.SampleTime)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := []string{"cell", "figure"}
	for _, s := range r.Cells[0].Scores {
		head = append(head, s.Name)
	}
	row(t, append(head, "mesh/wire", "mesh/mailbox", "mesh/peer"))
	for _, c := range r.Cells {
		for _, k := range summarised(c) {
			cells := []string{c.Name, metricText(k)}
			ratios := []string{"-", "-", "-"}
			for _, s := range c.Scores {
				switch {
				case s.Skipped != "":
					cells = append(cells, "-")
				case s.Errors > 0:
					cells = append(cells, "FAILED")
				default:
					cells = append(cells, numberText(s.Median[k]))
				}
				if s.Name == "mesh" {
					ratios = []string{ratioText(s, toWire, k), ratioText(s, toMailbox, k), ratioText(s, toPeer, k)}
				}
			}
			row(t, append(cells, ratios...))
		}
	}
	_ = t.Flush()
}

func summarised(c *cellResult) []string {
	switch {
	case c.Kind == kindMix:
		return []string{mP99, mGrowth, mLargeMBps}
	case c.Kind == kindClosed && c.Headline != mRate:
		return []string{mP50, mP99}
	}
	return []string{c.Headline}
}
