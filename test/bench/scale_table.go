package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// The metrics of reloadStudy: times of one Reload, in ms.
const (
	mNew       = "new_ms"        // of names that the table did not have
	mSame      = "same_ms"       // of the same names with the same addresses
	mMoved     = "moved_ms"      // of the same names with other addresses, none of them linked
	mNoWait    = "nowaiting_ms"  // of __nowaiting alone
	mOne       = "one_ms"        // of one name of all
	mParse     = "parse_ms"      // of the text, as YAML
	mStats     = "stats_ms"      // of Mesh.Stats
	mBesideP99 = "beside_p99_us" // of calls while one reload follows the other
)

// reloadStudy reloads tables of names that nobody calls, beside calls to
// others.
func reloadStudy() study {
	return study{
		name: "reload", about: "one reload, and calls of 16 callers to a linked node while one reload follows the other", unit: "names",
		sizes: []int{10, 100, 1000, 10_000, 100_000}, quick: []int{10, 10_000}, seconds: 2.2,
		variants: []variant{{name: "mesh", about: "Mesh.Reload of a table with so many names", run: reload}},
		columns:  []column{{"new ms", mNew, ""}, {"same ms", mSame, ""}, {"moved ms", mMoved, ""}, {"nowaiting ms", mNoWait, ""}, {"one name ms", mOne, ""}, {"YAML ms", mParse, ""}, {"Stats ms", mStats, ""}, {"B a name", mMemory, ""}, {"calls' p99 µs", mP99, ""}, {"beside", mBesideP99, ""}},
		charts: []scaleChart{
			{name: "reload", title: "A reload, by names in the table", about: "none of them linked; a file is parsed (YAML) before it is taken", yTitle: "ms (log)", lines: []scaleLine{{"new", "mesh", mNew}, {"same", "mesh", mSame}, {"moved", "mesh", mMoved}, {"nowaiting", "mesh", mNoWait}, {"one name", "mesh", mOne}, {"YAML", "mesh", mParse}}},
			{name: "reload-calls", title: "Calls while one reload follows the other", about: "16 callers of 64 B to a linked node; a reload of all names takes one processor of two", yTitle: "p99, µs (log)", lines: []scaleLine{{"alone", "mesh", mP99}, {"beside", "mesh", mBesideP99}}},
		},
	}
}

func reload(ctx context.Context, n int) (metrics, error) {
	_, addr, err := echoMesh(mesh.Options{Name: "listener"})
	if err != nil {
		return nil, err
	}
	m, err := mesh.New(mesh.Options{Name: "caller"})
	if err != nil {
		return nil, err
	}
	if err := m.Reload(mesh.Table{"linked": addr}); err != nil {
		return nil, err
	}
	if err := ready(ctx, m, []string{"linked"}); err != nil {
		return nil, err
	}
	first, second := tableOf(n, 1), tableOf(n, 2)
	figures, before := metrics{}, measureFootprint()
	if figures[mNew], err = timed(1, func(int) error { return m.Reload(first) }); err != nil {
		return nil, err
	}
	before.put(figures, n)
	for _, x := range []struct {
		metric string
		times  int
		f      func(k int) error
	}{
		{mSame, 5, func(int) error { return m.Reload(first) }},
		{mMoved, 5, func(k int) error { return m.Reload([]mesh.Table{second, first}[k%2]) }},
		{mNoWait, 6, func(k int) error { return m.Reload(mesh.Table{"__nowaiting": k%2 == 0}) }},
		{mOne, 21, func(k int) error {
			return m.Reload(mesh.Table{nodeName(0): []string{"127.0.0.1:1", "127.0.0.1:2"}[k%2]})
		}},
		{mStats, 5, func(int) error { m.Stats(); return nil }},
		{mParse, 3, func(int) error { _, err := mesh.ParseTable(yamlOf(n)); return err }},
	} {
		if figures[x.metric], err = timed(x.times, x.f); err != nil {
			return nil, err
		}
	}
	return figures, reloadBeside(ctx, figures, m, first, second)
}

// reloadBeside measures calls alone, and while one reload follows the other.
func reloadBeside(ctx context.Context, figures metrics, m *mesh.Mesh, first, second mesh.Table) error {
	clients := []client{nodeClient{m, "linked"}}
	alone, err := closedLoop(ctx, clients, 16, 64, 100*time.Millisecond, 300*time.Millisecond)
	if err != nil {
		return err
	}
	var over atomic.Bool
	reloads := make(chan error, 1)
	go func() {
		var err error
		for k := 0; err == nil && !over.Load(); k++ {
			err = m.Reload([]mesh.Table{second, first}[k%2])
		}
		reloads <- err
	}()
	beside, err := closedLoop(ctx, clients, 16, 64, 100*time.Millisecond, 500*time.Millisecond)
	over.Store(true)
	if err := errors.Join(err, <-reloads); err != nil {
		return err
	}
	figures[mP99], figures[mBesideP99] = alone[mP99], beside[mP99]
	return nil
}

func tableOf(n, port int) mesh.Table {
	t := make(mesh.Table, n)
	for i := range n {
		t[nodeName(i)] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	return t
}

func yamlOf(n int) []byte {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s: \"127.0.0.1:1\"\n", nodeName(i))
	}
	return []byte(b.String())
}

// timed is the median time of f in ms.
func timed(times int, f func(k int) error) (float64, error) {
	all := make([]time.Duration, times)
	for k := range all {
		begun := time.Now()
		if err := f(k); err != nil {
			return 0, err
		}
		all[k] = time.Since(begun)
	}
	return milliseconds(medianTime(all)), nil
}
