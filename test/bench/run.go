package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"
)

// runner runs cells and tells its progress.
type runner struct {
	rounds      int
	time        time.Duration // of a sample
	delay       time.Duration // of the line, a round trip; 0: none
	profiles    string        // a directory; "": none
	contestants []contestant
	progress    io.Writer
	results     *results
	begun       time.Time
}

// samplesOverhead is what a contestant costs in a cell beside its samples, for
// the estimate: starting, linking, warming up, collecting garbage.
const samplesOverhead = 350 * time.Millisecond

// sampleTime is how long one sample of a cell takes.
func (r *runner) sampleTime(c cell) time.Duration {
	if c.kind == kindMix {
		return r.time/2 + 2*r.time
	}
	return r.time
}

// warmTime is how long a contestant warms up in a cell.
func (r *runner) warmTime() time.Duration { return max(r.time/4, 100*time.Millisecond) }

func (r *runner) estimate(cells []cell) (d time.Duration) {
	for _, c := range cells {
		for _, who := range r.contestants {
			if c.excludes(who) == "" {
				d += time.Duration(r.rounds)*r.sampleTime(c) + r.warmTime() + samplesOverhead
			}
			if who.name == profiledContestant && r.profiles == "" {
				d += r.sampleTime(c)
			}
		}
	}
	return d
}

func (r *runner) say(format string, args ...any) { _, _ = fmt.Fprintf(r.progress, format, args...) }

func (r *runner) run(ctx context.Context, cells []cell, done func(*cellResult)) error {
	r.begun = time.Now()
	r.say("%d cells, %d contestants, %d rounds of %v: about %v\n", len(cells), len(r.contestants), r.rounds, r.time, r.estimate(cells).Round(time.Second))
	for i, c := range cells {
		r.say("[%d/%d, %v gone, about %v left] %s: %s\n", i+1, len(cells), time.Since(r.begun).Round(time.Second), r.estimate(cells[i:]).Round(time.Second), c.name, c.about)
		result := r.cell(ctx, c)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped in cell %s: %w", c.name, err)
		}
		result.rate(c)
		r.results.Cells = append(r.results.Cells, result)
		done(result)
	}
	return nil
}

// entry is a contestant's part in a cell while it runs.
type entry struct {
	*bout
	line  *delayLine // to its server; may be nil
	score *score
	out   bool // it failed and takes no more part
}

func (e *entry) fail(err error) {
	e.out = true
	e.score.Errors++
	e.score.ErrorTexts = append(e.score.ErrorTexts, err.Error())
}

// cell runs one cell: every contestant is started and warmed up, then the
// rounds go through them, each round from another first one.
func (r *runner) cell(ctx context.Context, c cell) *cellResult {
	result := &cellResult{Name: c.name, About: c.about, Kind: c.kind, Callers: c.callers, Payload: c.size, Percent: c.percent, Headline: c.headline, LoadAverage: loadAverage()}
	var entries []*entry
	defer func() {
		for _, e := range entries {
			r.stop(e)
		}
	}()
	for _, who := range r.contestants {
		s := &score{Name: who.name, Group: who.group}
		result.Scores = append(result.Scores, s)
		if s.Skipped = c.excludes(who); s.Skipped != "" {
			continue
		}
		e := &entry{bout: &bout{contestant: who}, score: s}
		entries = append(entries, e)
		r.labelled(ctx, c, e, r.start)
	}
	r.shareRate(c, entries)
	for round := range r.rounds {
		r.say("  round %d:", round+1)
		for i := range entries {
			e := entries[(i+round*len(entries)/r.rounds)%len(entries)]
			if e.out || ctx.Err() != nil {
				continue
			}
			r.labelled(ctx, c, e, r.sample)
			if n := len(e.score.Rounds); n > 0 && !e.out {
				r.say(" %s %s", e.contestant.name, numberText(e.score.Rounds[n-1][c.headline]))
			}
		}
		r.say("  (%s)\n", c.headline)
	}
	for _, e := range entries {
		if e.contestant.name == profiledContestant && r.profiles == "" && !e.out && ctx.Err() == nil {
			r.labelled(ctx, c, e, r.lookWhere)
		}
	}
	return result
}

// labelled lets a CPU profile tell contestants and cells apart.
func (r *runner) labelled(ctx context.Context, c cell, e *entry, f func(context.Context, cell, *entry) error) {
	pprof.Do(ctx, pprof.Labels("contestant", e.contestant.name, "cell", c.name), func(ctx context.Context) {
		if err := f(ctx, c, e); err != nil && ctx.Err() == nil {
			e.fail(err)
			r.say(" %s FAILED: %v", e.contestant.name, err)
			r.stop(e)
		}
	})
}

// start starts the server, links to it and warms up. For an open loop that is
// also the closed loop that it takes a share of, where none was run before.
func (r *runner) start(ctx context.Context, c cell, e *entry) (err error) {
	var args []string
	if r.profiles != "" {
		file := fmt.Sprintf("server-%s-%s.prof", e.contestant.name, strings.ReplaceAll(c.name, "/", "-"))
		args = []string{"-cpuprofile", filepath.Join(r.profiles, file)}
	}
	if e.server, err = startServer(e.contestant.name, args...); err != nil {
		return err
	}
	dialCtx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	addr := e.server.addr
	if r.delay > 0 {
		if e.line, err = newDelayLine(addr, r.delay); err != nil {
			return err
		}
		addr = e.line.Addr().String()
	}
	if e.client, err = e.contestant.dial(dialCtx, addr); err != nil {
		return err
	}
	if _, err := e.server.ask(askBegin); err != nil {
		return err
	}
	warm, d := c.load, r.warmTime()
	if c.kind == kindOpen || c.kind == kindOpenSame {
		e.closedRate = r.results.value(fmt.Sprintf("%s/%s/%d", kindClosed, bytesText(c.size), calibrated), e.contestant.name, mRate)
		warm = closedLoad(calibrated, c.size)
		if e.closedRate == 0 {
			d = r.time
		}
	}
	m, f, err := warm(ctx, e.bout, d)
	if err := firstFault(f, err); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	if e.closedRate == 0 {
		e.closedRate = m[mRate]
	}
	return nil
}

func firstFault(f *faults, err error) error {
	if err != nil {
		return err
	}
	if f != nil && f.count > 0 {
		return fmt.Errorf("%d errors: %s", f.count, strings.Join(f.texts, "; "))
	}
	return nil
}

// shareRate gives all the same rate where the cell asks for it: sameAs's, or
// the lowest where sameAs takes no part.
func (r *runner) shareRate(c cell, entries []*entry) {
	if c.kind != kindOpenSame {
		return
	}
	rate := 0.0
	for _, e := range entries {
		if e.contestant.name == sameAs && !e.out {
			rate = e.closedRate
			break
		}
		if !e.out && (rate == 0 || e.closedRate < rate) {
			rate = e.closedRate
		}
	}
	for _, e := range entries {
		e.closedRate = rate
	}
}

// sample runs the cell's load once. Errors of calls fail the contestant's cell,
// but the rounds go on; what cannot go on is returned.
func (r *runner) sample(ctx context.Context, c cell, e *entry) error {
	begin, err := e.server.ask(askBegin)
	if err != nil {
		return err
	}
	runtime.GC()
	mine := measureUsage()
	m, f, err := c.load(ctx, e.bout, r.time)
	if f != nil && f.count > 0 {
		e.score.Errors += f.count
		e.score.ErrorTexts = append(e.score.ErrorTexts, f.texts...)
	}
	if err != nil {
		return err
	}
	end, err := e.server.ask(askUsage)
	if err != nil {
		return err
	}
	now := measureUsage()
	if n := m[mOps]; n > 0 {
		m[mClientCPU] = float64((now.CPU - mine.CPU).Nanoseconds()) / 1e3 / n
		m[mServerCPU] = float64((end.Usage.CPU - begin.Usage.CPU).Nanoseconds()) / 1e3 / n
		m[mCPU] = m[mClientCPU] + m[mServerCPU]
		m[mClientMem] = float64(now.Mallocs-mine.Mallocs) / n
		m[mServerMem] = float64(end.Usage.Mallocs-begin.Usage.Mallocs) / n
	}
	if m != nil {
		e.score.Rounds = append(e.score.Rounds, m)
	}
	return nil
}

// stop ends a contestant's link and its server process. Closing is given a
// bound: a contestant that hangs must not stop the others.
func (r *runner) stop(e *entry) {
	if c := e.client; c != nil {
		e.client = nil
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			c.close()
		}()
		select {
		case <-closed:
		case <-time.After(answerTime):
			e.fail(errors.New("its client does not close"))
		}
	}
	if e.line != nil {
		e.line.close()
		e.line = nil
	}
	if e.server != nil {
		e.server.stop()
		e.server = nil
	}
}

// loadAverage is the system's of the last minute, so that a reader sees what
// else ran; 0 where it is unknown.
func loadAverage() (l float64) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	_, _ = fmt.Sscan(string(b), &l)
	return l
}
