package mesh_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// calleeEnv makes the test binary the other process of TestAllocations.
const calleeEnv = "MESH_TEST_CALLEE"

// TestMeasuredCallee is the other process of TestAllocations: it says where it
// listens, and ends with its standard input.
func TestMeasuredCallee(t *testing.T) {
	if os.Getenv(calleeEnv) == "" {
		t.Skip("only a process of TestAllocations")
	}
	m, err := mesh.New(mesh.Options{Name: "callee"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close(context.Background()) }()
	s := m.NewService(func(_ context.Context, method string, payload []byte) ([]byte, error) {
		if method == "MALLOCS" {
			return binary.LittleEndian.AppendUint64(nil, mallocs()), nil
		}
		return payload, nil
	})
	if err := m.Register("@echo", s); err != nil {
		t.Fatal(err)
	}
	l, err := m.Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(l.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func mallocs() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.Mallocs
}

// startCallee starts it and returns a Mesh whose table has it as "callee".
func startCallee(t *testing.T) *mesh.Mesh {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestMeasuredCallee$")
	cmd.Env, cmd.Stderr = append(os.Environ(), calleeEnv+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	t.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, lines)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the callee's process: %v", err)
		}
	})
	addr, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("the callee's process said no address: %q, %v", addr, err)
	}
	m, err := mesh.New(mesh.Options{Name: "caller"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close(context.Background()) })
	if err := m.Reload(mesh.Table{"callee": strings.TrimSpace(addr)}); err != nil {
		t.Fatal(err)
	}
	return m
}

// A small message has few heap objects on either side, between two processes and
// with 64 callers: a call at most 4 and 4, a push at most 1 and 2, in whole
// objects a message as go test -benchmem has them. User code makes none here.
func TestAllocations(t *testing.T) {
	if underRace {
		t.Skip("the race detector makes pools drop what they were given")
	}
	m := startCallee(t)
	const callers, each = 64, 500
	payload := make([]byte, 64)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	call := func() error { _, err := m.Call(ctx, "callee@echo", "ECHO", payload); return err }
	push := func() error { return m.Send(ctx, "callee@echo", "ECHO", payload) }
	theirs := func() uint64 { // queued behind the pushes: all have run
		b, err := m.Call(ctx, "callee@echo", "MALLOCS", nil)
		if err != nil {
			t.Fatal(err)
		}
		return binary.LittleEndian.Uint64(b)
	}
	for _, c := range []struct {
		what           string
		do             func() error
		caller, callee uint64
	}{{"a call", call, 4, 4}, {"a push", push, 1, 2}} {
		load := func() {
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					for range each {
						if err := c.do(); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			theirs()
		}
		load() // makes what is made once and kept
		there, here := theirs(), mallocs()
		load()
		here, there = mallocs()-here, theirs()-there
		const n = callers * each
		t.Logf("%s: %.2f objects at the caller, %.2f at the callee", c.what, float64(here)/n, float64(there)/n)
		if here/n > c.caller || there/n > c.callee {
			t.Errorf("%s makes %d objects at its caller and %d at its callee; at most %d and %d", c.what, here/n, there/n, c.caller, c.callee)
		}
	}
}
