package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// pointTime bounds one point, whatever happens.
const pointTime = time.Minute

// scaleResults is scale.json.
type scaleResults struct {
	When     time.Time      `json:"when"`
	Command  []string       `json:"command"`
	Revision string         `json:"revision"`
	Machine  machine        `json:"machine"`
	Rounds   int            `json:"rounds"`
	Studies  []*studyResult `json:"studies"`
	Took     string         `json:"took"`
}

// studyResult is what one study showed.
type studyResult struct {
	Name     string            `json:"name"`
	About    string            `json:"about"`
	Unit     string            `json:"unit"`
	Variants map[string]string `json:"variants"`
	Points   []*pointResult    `json:"points"`
}

// pointResult has the medians of one point.
type pointResult struct {
	Variant string    `json:"variant"`
	Size    int       `json:"size"`
	Skipped string    `json:"skipped,omitempty"`
	Errors  []string  `json:"errors,omitempty"`
	Median  metrics   `json:"median,omitempty"`
	Rounds  []metrics `json:"rounds,omitempty"`
}

// value is a median; 0 where there is none.
func (r *scaleResults) value(study, variant string, size int, metric string) float64 {
	for _, s := range r.Studies {
		if s.Name != study {
			continue
		}
		for _, p := range s.Points {
			if p.Variant == variant && p.Size == size && len(p.Errors) == 0 {
				return p.Median[metric]
			}
		}
	}
	return 0
}

func (r *scaleResults) failures() (n int) {
	for _, s := range r.Studies {
		for _, p := range s.Points {
			if len(p.Errors) > 0 {
				n++
			}
		}
	}
	return n
}

// scaleRunner runs studies and tells its progress.
type scaleRunner struct {
	rounds   int
	progress io.Writer
	results  *scaleResults
	begun    time.Time
}

func (r *scaleRunner) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.progress, format, args...)
}

// chosenStudy is a study with those of its points that are to be run.
type chosenStudy struct {
	*study
	chosen []point
}

func (r *scaleRunner) estimate(studies []chosenStudy) (d time.Duration) {
	for _, s := range studies {
		d += time.Duration(float64(r.rounds*len(s.chosen)) * s.seconds * float64(time.Second))
	}
	return d.Round(time.Second)
}

// run goes through the studies. Within one, each round goes through all points
// from another first one, so that variants and sizes share the machine's moods.
func (r *scaleRunner) run(ctx context.Context, studies []chosenStudy, done func(*studyResult)) error {
	r.begun = time.Now()
	r.say("%d studies, %d rounds: about %v\n", len(studies), r.rounds, r.estimate(studies))
	for i, s := range studies {
		r.say("[%d/%d, %v gone, about %v left] %s: %s\n", i+1, len(studies), time.Since(r.begun).Round(time.Second), r.estimate(studies[i:]), s.name, s.about)
		result := newStudyResult(s)
		for round := range r.rounds {
			r.say("  round %d:", round+1)
			for k := range s.chosen {
				k = (k + round*len(s.chosen)/r.rounds) % len(s.chosen)
				r.point(ctx, s.chosen[k], result.Points[k])
				if err := ctx.Err(); err != nil {
					r.say("\n")
					return fmt.Errorf("stopped in study %s: %w", s.name, err)
				}
			}
			r.say("\n")
		}
		for _, p := range result.Points {
			p.Median = median(p.Rounds)
		}
		r.results.Studies = append(r.results.Studies, result)
		done(result)
	}
	return nil
}

func newStudyResult(s chosenStudy) *studyResult {
	result := &studyResult{Name: s.name, About: s.about, Unit: s.unit, Variants: map[string]string{}}
	for _, p := range s.chosen {
		result.Variants[p.variant.name] = p.variant.about
		result.Points = append(result.Points, &pointResult{Variant: p.variant.name, Size: p.size})
	}
	return result
}

// point runs one point once. A point that failed takes no more part.
func (r *scaleRunner) point(ctx context.Context, p point, into *pointResult) {
	if len(into.Errors) > 0 || into.Skipped != "" {
		return
	}
	if limit := openFilesLimit(); limit > 0 && uint64(p.study.files*p.size+100) > limit {
		into.Skipped = fmt.Sprintf("%v %d", errFewFiles, p.study.files*p.size+100)
		r.say(" %s/%d skipped: %s;", p.variant.name, p.size, into.Skipped)
		return
	}
	m, err := runPoint(ctx, p)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		into.Errors = append(into.Errors, err.Error())
		r.say(" %s/%d FAILED: %v;", p.variant.name, p.size, err)
	default:
		into.Rounds = append(into.Rounds, m)
		r.say(" %s/%d", p.variant.name, p.size)
	}
}

// runPoint starts the process of a point and reads its answer.
func runPoint(ctx context.Context, p point) (metrics, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, pointTime)
	defer cancel()
	cmd := exec.CommandContext(bounded, exe, "-role", "point", "-cells", p.String())
	cmd.Env = append(os.Environ(), p.variant.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if bounded.Err() != nil {
			return nil, fmt.Errorf("it took more than %v", pointTime)
		}
		return nil, fmt.Errorf("%w: %.300s", err, bytes.TrimSpace(errs.Bytes()))
	}
	var a answer
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		return nil, fmt.Errorf("what the process said is no answer: %w", err)
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return a.Metrics, nil
}
