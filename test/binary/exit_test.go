package binary_test

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// Each verdict has its exit code, and is named on standard error; standard
// output stays empty (M23).
func TestExitCodes(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb", "--example", "pingserver")
	table := newTable(t, "db: "+s.addr(1)+"\ngone: false\nlate: null\nrefused: unix:"+filepath.Join(t.TempDir(), "x")+"\n")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"db@sdb", "GET", "nothing"}, 1, `handler failed: NotFound: the key "nothing" has no value`},
		{[]string{"db@sdb", "PING", "x"}, 1, "handler failed: InvalidArgument: ping is one-way"},
		{[]string{"db@sdb", "no\x1b[31m\nthing", "x"}, 1, `handler failed: Unimplemented: unknown command "no\x1b[31m\nthing"`},
		{[]string{"db", "GET", "a"}, 2, `invalid target "db": it has no service: write NODE@NAME`},
		{[]string{"db@", "GET", "a"}, 2, `invalid target "db@"`},
		{[]string{"db:12", "GET", "a"}, 2, "a handle is 16 hex digits"},
		{[]string{"gone@sdb", "GET", "a"}, 3, "not sent: cluster node [gone] is down."},
		{[]string{"refused@sdb", "GET", "a"}, 3, "not sent: connect [refused] (unix:"},
		{[]string{"late@sdb", "GET", "a", "--timeout=100ms"}, 3, "the node [late] is absent; --timeout sets"},
		{[]string{"late@sdb", "GET", "a", "--no-wait"}, 3, "not sent: cluster node [late] is absent."},
		{[]string{"refused@sdb", "GET", "a", "--wait-up", "--timeout=300ms"}, 3, "the node [refused] is lost (connect"},
		{[]string{"db@none", "GET", "a"}, 4, `rejected: name not found: "@none"`},
		{[]string{"db:0000000100000001", "GET", "a"}, 4, "rejected: stale handle"},
	} {
		o := do(t, nil, append([]string{"call", "--table", table}, c.args...)...)
		if o.code != c.code || o.stdout != "" || !strings.Contains(o.stderr, c.says) {
			t.Errorf("call %q: %+v, want exit code %d and %q", c.args, o, c.code, c.says)
		}
		if strings.Contains(o.stderr, "\x1b") {
			t.Errorf("call %q writes control characters on the terminal: %q", c.args, o.stderr)
		}
	}
}

// When the time is over the caller cannot know whether the handler ended; but that
// one was told too, and may have said so first (M31).
func TestTimeout(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "pingserver")
	o := do(t, nil, "call", s.db(), "--timeout=200ms", "db@pingserver", "SLEEP", "1h")
	if o.code != 5 && o.code != 1 || !strings.Contains(o.stderr, "deadline exceeded") {
		t.Errorf("%+v, want maybe executed, or that the handler failed", o)
	}
}

// A message that nothing can bring to its node fails at once.
func TestNodeThatNobodyNamed(t *testing.T) {
	if o := do(t, nil, "call", "--node", "db=127.0.0.1:1", "other@sdb", "GET"); o.code != 3 || !strings.Contains(o.stderr, "cluster node [other] is absent.") {
		t.Errorf("%+v", o)
	}
}

// An address that is taken is no mistake in the command: exit code 1, in the log.
func TestAddressTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := start(t, "--listen", l.Addr().String())
	if code := s.exit(); code != 1 {
		t.Errorf("it ended with %d", code)
	}
	s.wait("cannot listen", 1, line{"on": l.Addr().String()})
}

// A command that is wrong says what to do and ends with 2.
func TestBadCommands(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	table := newTable(t, "db: 127.0.0.1:9\ngone: false\nlate: null\n")
	for _, c := range []struct{ args, says string }{
		{"", "Available Commands"},
		{"cal", "Did you mean this?"},
		{"call", "write meshnode call TARGET METHOD [PAYLOAD]"},
		{"call db@x", "write meshnode call TARGET METHOD [PAYLOAD]"},
		{"call db@x A b c", "write meshnode call TARGET METHOD [PAYLOAD]"},
		{"query", "write meshnode query TARGET"},
		{"push db@x A b c", "write meshnode push TARGET METHOD [PAYLOAD]"},
		{"call db@x A b", "Give --table FILE, or --node NODE=ADDR, or set MESHNODE_TABLE"},
		{"call --table " + missing + " db@x A b", "--table: stat " + missing},
		{"call --node db db@x A b", "write NODE=ADDR, like db=127.0.0.1:2528"},
		{"call --node db=nowhere db@x A b", `write "host:port"`},
		{"call --node db=127.0.0.1:1 --node db=127.0.0.1:2 db@x A b", "given for this node already"},
		{"call --node __nowaiting=true db@x A b", "options stand in the file"},
		{"call --node d!=127.0.0.1:1 db@x A b", "is not allowed in a node name"},
		{"call --table " + table + " --timeout 5 db@x A b", "--timeout"},
		{"call --table " + table + " --timeout=-5s db@x A b", "0 is for ever"},
		{"call --table " + table + " --no-wait --wait-up db@x A b", "give one of them"},
		{"call --table " + table + " --header x db@x A b", "write KEY=VALUE"},
		{"call --table " + table + " --header grpc-x=1 db@x A b", "gRPC's own"},
		{"call --table " + table + " --file " + missing + " db@x A", "--file: open " + missing},
		{"call --table " + table + " --file " + table + " db@x A b", "given twice"},
		{"call --table " + table + " --colour db@x A b", "unknown flag: --colour"},
		{"serve", "give --open NODE, --listen ADDR or --gateway ADDR"},
		{"serve db", "a node is given with --open"},
		{"serve --open db", "Give --table FILE, or --node db=ADDR"},
		{"serve --table " + table + " --open other", "node [other] is absent from the table"},
		{"serve --table " + table + " --open gone", "node [gone] is down in the table"},
		{"serve --table " + table + " --open __x", "which is for options"},
		{"serve --listen nowhere", "is absent from the table"},
		{"serve --listen 127.0.0.1:x", "which is not a number"},
		{"serve --listen 0.0.0.0:0", "--insecure"},
		{"serve --listen 127.0.0.1:0 --example nothing", "there are simpledb, echo and pingserver"},
		{"serve --listen 127.0.0.1:0 --example simpledb --example simpledb", "--example simpledb: "},
		{"serve --listen 127.0.0.1:0 --log xml", "write json or console"},
		{"serve --listen 127.0.0.1:0 --log-level loud", "write debug, info, warn or error"},
		{"serve --listen 127.0.0.1:0 --drain=-1s", "cannot be negative"},
		{"version now", "unknown command"},
	} {
		o := do(t, nil, strings.Fields(c.args)...)
		if o.code != 2 || o.stdout != "" || !strings.Contains(o.stderr, c.says) {
			t.Errorf("meshnode %s: %+v, want exit code 2 and %q", c.args, o, c.says)
		}
	}
}

// Each kind of wrong table is refused with its line, by serve and by call (M1,
// M2, M3).
func TestBadTables(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{"", "the table is empty"},
		{"- db", "this is no table"},
		{"just text", "this is no table"},
		{"db: 127.0.0.1:1\ndb: 127.0.0.1:2", "line 2: db: duplicate key"},
		{"db:", "line 1: db: empty value"},
		{"db: true", "line 1: db: true is not an address"},
		{"db: \"false\"", "write false, without quotes"},
		{"db: 12", "line 1: db: a number is not an address"},
		{"db: [a]", "line 1: db: a list is not an address"},
		{"db: {a: b}", "line 1: db: a mapping is not an address"},
		{"db: localhost", "has no port"},
		{"db: localhost:0", "port 0"},
		{"db: localhost:70000", "out of range"},
		{"db: \"::1:2528\"", "brackets"},
		{"db: http://localhost:1", "has a scheme"},
		{"d b: localhost:1", "is not allowed in a node name"},
		{"__nowait: true", "unknown option"},
		{"__nowaiting: 1", "write one of them, without quotes"},
		{"db: &a localhost:1", "anchor"},
		{"db: localhost:1\n---\ndb: localhost:2", "a second document"},
		{"db: [", "not YAML"},
		{"db: \xff", "no UTF-8"},
		{"a: 1\nb: 2\nc: 3", "3 mistakes"},
	} {
		table := newTable(t, c.text)
		for _, args := range [][]string{{"serve", "--open", "db"}, {"call", "db@x", "A", "b"}} {
			o := do(t, nil, append(args, "--table", table)...)
			if o.code != 2 || !strings.Contains(o.stderr, c.says) || !strings.Contains(o.stderr, table) {
				t.Errorf("%s with the table %q: %+v, want exit code 2 and %q", args[0], c.text, o, c.says)
			}
		}
	}
}

// The help teaches: each command's has examples and the exit codes.
func TestHelp(t *testing.T) {
	for _, command := range []string{"", "serve", "call", "push", "query"} {
		args := strings.Fields(command + " --help")
		text := must(t, nil, args...)
		for _, part := range []string{"Examples:\n", "meshnode " + command, "Exit codes:\n", "maybe executed", "Usage:\n"} {
			if !strings.Contains(text, part) {
				t.Errorf("the help of %q has no %q", command, part)
			}
		}
	}
	if got := must(t, nil, "version"); !strings.HasPrefix(got, fmt.Sprintf("meshnode %s go", testVersion)) {
		t.Errorf("version prints %q", got)
	}
}

// The environment names a table where --table does not.
func TestTableFromTheEnvironment(t *testing.T) {
	s := serve(t, "--listen", "127.0.0.1:0", "--example", "simpledb")
	for table, code := range map[string]int{newTable(t, "db: "+s.addr(1)): 0, newTable(t, "db: false"): 3, "missing": 2} {
		cmd := command("call", "db@sdb", "SET", "a=1")
		cmd.Env = append(cmd.Env, "MESHNODE_TABLE="+table)
		if o := begin(t, cmd)(); o.code != code {
			t.Errorf("%+v, want exit code %d", o, code)
		}
	}
}
