package house_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The programs of the README compile as they are written, in a module of their
// own against this one, and have at most 40 lines.
func TestReadmeProgramsCompile(t *testing.T) {
	const most = 40
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	programs := regexp.MustCompile("(?s)<!-- readme: (\\S+) -->\n```go\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(programs) != 2 {
		t.Fatalf("README.md has %d marked programs, want a server and a client", len(programs))
	}
	for _, p := range programs {
		t.Run(p[1], func(t *testing.T) {
			if n := strings.Count(p[2], "\n"); n > most {
				t.Errorf("%d lines, more than %d", n, most)
			}
			// Below the module, so that its go.mod and go.sum serve.
			dir, err := os.MkdirTemp(root, ".readme")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(p[2]), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("go", "build", "-buildvcs=false", "-o", os.DevNull, ".")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
