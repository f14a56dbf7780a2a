// Command bench measures pkg/mesh beside what one would take instead: raw TCP,
// grpc-go, NATS and proto.actor. Each contestant is two processes over
// loopback with one link; all run in one go, interleaved, so that their ratios
// hold on a noisy machine. README.md tells more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"
)

type options struct {
	role, cells, contestants, out  string
	cpuprofile, memprofile, render string
	rounds                         int
	time, delay                    time.Duration
	quick, list, scale             bool
}

func main() {
	var o options
	flag.StringVar(&o.role, "role", "client", "client, or what the client starts: server, one contestant's responder; point, one point of a study")
	flag.StringVar(&o.cells, "cells", "", "which cells: patterns, separated by commas (closed, closed/64B/*, mix/same; -scale: nodes, idle/mesh/1000); none: all")
	flag.BoolVar(&o.scale, "scale", false, "instead of the cells: what nodes, links, names and waiting callers cost as there are more of them")
	flag.StringVar(&o.contestants, "contestants", "", "which contestants: patterns, separated by commas (mesh*,wire); none: all")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of every cell, at least 1; results are medians")
	flag.DurationVar(&o.time, "time", 500*time.Millisecond, "time of a contestant in a round, 50ms to 60s; -quick: 250ms")
	flag.DurationVar(&o.delay, "delay", 0, "the round trip of the line between the processes, up to 10s, which a proxy in the client makes; 0: loopback itself")
	flag.StringVar(&o.out, "out", "out", "directory for results.json, table.txt and the charts")
	flag.BoolVar(&o.quick, "quick", false, "few cells and a short time each: about two minutes")
	flag.BoolVar(&o.list, "list", false, "list cells and contestants")
	flag.StringVar(&o.cpuprofile, "cpuprofile", "", "client: directory for CPU profiles of the client and of every server; server: file")
	flag.StringVar(&o.render, "render", "", "run nothing: rewrite the tables in this Markdown file, and the charts beside it, from what -out has")
	flag.StringVar(&o.memprofile, "memprofile", "", "-role point: file for a profile of the memory in use at its end")
	flag.Parse()
	if err := run(o); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	switch {
	case o.render != "":
		return render(o.render, o.out, os.Stdout)
	case o.list && o.scale:
		listStudies(os.Stdout)
		return nil
	case o.list:
		list(os.Stdout)
		return nil
	case o.role == "server":
		return profiled(o.cpuprofile, func() error { return serve(o.contestants) })
	case o.role == "point":
		return profiled(o.cpuprofile, func() error { return servePoint(context.Background(), o.cells, o.memprofile) })
	case o.role == "client" && o.scale:
		return measureScale(o)
	case o.role == "client":
		return measure(o)
	}
	return fmt.Errorf("unknown role %q: client, server or point", o.role)
}

func list(w io.Writer) {
	for _, c := range contestants {
		_, _ = fmt.Fprintf(w, "contestant %-18s %s\n", c.name, c.about)
	}
	for _, c := range allCells() {
		mark := ""
		if c.quick {
			mark = " (quick)"
		}
		_, _ = fmt.Fprintf(w, "cell       %-18s %s%s\n", c.name, c.about, mark)
	}
}

// profiled runs f with a CPU profile, if a file is named.
func profiled(file string, f func() error) (err error) {
	if file == "" {
		return f()
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return f()
}

// measure is the client role.
func measure(o options) error {
	if flagIsUnset("time") && o.quick {
		o.time = 250 * time.Millisecond
	}
	if o.rounds < 1 || o.time < 50*time.Millisecond || o.time > time.Minute {
		return errors.New("give -rounds of 1 or more and a -time from 50ms to 60s")
	}
	if o.delay < 0 || o.delay > 10*time.Second {
		return errors.New("give a -delay from 0 to 10s")
	}
	cells, err := chooseCells(o.cells, o.quick)
	if err != nil {
		return err
	}
	chosen, err := chooseContestants(o.contestants)
	if err != nil {
		return err
	}
	profile := ""
	if o.cpuprofile != "" {
		if o.cpuprofile, err = filepath.Abs(o.cpuprofile); err != nil {
			return err
		}
		profile = filepath.Join(o.cpuprofile, "client.prof")
	}
	for _, dir := range []string{o.out, o.cpuprofile} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	res := newResults(o, chosen)
	r := &runner{rounds: o.rounds, time: o.time, delay: o.delay, profiles: o.cpuprofile, contestants: chosen, progress: os.Stderr, results: res}
	err = profiled(profile, func() error {
		return r.run(ctx, cells, func(c *cellResult) { printCell(os.Stdout, c) })
	})
	res.Took = time.Since(r.begun).Round(time.Second).String()
	err = errors.Join(err, publish(o.out, res))
	if n := res.failures(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d contestants failed in a cell: see FAILED above", n))
	}
	return err
}

func flagIsUnset(name string) bool {
	unset := true
	flag.Visit(func(f *flag.Flag) { unset = unset && f.Name != name })
	return unset
}

func newResults(o options, chosen []contestant) *results {
	res := &results{When: time.Now().UTC().Truncate(time.Second), Command: os.Args[1:], Revision: revision(), Machine: thisMachine(),
		Rounds: o.rounds, SampleTime: o.time.String(), Contestants: map[string]string{}}
	for _, c := range chosen {
		res.Contestants[c.name] = c.about
	}
	return res
}

// publish prints the summary, and writes everything into dir.
func publish(dir string, res *results) error {
	printSummary(os.Stdout, res)
	printGoals(os.Stdout, res)
	table, err := os.Create(filepath.Join(dir, "table.txt"))
	if err != nil {
		return err
	}
	for _, c := range res.Cells {
		printCell(table, c)
	}
	printSummary(table, res)
	printGoals(table, res)
	charts, err := writeCharts(dir, res)
	if err := errors.Join(err, table.Close(), res.write(filepath.Join(dir, "results.json"))); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(os.Stdout, "\n%s: results.json, table.txt and %d charts, after %s\n", dir, charts, res.Took)
	return nil
}
