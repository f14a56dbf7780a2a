package binary_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bound is how long anything may take before a test gives up.
const bound = 30 * time.Second

// command is the binary with these arguments, in an environment without a table.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "MESHNODE_") })
	// The race detector would have each process wait for a second at its end.
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// outcome is how a command ended.
type outcome struct {
	code           int
	stdout, stderr string
}

// do runs a command to its end, with stdin; nil is none.
func do(t *testing.T, stdin []byte, args ...string) outcome {
	t.Helper()
	cmd := command(args...)
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	return begin(t, cmd)()
}

// must is do for a command that has to end with 0; it returns standard output.
func must(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	o := do(t, stdin, args...)
	if o.code != 0 {
		t.Fatalf("meshnode %.200q: exit code %d\n%s", args, o.code, o.stderr)
	}
	return o.stdout
}

// begin starts a command; what it returns waits for the end.
func begin(t *testing.T, cmd *exec.Cmd) func() outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(bound, func() { _ = cmd.Process.Kill() })
	wait := sync.OnceValue(func() outcome {
		_ = cmd.Wait() // the exit code says it
		kill.Stop()
		return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	})
	t.Cleanup(func() { _ = cmd.Process.Kill(); wait() })
	return func() outcome {
		t.Helper()
		o := wait()
		if strings.Contains(o.stderr, "DATA RACE") {
			t.Error(o.stderr)
		}
		return o
	}
}

// line is one line of a log.
type line map[string]any

// server is a running `meshnode serve` that logs JSON.
type server struct {
	t     *testing.T
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended and its log is complete

	mu   sync.Mutex
	log  []line
	grew chan struct{} // closed at the next line
}

// serve starts `meshnode serve` and waits until it serves.
func serve(t *testing.T, args ...string) *server {
	t.Helper()
	s := start(t, args...)
	s.wait("serving", 1, nil)
	return s
}

// start starts `meshnode serve`. The process does not outlive the test, and
// every line that it logs has to be JSON.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, cmd: command(append([]string{"serve", "--log", "json"}, args...)...)}
	s.ended, s.grew = make(chan struct{}), make(chan struct{})
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go s.read(stderr)
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		s.exit()
	})
	return s
}

// read collects the log until the process has ended.
func (s *server) read(stderr io.Reader) {
	defer close(s.ended)
	r := bufio.NewReader(stderr)
	for {
		text, err := r.ReadBytes('\n')
		if len(text) > 0 {
			var l line
			if bad := json.Unmarshal(text, &l); bad != nil {
				s.t.Errorf("a line of the log is not JSON: %s%v", text, bad)
			}
			s.mu.Lock()
			s.log = append(s.log, l)
			close(s.grew)
			s.grew = make(chan struct{})
			s.mu.Unlock()
		}
		if err != nil {
			_ = s.cmd.Wait() // the exit code says it
			return
		}
	}
}

// lines are those so far with this message and these fields.
func (s *server) lines(msg string, fields line) (found []line, grew <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.log {
		if l["msg"] == msg && includes(l, fields) {
			found = append(found, l)
		}
	}
	return found, s.grew
}

func includes(l, fields line) bool {
	for k, v := range fields {
		if l[k] != v {
			return false
		}
	}
	return true
}

// wait waits until n lines with this message and these fields were logged, and
// returns the last.
func (s *server) wait(msg string, n int, fields line) line {
	s.t.Helper()
	over := time.After(bound)
	for ended := false; ; {
		found, grew := s.lines(msg, fields)
		if len(found) >= n {
			return found[n-1]
		}
		if ended {
			s.t.Fatalf("the process ended without having logged %q %v %d times:\n%s", msg, fields, n, s)
		}
		select {
		case <-grew:
		case <-s.ended:
			ended = true
		case <-over:
			s.t.Fatalf("%q %v was not logged %d times:\n%s", msg, fields, n, s)
		}
	}
}

// String is the log.
func (s *server) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, l := range s.log {
		text, _ := json.Marshal(l)
		b.Write(append(text, '\n'))
	}
	return b.String()
}

// addr is the address of the n-th listener.
func (s *server) addr(n int) string {
	s.t.Helper()
	return s.wait("listening", n, nil)["addr"].(string)
}

// db is the flag that makes the first listener the node db.
func (s *server) db() string { return "--node=db=" + s.addr(1) }

// signal sends a signal.
func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code; -1 is a signal.
func (s *server) exit() int {
	s.t.Helper()
	select {
	case <-s.ended:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(bound):
		_ = s.cmd.Process.Kill()
		s.t.Fatalf("the process did not end:\n%s", s)
		return 0
	}
}

// writeTable makes the file path hold text, as an editor does that replaces it.
func writeTable(t *testing.T, path, text string) {
	t.Helper()
	next := path + ".new"
	if err := errors.Join(os.WriteFile(next, []byte(text), 0o600), os.Rename(next, path)); err != nil {
		t.Fatal(err)
	}
}

// newTable makes a file with text.
func newTable(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	writeTable(t, path, text)
	return path
}
