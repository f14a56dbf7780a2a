//go:build faults

package faults_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// F46: a process that runs out of file descriptors keeps the links that it has,
// and takes new ones when there is room again.
func TestF46FileDescriptors(t *testing.T) {
	if _, err := exec.LookPath("prlimit"); err != nil {
		t.Skip("F46: prlimit is not there")
	}
	n := newNode(t, "db").start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	l := h.begin(m, "db@echo", 4, 100, 20*time.Second)
	l.goesOn(100, 20*time.Second)
	limit := func(n *node, fds int) {
		if out, err := exec.Command("prlimit", "--pid", fmt.Sprint(n.cmd.Process.Pid), fmt.Sprintf("--nofile=%d:4096", fds)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	limit(n, 4) // fewer than are open
	refused := client(t, "late", mesh.Table{"db": n.addr})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	err := h.call(ctx, refused, "db@echo", 0, mesh.WaitUp)
	cancel()
	if err == nil {
		t.Error("a connection was taken without a descriptor")
	}
	l.goesOn(100, 20*time.Second)
	limit(n, 1024)
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := h.call(ctx, refused, "db@echo", 0, mesh.WaitUp); err != nil {
		t.Error(err)
	}
	l.stop()
	if c := h.count(); c["ok"] != int(l.made.Load())+1 {
		t.Errorf("%v", c)
	}
	h.check()
}

// F47: the log blocks for ever: calls go on, and lines are dropped and counted.
func TestF47LogBlocks(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	// The pipe is full before the process starts.
	fd := int(w.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := syscall.Write(fd, make([]byte, 4096)); errors.Is(err, syscall.EAGAIN) {
			break
		}
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(meshnode(t), "serve", "--listen", "127.0.0.1:0", "--example", "simpledb")
	addr := freeAddr(t)
	cmd.Args[3] = addr
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	m := client(t, "client", mesh.Table{"db": addr})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for i := range 50 { // each a link of its own, which is logged
		c := client(t, fmt.Sprintf("client-%d", i), mesh.Table{"db": addr})
		if _, err := c.Call(ctx, "db@sdb", "SET", []byte("a=b"), mesh.WaitUp); err != nil {
			t.Fatal(err)
		}
		_ = c.Close(ctx)
	}
	if v, err := m.Call(ctx, "db@sdb", "GET", []byte("a")); err != nil || string(v) != "b" {
		t.Errorf("%s %v", v, err)
	}
}

var program struct {
	once sync.Once
	path string
	err  error
}

// meshnode builds the binary once.
func meshnode(t *testing.T) string {
	t.Helper()
	program.once.Do(func() {
		dir, err := os.MkdirTemp("", "faults")
		if err != nil {
			program.err = err
			return
		}
		program.path = dir + "/meshnode"
		if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program.path, "../../cmd/meshnode").CombinedOutput(); err != nil {
			program.err = fmt.Errorf("go build: %w: %s", err, out)
		}
	})
	if program.err != nil {
		t.Fatal(program.err)
	}
	return program.path
}

// F48: certificates and their CA are exchanged under load: no call fails, new
// links show the new ones.
func TestF48Rotation(t *testing.T) {
	dir := t.TempDir()
	n := newNode(t, "db")
	n.config.TLS = realmIn(t, "db", dir)
	n.config.Log = true
	n.start()
	h := newHistory(t, n)
	m := client(t, "db", mesh.Table{"db": n.addr, "db2": n.addr}, func(o *mesh.Options) { o.TLS = n.config.TLS })
	l := h.begin(m, "db@echo", 16, 500, 20*time.Second)
	l.goesOn(200, 20*time.Second)
	realmIn(t, "db", dir) // another CA, in the same files
	time.Sleep(1100 * time.Millisecond)
	l.goesOn(200, 20*time.Second)
	if err := h.call(context.Background(), m, "db2@echo", 0); err != nil {
		t.Error(err)
	}
	replace(t, n.config.TLS.Cert, []byte("half of a certi"))
	time.Sleep(1100 * time.Millisecond)
	if err := h.call(context.Background(), client(t, "db", mesh.Table{"db": n.addr}, func(o *mesh.Options) { o.TLS = realmIn(t, "db", dir) }), "db@echo", 0); err != nil {
		t.Error(err)
	}
	l.stop()
	if c := h.count(); len(c) != 1 {
		t.Errorf("%v", c)
	}
	h.check()
}

// F49: one processor that is always busy: nobody is taken for dead.
func TestF49Starvation(t *testing.T) {
	n := newNode(t, "db")
	n.env = []string{"GOMAXPROCS=1", "GOMEMLIMIT=64MiB", "GOGC=10"}
	n.start()
	h := newHistory(t, n)
	m := client(t, "client", mesh.Table{"db": n.addr})
	l := h.begin(m, "db@echo", 8, 10_000, 30*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	var burners sync.WaitGroup
	var spun atomic.Int64
	for range 4 {
		cmd := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		burners.Go(func() { _ = cmd.Wait(); spun.Add(int64(cmd.ProcessState.UserTime())) })
	}
	burners.Wait()
	l.stop()
	if s := m.Stats(); s.LinksLost != 0 || l.made.Load() == 0 {
		t.Errorf("%d links lost, %v", s.LinksLost, h.count())
	}
	if spun.Load() < int64(5*time.Second) {
		t.Errorf("the burners had only %s", time.Duration(spun.Load()))
	}
	t.Logf("burners had %s of processor; %v", time.Duration(spun.Load()), h.count())
	h.check()
}
