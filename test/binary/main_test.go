// Package binary_test proves what cmd/meshnode promises with the program itself:
// it is built once, and started, signalled and killed as a user would.
package binary_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

const testVersion = "v0.0.0-test"

var (
	binary     string // the program
	buildFlags []string
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "meshnode")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lookAtSources()
	binary = filepath.Join(dir, "meshnode")
	args := append([]string{"build", "-buildvcs=false", "-ldflags", "-X main.version=" + testVersion, "-o", binary}, buildFlags...)
	if out, err := exec.Command("go", append(args, "../../cmd/meshnode")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}))
}

// lookAtSources tells go test that its result depends on the program: a cached
// one counts only as long as the files that a test looked at are the same.
func lookAtSources() {
	files, _ := filepath.Glob("../../cmd/meshnode/*.go")
	for _, path := range files {
		_, _ = os.Stat(path)
	}
}
