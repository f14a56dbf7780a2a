// Package script_test plays the scripts of test/testdata: several processes on
// a network in memory, in virtual time, over real gRPC streams.
//
// A command stands at the beginning of a line; the lines below it that begin
// with two spaces are what came out, and -rewrite puts there what comes out
// now, for a person to judge. A command returns when everything is at rest;
// "& NAME" at its end lets it run beside the script, which hears of its outcome
// by that name. What happened at a later time than the command began is marked with
// that time, counted from the beginning of the script; what happened at the same
// time is sorted by name. A script that begins with "# SKIP: reason" says what
// is promised and not kept yet. The commands stand in newWorld and newProcess,
// the methods of the services in process.handler.
package script_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

var rewrite = flag.Bool("rewrite", false, "write what comes out into test/testdata/*.txt")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("../testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := string(text)
			if reason, skip := strings.CutPrefix(want, "# SKIP: "); skip {
				reason, _, _ = strings.Cut(reason, "\n")
				t.Skip(reason)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = perform(t, want) })
			switch {
			case got == want:
			case !*rewrite:
				compare(t, file, got, want)
			default:
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// perform plays a script and returns it with what came out.
func perform(t *testing.T, script string) string {
	w := newWorld(t)
	defer w.end()
	var out strings.Builder
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "  ") {
			continue // what came out then
		}
		out.WriteString(line)
		if command := strings.TrimSpace(line); command != "" && command[0] != '#' {
			out.WriteString(w.play(command))
		}
	}
	return out.String()
}

// compare tells the first line that differs, and the command above it.
func compare(t *testing.T, file, got, want string) {
	g, w := strings.Split(got+"\n(the end)", "\n"), strings.Split(want+"\n(the end)", "\n")
	command := ""
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Errorf("%s:%d: after %q\nhave %s\nwant %s", file, i+1, command, g[i], w[i])
			return
		}
		if !strings.HasPrefix(g[i], "  ") {
			command = g[i]
		}
	}
}
