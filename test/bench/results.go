package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// results is the JSON file.
type results struct {
	When        time.Time         `json:"when"`
	Command     []string          `json:"command"`
	Revision    string            `json:"revision"`
	Machine     machine           `json:"machine"`
	Rounds      int               `json:"rounds"`
	SampleTime  string            `json:"sample_time"`
	Contestants map[string]string `json:"contestants"`
	Cells       []*cellResult     `json:"cells"`
	Took        string            `json:"took"`
}

// machine is what it was measured on and with.
type machine struct {
	CPU        string            `json:"cpu"`
	Cores      int               `json:"cores"`
	GOMAXPROCS int               `json:"gomaxprocs"`
	GOGC       string            `json:"gogc,omitempty"`
	OS         string            `json:"os"`
	Kernel     string            `json:"kernel"`
	Go         string            `json:"go"`
	Modules    map[string]string `json:"modules"`
}

// cellResult is what one cell showed.
type cellResult struct {
	Name        string   `json:"name"`
	About       string   `json:"about"`
	Kind        string   `json:"kind"`
	Callers     int      `json:"callers"`
	Payload     int      `json:"payload_bytes"`
	Percent     int      `json:"percent,omitempty"`
	Headline    string   `json:"headline"`
	LoadAverage float64  `json:"load_average_before"`
	Scores      []*score `json:"scores"`
}

// score is one contestant's part of it.
type score struct {
	Name       string             `json:"name"`
	Group      string             `json:"group"`
	Skipped    string             `json:"skipped,omitempty"`
	Errors     int64              `json:"errors"`
	ErrorTexts []string           `json:"error_texts,omitempty"`
	Median     metrics            `json:"median,omitempty"`
	Spread     float64            `json:"spread"` // of the headline: (max - min) / median
	Ratios     map[string]metrics `json:"ratios,omitempty"`
	Where      where              `json:"where,omitempty"` // seconds of processor time by class, in a sample of its own
	Rounds     []metrics          `json:"rounds,omitempty"`
}

// What ratios are told to. The best peer is chosen for each metric.
const (
	toWire    = "wire"
	toMailbox = "wire-mailbox"
	toPeer    = "best-peer"
)

// ok tells whether the score may be compared: it has all its rounds right.
func (s *score) ok() bool { return s.Skipped == "" && s.Errors == 0 && len(s.Median) > 0 }

// rate fills in medians, spreads and ratios.
func (c *cellResult) rate(of cell) {
	for _, s := range c.Scores {
		if len(s.Rounds) == 0 {
			continue
		}
		s.Median = median(s.Rounds)
		lowest, highest := s.Rounds[0][of.headline], s.Rounds[0][of.headline]
		for _, m := range s.Rounds {
			lowest, highest = min(lowest, m[of.headline]), max(highest, m[of.headline])
		}
		if mid := s.Median[of.headline]; mid > 0 {
			s.Spread = (highest - lowest) / mid
		}
	}
	bases := map[string]metrics{toWire: c.median("wire"), toMailbox: c.median("wire-mailbox"), toPeer: c.bestPeer()}
	for _, s := range c.Scores {
		if !s.ok() {
			continue
		}
		s.Ratios = map[string]metrics{}
		for to, base := range bases {
			s.Ratios[to] = metrics{}
			for k, v := range s.Median {
				if base[k] > 0 && k != mOps {
					s.Ratios[to][k] = v / base[k]
				}
			}
		}
	}
}

func (c *cellResult) median(name string) metrics {
	for _, s := range c.Scores {
		if s.Name == name && s.ok() {
			return s.Median
		}
	}
	return nil
}

// bestPeer is the best that any peer reached, metric by metric.
func (c *cellResult) bestPeer() metrics {
	best := metrics{}
	for _, s := range c.Scores {
		if s.Group != groupPeer || !s.ok() {
			continue
		}
		for k, v := range s.Median {
			if b, has := best[k]; !has || lowerIsBetter(k) == (v < b) {
				best[k] = v
			}
		}
	}
	return best
}

// value is a median; 0 where there is none.
func (r *results) value(cell, contestant, metric string) float64 {
	for _, c := range r.Cells {
		if c.Name == cell {
			return c.median(contestant)[metric]
		}
	}
	return 0
}

// failures counts the scores with errors.
func (r *results) failures() (n int) {
	for _, c := range r.Cells {
		for _, s := range c.Scores {
			if s.Errors > 0 {
				n++
			}
		}
	}
	return n
}

func (r *results) write(file string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

func thisMachine() machine {
	m := machine{
		CPU: firstLine("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0),
		GOGC: os.Getenv("GOGC"), OS: runtime.GOOS + "/" + runtime.GOARCH, Kernel: firstLine("/proc/version", ""), Go: runtime.Version(),
		Modules: map[string]string{},
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return m
	}
	for _, d := range info.Deps {
		switch d.Path {
		case "google.golang.org/grpc", "google.golang.org/protobuf", "github.com/nats-io/nats.go", "github.com/nats-io/nats-server/v2", "github.com/asynkron/protoactor-go":
			m.Modules[d.Path] = d.Version
		}
	}
	return m
}

// firstLine is what stands after the colon of the first line that begins so.
func firstLine(file, prefix string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rest), ":"))
		}
	}
	return ""
}

// revision is git's, where there is one.
func revision() string {
	b, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
