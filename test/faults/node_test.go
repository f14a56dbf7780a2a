//go:build faults

package faults_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// node is a process that serves, which a test may break.
type node struct {
	t      *testing.T
	name   string
	config config
	wrap   []string // a command before the program: ip netns exec, prlimit
	env    []string

	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // of its standard output
	err   *output
	ended chan struct{}
	addr  string
}

// newNode makes a node with a history of its own, on a port that stays its own
// across restarts. It is not started yet.
func newNode(t *testing.T, name string) *node {
	t.Helper()
	return &node{t: t, name: name, config: config{Addr: freeAddr(t), History: filepath.Join(t.TempDir(), name+".history"), Drain: 5 * time.Second}}
}

// freeAddr is a loopback address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start starts the process, or a new life of it, and waits until it serves.
func (n *node) start() *node {
	n.t.Helper()
	text, err := json.Marshal(n.config)
	if err != nil {
		n.t.Fatal(err)
	}
	args := append(n.wrap[:len(n.wrap):len(n.wrap)], os.Args[0])
	n.cmd = exec.Command(args[0], args[1:]...)
	n.cmd.Env = append(append(os.Environ(), roleEnv+"="+n.name, configEnv+"="+string(text), "GORACE=atexit_sleep_ms=0"), n.env...)
	n.err = new(output)
	n.cmd.Stderr = n.err
	n.stdin, err = n.cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.lines, n.ended = make(chan string, 64), make(chan struct{})
	go n.read(out, n.cmd, n.lines, n.ended)
	n.t.Cleanup(func() {
		n.kill()
		if n.t.Failed() {
			n.t.Logf("%s: %.4000s", n.name, n.err)
		}
	})
	n.addr = strings.TrimPrefix(n.line("ready "), "ready ")
	return n
}

func (n *node) read(out io.Reader, cmd *exec.Cmd, lines chan<- string, ended chan<- struct{}) {
	s := bufio.NewScanner(out)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if strings.HasPrefix(s.Text(), "{") {
			continue // the log
		}
		lines <- s.Text()
	}
	_ = cmd.Wait() // the exit code says it
	close(ended)
}

// line waits for a line of the process that begins so.
func (n *node) line(prefix string) string {
	n.t.Helper()
	over := time.After(30 * time.Second)
	for {
		select {
		case l := <-n.lines:
			if strings.HasPrefix(l, prefix) {
				return l
			}
		case <-n.ended:
			n.t.Fatalf("%s ended before it said %q: %s", n.name, prefix, n.err)
		case <-over:
			n.t.Fatalf("%s did not say %q", n.name, prefix)
		}
	}
}

// stats are the figures of the process.
func (n *node) stats() (s mesh.Stats) {
	n.t.Helper()
	if _, err := fmt.Fprintln(n.stdin); err != nil {
		n.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(n.line("stats "), "stats ")), &s); err != nil {
		n.t.Fatal(err)
	}
	return s
}

func (n *node) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
}

// kill ends the process, if there is one, and waits for its end.
func (n *node) kill() {
	if n.cmd == nil || n.cmd.Process == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	<-n.ended
}

// exit waits for the end of the process within d, and returns its code.
func (n *node) exit(d time.Duration) int {
	n.t.Helper()
	select {
	case <-n.ended:
		return n.cmd.ProcessState.ExitCode()
	case <-time.After(d):
		n.t.Fatalf("%s did not end within %s", n.name, d)
		return 0
	}
}

// state is the kernel's letter for what the process does: S, R, T (stopped), Z.
func (n *node) state() string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

// rss is the memory that the process holds now, in bytes.
func (n *node) rss() int64 {
	n.t.Helper()
	var pages, resident int64
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.cmd.Process.Pid))
	if err == nil {
		_, err = fmt.Sscan(string(text), &pages, &resident)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

// begun are the ids that the node's handlers began, in order, over all lives.
func (n *node) begun() []string {
	n.t.Helper()
	text, err := os.ReadFile(n.config.History)
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// until waits for a condition that only the outside world brings about.
func until(t *testing.T, what string, d time.Duration, ok func() bool) {
	t.Helper()
	var once sync.Once
	for end := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			once.Do(func() { t.Fatalf("not within %s: %s", d, what) })
		}
	}
}

// replace writes a file whole.
func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// output collects what a process says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write adds to it.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

// String is all of it so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
