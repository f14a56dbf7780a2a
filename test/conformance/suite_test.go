// Package conformance_test is the conformance kit: it plays the node against the
// helpers in clients/, through the driver of each. README.md is its contract.
package conformance_test

import (
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

var (
	clients = flag.String("clients", "go", "the languages whose helpers TestClients tests, comma between; go: pkg/mesh; all: go and those in clients/")
	tableTo = flag.String("table", "", "the file for the table of results")
	update  = flag.Bool("update", false, "write golden/frames.json, and the table in docs/conformance.md")
)

// group is a part of the table: the cases of one feature.
type group struct {
	name  string
	cases []testCase
}

var groups = []group{
	{"link", slices.Concat(linkReal, linkHellos, linkLarges, linkLines, linkEnds, linkStranges)},
	{"serve", slices.Concat(serves, serveEnds)},
	{"recode", recodes},
}

func TestMain(m *testing.M) {
	if addr := os.Getenv(nodeEnv); addr != "" {
		runNode(addr)
	}
	flag.Parse()
	// The slow cases wait for the clock, not for a processor.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("16")
	}
	goleak.VerifyTestMain(m)
}

// TestClients drives the helpers that -clients names. Without it that is pkg/mesh,
// so that the kit is proved by what speaks the protocol already.
func TestClients(t *testing.T) {
	names := strings.Split(*clients, ",")
	if *clients == "all" {
		names = append([]string{"go"}, languages(t)...)
	}
	r := newResults()
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			command := "clients/" + name + "/run-conformance.sh"
			if name == "go" {
				command = goDriver(t)
			}
			suite(t, name, r, command)
		})
	}
	r.write(t)
}

// goDriver builds the driver of pkg/mesh.
func goDriver(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "driver")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./driver").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// languages are those that have a driver.
func languages(t *testing.T) (names []string) {
	t.Helper()
	found, err := filepath.Glob("../../clients/*/run-conformance.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		names = append(names, filepath.Base(filepath.Dir(path)))
	}
	return names
}

// suite runs all cases of the features that the driver has.
func suite(t *testing.T, language string, r *results, command string) {
	d, err := startDriver(command)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s over %s, features %v", d.info.Language, d.info.Helper, d.info.GRPC, d.info.Features)
	r.driver(language, d.info)
	serial := &atomic.Int64{}
	for _, g := range groups {
		if !d.has(g.name) {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.cases {
				t.Run(c.name, func(t *testing.T) {
					if c.slow {
						t.Parallel()
					} else if d.ended() { // an earlier case ended it, and failed
						if d, err = startDriver(command); err != nil {
							t.Fatal(err)
						}
					}
					k := &kit{T: t, d: d, serial: serial, command: command, over: make(chan struct{})}
					defer close(k.over)
					t.Cleanup(func() {
						if err := d.misdeed(); err != nil {
							t.Error(err)
						}
						r.note(language, g.name+"/"+c.name, t.Failed())
						if t.Failed() {
							t.Logf("the driver's stderr:\n%s", d.stderr)
						}
					})
					c.run(k)
				})
			}
		})
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

func unbase64(k *kit, s string) []byte {
	k.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		k.Fatal(fmt.Errorf("%q is not base64: %w", s, err))
	}
	return b
}
