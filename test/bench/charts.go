package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// writeCharts draws what the results have cells for, and returns how many.
func writeCharts(dir string, r *results) (n int, err error) {
	for name, c := range chartsOf(r) {
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), []byte(c.svg()), 0o644); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// bar is one category: a metric of a cell.
type bar struct {
	name, metric string
	cell         *cellResult
}

func chartsOf(r *results) map[string]chart {
	charts := map[string]chart{}
	groups := map[string][]bar{}
	var one, pushed, small, large []bar
	for _, c := range r.Cells {
		switch c.Kind {
		case kindClosed:
			if c.Callers == 1 {
				one = append(one, bar{bytesText(c.Payload), mP50, c})
			}
			name := "closed-" + bytesText(c.Payload)
			groups[name] = append(groups[name], bar{strconv.Itoa(c.Callers), mRate, c})
		case kindOpen, kindOpenSame:
			name := c.Kind + "-" + bytesText(c.Payload)
			groups[name] = append(groups[name], bar{fmt.Sprintf("%d %%", c.Percent), mP99, c})
		case kindPush:
			pushed = append(pushed, bar{fmt.Sprintf("%s, %d senders", bytesText(c.Payload), c.Callers), mRate, c})
		case kindMix:
			small = append(small, bar{"alone", mAloneP99, c}, bar{c.Name, mP99, c})
			large = append(large, bar{c.Name, mLargeMBps, c})
		}
	}
	for name, bars := range groups {
		c := bars[0].cell
		if c.Kind == kindClosed {
			charts[name] = chart{title: "Calls a second, " + bytesText(c.Payload) + " each way", yTitle: "calls a second", about: "closed loop, by callers; one link, two processes, loopback", lines: len(bars) > 1}.with(r, bars)
			continue
		}
		whose := "its own closed-loop rate"
		if c.Kind == kindOpenSame {
			whose = "the closed-loop rate of " + sameAs + " (the same calls a second for all)"
		}
		charts[name] = chart{title: "p99 at a fixed rate, " + bytesText(c.Payload), yTitle: "p99, µs (log)", about: "open loop without coordinated omission, at a share of " + whose, lines: len(bars) > 1, log: true}.with(r, bars)
	}
	add := func(name string, c chart, bars []bar) {
		if len(bars) > 0 {
			charts[name] = c.with(r, bars)
		}
	}
	add("one-caller", chart{title: "One caller: p50 of a call", yTitle: "p50, µs (log)", about: "closed loop, by payload", lines: len(one) > 1, log: true}, one)
	add("push", chart{title: "Pushes a second", yTitle: "pushes a second (log)", about: "to the receiver's handler; grpc-unary has none", log: true}, pushed)
	add("mix-small", chart{title: "Small calls beside large ones: p99", yTitle: "p99, µs (log)", about: "16 callers of 64 B, alone and while 4 callers move 16 MiB messages to the same or another target", log: true}, small)
	add("mix-large", chart{title: "Large calls beside small ones", yTitle: "request bytes, MB a second", about: "4 callers of 16 MiB messages, echoed, while 16 callers move 64 B"}, large)
	return charts
}

// with fills in the figures; what failed has none.
func (c chart) with(r *results, bars []bar) chart {
	for _, b := range bars {
		c.categories = append(c.categories, b.name)
	}
	for _, known := range contestants {
		if r.Contestants[known.name] == "" {
			continue
		}
		s, some := series{name: known.name, colour: colours[known.name]}, false
		for _, b := range bars {
			v := b.cell.median(known.name)[b.metric]
			s.values = append(s.values, v)
			some = some || v > 0
		}
		if some {
			c.series = append(c.series, s)
		}
	}
	return c
}
