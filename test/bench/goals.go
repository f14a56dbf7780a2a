package main

import (
	"fmt"
	"io"
)

// goal is one figure that issue 3 asks for.
type goal struct {
	text  string
	value float64
	bound float64
	atMin bool // value must be at least bound; otherwise at most
}

func (g goal) met() bool {
	if g.atMin {
		return g.value >= g.bound
	}
	return g.value <= g.bound
}

// goals collects those that the results can tell about.
type goals struct {
	r   *results
	all []goal
}

// compare asks that metric of contestant in a cell is at least (or at most)
// bound times that of another.
func (g *goals) compare(cell, who, metric, other string, bound float64) {
	a, b := g.r.value(cell, who, metric), g.r.value(cell, other, metric)
	if a == 0 || b == 0 {
		return
	}
	g.all = append(g.all, goal{fmt.Sprintf("%s: %s of %s to that of %s", cell, metricText(metric), who, other), a / b, bound, !lowerIsBetter(metric)})
}

func (g *goals) ahead(cell, metric string) {
	for _, c := range contestants {
		if c.group == groupPeer {
			g.compare(cell, "mesh", metric, c.name, 1)
		}
	}
}

func closedName(size, callers int) string {
	return fmt.Sprintf("%s/%s/%d", kindClosed, bytesText(size), callers)
}

func goalsOf(r *results) []goal {
	g := &goals{r: r}
	for _, n := range []int{16, 64, 256, 1024} {
		g.ahead(closedName(64, n), mRate)
		g.ahead(closedName(1<<10, n), mRate)
		g.compare(closedName(1<<10, n), "mesh", mRate, "wire-mailbox", 0.8)
	}
	g.compare(closedName(64, 64), "mesh", mRate, "grpc-unary", 5)
	g.compare(closedName(64, 1024), "mesh", mRate, "grpc-unary", 5)
	g.compare(closedName(64, 64), "mesh", mRate, "wire", 0.8)
	g.compare(closedName(64, 1024), "mesh", mRate, "wire", 0.6)
	for _, size := range []int{16 << 10, 256 << 10, 4 << 20} {
		for _, n := range []int{16, 64, 256, 1024} {
			g.ahead(closedName(size, n), mRate)
			g.compare(closedName(size, n), "mesh", mRate, "wire-mailbox", 0.8)
		}
	}
	for _, peer := range []string{"grpc-unary", "nats", "protoactor"} {
		g.compare(closedName(64, 1), "mesh", mP50, peer, 1)
		g.compare(closedName(64, 1), "mesh", mP99, peer, 1)
	}
	g.compare(closedName(64, 1), "mesh", mP50, "wire", 1.25)
	for _, n := range []int{1, 64} {
		g.compare(fmt.Sprintf("push/64B/%d", n), "mesh", mRate, "wire", 0.5)
		g.compare(fmt.Sprintf("push/64B/%d", n), "mesh", mRate, "nats", 2)
		g.compare(fmt.Sprintf("push/1KiB/%d", n), "mesh", mRate, "nats", 1)
	}
	g.compare(closedName(64, 64), "mesh-stub", mRate, "mesh", 1/1.3)
	for _, where := range []string{"same", "other"} {
		if v := r.value("mix/"+where, "mesh", mGrowth); v > 0 {
			g.all = append(g.all, goal{fmt.Sprintf("mix/%s: p99 of small calls of mesh to that without the large ones", where), v, 3, false})
		}
		g.compare("mix/"+where, "mesh", mLargeMBps, "wire", 0.6)
	}
	g.compare("open-same/64B/60", "mesh", mP99, "grpc-unary", 1)
	return g.all
}

// printGoals tells which of issue 3's goals this run met. It judges nothing
// that was not measured.
func printGoals(w io.Writer, r *results) { printGoalList(w, goalsOf(r)) }

func printGoalList(w io.Writer, all []goal) {
	if len(all) == 0 {
		return
	}
	met := 0
	_, _ = fmt.Fprintf(w, "\ngoals of issue 3\n")
	for _, g := range all {
		sign, mark := "<=", "missed"
		if g.atMin {
			sign = ">="
		}
		if g.met() {
			mark = "met"
			met++
		}
		_, _ = fmt.Fprintf(w, "  %-6s  %6.2f %s %.2f  %s\n", mark, g.value, sign, g.bound, g.text)
	}
	_, _ = fmt.Fprintf(w, "  %d of %d met\n", met, len(all))
}
