package binary_test

import (
	"syscall"
	"testing"
)

// SIGHUP reads the table again and moves a node; a bad table changes nothing
// (M3, M4).
func TestReloadBySignal(t *testing.T) {
	table := newTable(t, "db: 127.0.0.1:9\n")
	s := serve(t, "--no-watch", "--table", table, "--listen", "127.0.0.1:0", "--example", "simpledb")
	s.wait("node idle", 1, line{"node": "db", "addr": "127.0.0.1:9"})

	writeTable(t, table, "db: false\nnew: 127.0.0.1:11\n")
	s.signal(syscall.SIGHUP)
	s.wait("table reloaded", 1, line{"cause": "SIGHUP"})
	s.wait("node down", 1, line{"node": "db"})
	s.wait("node idle", 1, line{"node": "new", "addr": "127.0.0.1:11"})

	writeTable(t, table, "db: 127.0.0.1:12\nother: true\n")
	s.signal(syscall.SIGHUP)
	refused := s.wait("the table was not taken; everything stays as it was", 1, nil)["error"].(string)
	if want := "--table: " + table + ": table: line 2: other: true is not an address: write \"host:port\", or false for down, or null for absent"; refused != want {
		t.Errorf("the log says %q, want %q", refused, want)
	}
	if moved, _ := s.lines("node idle", line{"addr": "127.0.0.1:12"}); moved != nil {
		t.Error("half of a bad table was taken")
	}

	writeTable(t, table, "db: 127.0.0.1:10\n")
	s.signal(syscall.SIGHUP)
	s.wait("node idle", 1, line{"node": "db", "addr": "127.0.0.1:10"})
	must(t, nil, "call", s.db(), "db@sdb", "SET", "a=1")
}

// A change of the file is taken by itself, and a bad one is not (M3).
func TestReloadByWatchedFile(t *testing.T) {
	table := newTable(t, "db: 127.0.0.1:9\n")
	s := serve(t, "--table", table, "--listen", "127.0.0.1:0", "--example", "simpledb")
	writeTable(t, table, "db: false\n")
	s.wait("table reloaded", 1, line{"cause": "the file changed"})
	s.wait("node down", 1, line{"node": "db"})

	writeTable(t, table, "db: 127.0.0.1\n")
	s.wait("the table was not taken; everything stays as it was", 1, nil)

	writeTable(t, table, "db: 127.0.0.1:11\n")
	s.wait("node idle", 1, line{"node": "db", "addr": "127.0.0.1:11"})
	must(t, nil, "call", s.db(), "db@sdb", "SET", "a=1")
}

// What --node says of a node comes before the file, at every reload.
func TestNodeFlagComesBeforeTheFile(t *testing.T) {
	table := newTable(t, "db: 127.0.0.1:9\n")
	s := serve(t, "--no-watch", "--table", table, "--node", "db=127.0.0.1:10", "--listen", "127.0.0.1:0")
	s.wait("node idle", 1, line{"node": "db", "addr": "127.0.0.1:10"})
	writeTable(t, table, "db: false\n")
	s.signal(syscall.SIGHUP)
	s.wait("table reloaded", 1, nil)
	if moved, _ := s.lines("node down", nil); moved != nil {
		t.Error("the file moved a node that --node names")
	}
}

// A node that is open here stays where it listens when the table moves it, with
// a warning (M52), and its callers find it where it is (M19: by any name).
func TestOpenNodeStaysWhenTheTableMovesIt(t *testing.T) {
	s, table := serveNodes(t, []string{"db", "db2"}, "--example", "simpledb")
	was := s.addr(1)
	writeTable(t, table, "db: 127.0.0.1:9\n")
	s.signal(syscall.SIGHUP)
	s.wait("the table moved a node that is open here; its listener stays where it is", 1, line{"node": "db", "listening": was})
	must(t, nil, "call", "--node", "alias="+was, "alias@sdb", "SET", "a=1")
	// M53: the other node of the process is another listener.
	if got := must(t, nil, "call", "--node", "db2="+s.addr(2), "db2@sdb", "GET", "a"); got != "1" {
		t.Errorf("db2 says %q, want 1", got)
	}
}
