package binary_test

import (
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// hostile is what somebody sends who wants to write the log himself.
const hostile = "GE\nT\r\"}\x1b[31m\x00\u2028{\"level\":\"error\",\"msg\":\"fake\"}\xff"

// One event is one line, JSON or for the console, whatever peers call themselves
// or send. (serve in the harness fails the test for a line that is not JSON.)
func TestLogLines(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb", "--log-level", "debug")
	attack(t, s.db())
	s.wait("push failed", 1, nil)
	s.signal(syscall.SIGTERM)
	if code := s.exit(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	if fake, _ := s.lines("fake", nil); fake != nil {
		t.Errorf("a peer wrote a line of the log:\n%s", s)
	}

	socket := "unix:" + t.TempDir() + "/db"
	cmd := command("serve", "--log", "console", "--listen", socket, "--example", "simpledb")
	end := begin(t, cmd)
	must(t, nil, "call", "--node", "db="+socket, "--wait-up", "--timeout", bound.String(), "db@sdb", "SET", "a=1")
	attack(t, "--node=db="+socket)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	o := end()
	if o.code != 0 || o.stdout != "" || !strings.Contains(o.stderr, "push failed") {
		t.Errorf("%+v", o)
	}
	entry := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\t(DEBUG|INFO|WARN|ERROR)\t[^\x00-\x08\x0b-\x1f]+$`)
	for text := range strings.Lines(o.stderr) {
		if !entry.MatchString(strings.TrimSuffix(text, "\n")) {
			t.Errorf("a line of the console's log is not one event: %q", text)
		}
	}
}

// attack has a peer with a hostile name send hostile names.
func attack(t *testing.T, node string) {
	t.Helper()
	argument := strings.ReplaceAll(hostile, "\x00", "") // which no argument can hold
	name := "--name=" + argument
	method := strings.ToValidUTF8(argument, "?")
	for _, args := range [][]string{
		{"push", node, name, "db@sdb", method, "x"},
		{"push", node, name, "db@sdb", argument, "x"},
		{"push", node, name, "db@sdb", "PING", argument},
		{"call", node, name, "db@sdb", method, "x"},
		{"call", node, name, "db@" + method, "x", "x"},
	} {
		if o := do(t, []byte(hostile), args...); o.code > 4 {
			t.Errorf("%q: %+v", args, o)
		}
	}
	must(t, []byte(hostile), "push", node, name, "db@sdb", "PING")
}

// What peers can make the process hold is told at the start (M56), and that
// plaintext with other machines can be read.
func TestStartTellsLimitsAndDangers(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0")
	l := s.wait("memory that peers can make this process hold, at most, beside the queues of the services", 1, nil)
	if l["bytes_per_peer"].(float64) < 64<<20 || l["bytes_per_listener"].(float64) < l["bytes_per_peer"].(float64) {
		t.Errorf("the limits are told as %v", l)
	}
	s = serve(t, "--listen", "0.0.0.0:0", "--insecure")
	s.wait("insecure: what is said to and by other machines can be read and forged on the way", 1, line{"level": "warn"})
}
