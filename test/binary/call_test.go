package binary_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Any bytes go out and come back as they are, from each place where a payload
// can be (M21).
func TestRoundTrip(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	var all []byte
	for b := range 256 {
		all = append(all, byte(b))
	}
	file := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(file, append([]byte("file="), all...), 0o600); err != nil {
		t.Fatal(err)
	}
	argument := string(all[1:]) // no argument holds a NUL
	for _, c := range []struct {
		key, want string
		stdin     []byte
		args      []string
	}{
		{"argument", argument, nil, []string{"argument=" + argument}},
		{"stdin", string(all), append([]byte("stdin="), all...), nil},
		{"dash", string(all), append([]byte("dash="), all...), []string{"-"}},
		{"file", string(all), []byte("not this"), []string{"--file", file}},
		{"filedash", string(all), append([]byte("filedash="), all...), []string{"--file", "-"}},
		{"-x", "1", nil, []string{"--", "-x=1"}},
		{"empty", "", nil, []string{"empty="}},
		{"lines", "a\n\nb\n", nil, []string{"lines=a\n\nb\n"}},
	} {
		must(t, c.stdin, append([]string{"call", s.db(), "db@sdb", "SET"}, c.args...)...)
		if got := must(t, nil, "call", s.db(), "db@sdb", "GET", "--", c.key); got != c.want {
			t.Errorf("%s: got %q back, want %q", c.key, got, c.want)
		}
	}
	if o := do(t, nil, "call", s.db(), "db@sdb", "GET", "never set"); o.code != 1 || o.stdout != "" {
		t.Errorf("a key without a value: %+v, want exit code 1 and no output", o)
	}
}

// 10 MiB through standard input and back (M40).
func TestLargePayload(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	value := make([]byte, 10<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(value)
	must(t, append([]byte("big="), value...), "call", s.db(), "db@sdb", "SET")
	if got := must(t, nil, "call", s.db(), "db@sdb", "GET", "big"); got != string(value) {
		t.Errorf("10 MiB came back as %d bytes, or others", len(got))
	}
}

// A payload that no message holds is not even read.
func TestTooLargePayload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "payload")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 64<<20+1)); err != nil {
		t.Fatal(err)
	}
	if o := do(t, nil, "call", "--node", "db=127.0.0.1:1", "--file", path, "db@sdb", "SET"); o.code != 2 || !strings.Contains(o.stderr, "a message holds at most 67108864 bytes") {
		t.Errorf("%+v", o)
	}
}

// A handle is a target too (M47), and query says whether a service is there.
func TestQuery(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	handle := strings.TrimSuffix(must(t, nil, "query", s.db(), "db@sdb"), "\n")
	if !regexp.MustCompile(`^:[0-9a-f]{16}$`).MatchString(handle) {
		t.Fatalf("query printed %q, want a handle and nothing else", handle)
	}
	must(t, nil, "call", s.db(), "db"+handle, "SET", "a=1")
	if got := must(t, nil, "call", s.db(), "db@sdb", "GET", "a"); got != "1" {
		t.Errorf("a is %q after a SET through the handle", got)
	}
	if o := do(t, nil, "query", s.db(), "db@none"); o.code != 4 || o.stdout != "" || !strings.Contains(o.stderr, "rejected: name not found") {
		t.Errorf("query of an unknown name: %+v", o)
	}
}

// A process that pushes and exits loses nothing: when it has ended with 0 the
// service has the message (M36).
func TestPushIsHandedOver(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	for i := range 20 {
		must(t, nil, "push", s.db(), "db@sdb", "PING", fmt.Sprint("push ", i))
		s.wait("ping", 1, line{"text": fmt.Sprint("push ", i)})
	}
	must(t, bytes.Repeat([]byte("x"), 1<<20), "push", s.db(), "db@sdb", "PING")
	s.wait("ping", 1, line{"text": "xxxxxxxxxxxxxxxxxxxx...(1048576)"})
	// M29: what becomes of it is not reported.
	must(t, nil, "push", s.db(), "db@none", "PING", "nobody")
}

// A node that the table's file does not have yet is waited for, and a change of
// the file brings it (M7).
func TestCallWaitsUntilTheFileHasTheNode(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	must(t, nil, "call", s.db(), "db@sdb", "SET", "a=1")
	table := newTable(t, "late: null\n")
	cmd := command("call", "--table", table, "--timeout", bound.String(), "late@sdb", "GET", "a")
	end := begin(t, cmd)
	waitWatching(t, cmd.Process.Pid)
	writeTable(t, table, "late: "+s.addr(1)+"\n")
	if o := end(); o.code != 0 || o.stdout != "1" {
		t.Errorf("%+v, want 1", o)
	}
}

// waitWatching waits until a process watches files. By then it has read its table.
func waitWatching(t *testing.T, pid int) {
	t.Helper()
	fds := fmt.Sprintf("/proc/%d/fd", pid)
	if _, err := os.Stat(fds); err != nil {
		t.Skip("there is no /proc to see that a process watches its table")
	}
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(time.Millisecond) {
		entries, _ := os.ReadDir(fds)
		for _, e := range entries {
			if to, _ := os.Readlink(filepath.Join(fds, e.Name())); strings.Contains(to, "inotify") {
				return
			}
		}
	}
	t.Fatal("the process does not watch its table")
}

// With --wait-up a call waits for a process that is not up yet (M15).
func TestWaitUp(t *testing.T) {
	socket := "unix:" + filepath.Join(t.TempDir(), "db")
	end := begin(t, command("call", "--node", "db="+socket, "--wait-up", "--timeout", bound.String(), "db@sdb", "SET", "a=1"))
	if o := do(t, nil, "call", "--node", "db="+socket, "db@sdb", "SET", "a=1"); o.code != 3 || !strings.Contains(o.stderr, "not sent: connect [db]") {
		t.Errorf("without --wait-up: %+v", o)
	}
	serve(t, "--listen", socket, "--example", "simpledb")
	if o := end(); o.code != 0 {
		t.Errorf("with --wait-up: %+v", o)
	}
}

// The trace and the name of the caller arrive (M59, M60).
func TestTraceAndName(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "pingserver")
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	must(t, nil, "call", s.db(), "--name", "me", "--header", "traceparent="+parent, "db@pingserver", "SLEEP", "0s")
	s.wait("pingserver", 1, line{"peer": "me", "traceparent": parent, "method": "SLEEP"})
}

// Each listener answers gRPC's health checks.
func TestHealth(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0")
	conn, err := grpc.NewClient("passthrough:///"+s.addr(1), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v %v", r, err)
	}
}
