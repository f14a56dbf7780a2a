package mesh

import (
	"bytes"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnode/meshnode/pkg/channel"
)

// wrongTables are texts that ParseTable refuses, and every word of what it says
// (M1, M2, M3, F26).
var wrongTables = []struct{ name, yaml, text string }{
	{"empty", "", `table: the table is empty: write {} for one without nodes`},
	{"only space", "\n \n", `table: the table is empty: write {} for one without nodes`},
	{"only comments", "# db: 10.0.0.1:2528\n", `table: the table is empty: write {} for one without nodes`},
	{"only a marker", "---\n", `table: the table is empty: write {} for one without nodes`},
	{"too large", strings.Repeat("#", maxTableText+1), `table: the table is 16777217 bytes long: the most is 16777216`},
	{"NUL", "a: db:1\nb: db\x00:1\n", `table: line 2: a byte is no UTF-8 text: the table is damaged, or in another encoding`},
	{"Latin-1", "a: db:1\n\nb: b\xfccher:1\n", `table: line 3: a byte is no UTF-8 text: the table is damaged, or in another encoding`},
	{"UTF-16", "\xff\xfea\x00", `table: line 1: a byte is no UTF-8 text: the table is damaged, or in another encoding`},
	{"control character", "a: db:1\nb: \x01\n", `table: line 2: not YAML: control characters are not allowed`},
	{"open quote", "# c\na: db:1\nb: \"db:1\nc: db:1\n", `table: line 3: not YAML: found unexpected end of stream`},
	{"tab", "a: db:1\nb: db:1\n\tc: db:1\n", `table: line 3: not YAML: found a tab character that violates indentation`},
	{"two on a line", "a: db:1\nb: c: db:1\n", `table: line 2: not YAML: mapping values are not allowed in this context`},
	{"no colon", "a: db:1\nb db:1\nc: db:1\n", `table: line 2: not YAML: could not find expected ':'`},
	{"unknown alias", "a: db:1\nb: *x\n", `table: line 2: not YAML: unknown anchor 'x' referenced`},
	{"brackets without quotes", "# c\na: db:1\nb: [::1]:2528\nc: db:1\n",
		`table: line 3: not YAML: did not find expected node content; an IPv6 address needs quotes: "[::1]:2528"`},
	{"JSON without comma", "{\n\"a\": \"db:1\"\n\"b\": \"db:1\"\n}\n", `table: line 2: not YAML: did not find expected ',' or '}'`},
	{"JSON cut off", "{\n\"a\": \"db:1\",\n\"b\": ", `table: line 3: not YAML: did not find expected node content`},
	{"list", "\n- db:1\n", `table: line 2: this is no table: write one "node: host:port" a line, with a space after the first ":"`},
	{"no space", "db:10.0.0.1:2528\n", `table: line 1: this is no table: write one "node: host:port" a line, with a space after the first ":"`},
	{"null", "~", `table: line 1: this is no table: write one "node: host:port" a line, with a space after the first ":"`},
	{"tagged table", "!!map {}", `table: line 1: the tag "!!map" is not allowed in a table: write the line out`},
	{"two documents", "a: db:1\n---\nb: db:1\n", `table: line 2: a second document begins here: a table is one document`},
	{"broken second document", "a: db:1\n---\nb: 'x\n", `table: line 3: not YAML: found unexpected end of stream`},
	{"duplicate", "a: db:1\nb: db:1\na: db:1\n", `table: line 3: a: duplicate key: it stands on line 1 already`},
	{"duplicate in quotes", "12: db:1\n\"12\": db:1\n", `table: line 2: 12: duplicate key: it stands on line 1 already`},
	{"bad name", "a.b: db:1\n", `table: line 1: "a.b": "." is not allowed in a node name: use letters, digits, "_" and "-"`},
	{"name of two lines", "\"a\\nb\": db:1\n", `table: line 1: "a\nb": "\n" is not allowed in a node name: use letters, digits, "_" and "-"`},
	{"empty name", "\"\": db:1\n", `table: line 1: the node name is empty: write letters, digits, "_" and "-"`},
	{"list as name", "[a, b]: db:1\n", `table: line 1: the node name is a list, a mapping or an alias: write plain text`},
	{"empty value", "a: db:1\nb:\n", `table: line 2: b: empty value: write null for absent, false for down`},
	{"empty text", `b: ""`, `table: line 1: b: the address is empty: write "host:port" or "unix:/path"`},
	{"no port", "b: 10.0.0.1\n", `table: line 1: b: address "10.0.0.1" has no port: write "host:port"`},
	{"port 0", "b: 10.0.0.1:0\n", `table: line 1: b: address "10.0.0.1:0" has port 0, which nobody can dial: write the port that the node listens on`},
	{"two lines of text", "b: db:1\n c\n", `table: line 1: b: address "db:1 c" has a space or a control character in it: remove it`},
	{"true", "b: true\n", `table: line 1: b: true is not an address: write "host:port", or false for down, or null for absent`},
	{"number", "b: 2528\n", `table: line 1: b: a number is not an address: write "host:port", or false for down, or null for absent`},
	{"fraction", "b: 1.5\n", `table: line 1: b: a number is not an address: write "host:port", or false for down, or null for absent`},
	{"list as value", "b: [db, 1]\n", `table: line 1: b: a list is not an address: write "host:port", or false for down, or null for absent`},
	{"mapping as value", "b:\n  addr: db:1\n", `table: line 1: b: a mapping is not an address: write "host:port", or false for down, or null for absent`},
	{"no", "b: no\n", `table: line 1: b: "no" is text and not an address: write false, without quotes, for down`},
	{"quoted false", "b: \"false\"\n", `table: line 1: b: "false" is text and not an address: write false, without quotes, for down`},
	{"quoted null", "b: 'null'\n", `table: line 1: b: "null" is text and not an address: write null, without quotes, for absent`},
	{"date", "b: 2024-01-01\n", `table: line 1: b: address "2024-01-01" has no port: write "host:port"`},
	{"anchor", "a: &x db:1\n", `table: line 1: a: the anchor &x is not allowed in a table: write the line out`},
	{"tag", "a: !!str false\n", `table: line 1: a: the tag "!!str" is not allowed in a table: write the line out`},
	{"unknown option", "__waiting: true\n", `table: line 1: __waiting: unknown option: __nowaiting is the only one`},
	{"option as text", "__nowaiting: yes\n", `table: line 1: __nowaiting: "yes" is not true or false: write one of them, without quotes`},
	{"option null", "__nowaiting: null\n", `table: line 1: __nowaiting: null is not true or false: write one of them, without quotes`},
	{"option empty", "__nowaiting:\n", `table: line 1: __nowaiting: empty value: write true or false`},
	{"merge key", "a: &x {}\n<<: *x\n", `table: 2 mistakes:
  line 1: a: the anchor &x is not allowed in a table: write the line out
  line 2: "<<": the merge key << is not allowed in a table: write the line out`},
	{"alias", "a: db:1\n? &y b\n: db:1\nc: *y\n*y : db:1\n", `table: 3 mistakes:
  line 2: b: the anchor &y is not allowed in a table: write the line out
  line 4: c: the alias *y is not allowed in a table: write the line out
  line 5: the node name is a list, a mapping or an alias: write plain text`},
	{"every mistake", "a:\nb.: db\n__x: 1\na: 80\nok: db:1\n", `table: 6 mistakes:
  line 1: a: empty value: write null for absent, false for down
  line 2: "b.": "." is not allowed in a node name: use letters, digits, "_" and "-"
  line 2: "b.": address "db" has no port: write "host:port"
  line 3: __x: unknown option: __nowaiting is the only one
  line 4: a: duplicate key: it stands on line 1 already
  line 4: a: a number is not an address: write "host:port", or false for down, or null for absent`},
}

func TestParseTableRefuses(t *testing.T) {
	for _, w := range wrongTables {
		t.Run(w.name, func(t *testing.T) {
			table, err := ParseTable([]byte(w.yaml))
			var mistakes *TableError
			if table != nil || !errors.As(err, &mistakes) || len(mistakes.Mistakes) == 0 {
				t.Fatalf("ParseTable = %v, %v", table, err)
			}
			if err.Error() != w.text {
				t.Errorf("\n got %s\nwant %s", err, w.text)
			}
		})
	}
}

const rightTable = `# the cluster
db: 127.0.0.1:2528
db2: "[::1]:2529"
12: 'db.example.com:1'
0x1F: unix:/run/mesh.sock
null: unix:rel
gone: false
gone2: FALSE
away: null
away2: ~
away3: Null
__nowaiting: True
`

func TestParseTableTakes(t *testing.T) {
	want := Table{
		"db": "127.0.0.1:2528", "db2": "[::1]:2529", "12": "db.example.com:1", "0x1F": "unix:/run/mesh.sock",
		"null": "unix:rel", "gone": false, "gone2": false, "away": nil, "away2": nil, "away3": nil, "__nowaiting": true,
	}
	for name, c := range map[string]struct {
		text string
		want Table
	}{
		"all":                {rightTable, want},
		"byte order mark":    {"\ufeff" + rightTable, want},
		"CRLF":               {strings.ReplaceAll(rightTable, "\n", "\r\n"), want},
		"markers":            {"%YAML 1.1\n---\n" + rightTable + "...\n", want},
		"no nodes":           {"{}", Table{}},
		"JSON":               {`{"a": "db:1", "b": false, "c": null}`, Table{"a": "db:1", "b": false, "c": nil}},
		"no end of line":     {"a: db:1", Table{"a": "db:1"}},
		"indented, comments": {"\n  a: db:1 # here\n  # there\n", Table{"a": "db:1"}},
	} {
		got, err := ParseTable([]byte(c.text))
		if err != nil || got == nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %#v, %v", name, got, err)
		}
	}
}

// Where the parser's own line is wrong, ours is not: one wrong line, moved
// through a long table with a comment above it.
func TestParseTableFindsLine(t *testing.T) {
	const n = 300
	for at := 2; at <= n; at += 37 {
		lines := slices.Repeat([]string{"# nothing"}, n)
		for i := 1; i < n; i++ {
			lines[i] = "n" + strings.Repeat("x", i%9) + string(rune('a'+i%26)) + strings.Repeat("y", i/26) + ": db:1"
		}
		lines[at-1] = "}"
		_, err := ParseTable([]byte(strings.Join(lines, "\n")))
		var mistakes *TableError
		if !errors.As(err, &mistakes) || mistakes.Mistakes[0].Line != at {
			t.Errorf("line %d: %v", at, err)
		}
	}
}

func TestTableUpdate(t *testing.T) {
	u, err := Table{"a": "db:1", "b": false, "c": nil}.update()
	want := map[string]channel.Entry{"a": {Kind: channel.Address, Addr: "db:1"}, "b": {Kind: channel.Down}, "c": {}}
	if err != nil || !maps.Equal(u.Nodes, want) || u.NoWaiting != nil {
		t.Errorf("update = %+v, %v", u, err)
	}
	for _, on := range []bool{true, false} {
		u, err := Table{"__nowaiting": on}.update()
		if err != nil || len(u.Nodes) != 0 || u.NoWaiting == nil || *u.NoWaiting != on {
			t.Errorf("update with __nowaiting %v = %+v, %v", on, u, err)
		}
	}
	if u, err := (Table{}).update(); err != nil || len(u.Nodes) != 0 || u.NoWaiting != nil {
		t.Errorf("update of nothing = %+v, %v", u, err)
	}
}

// A table of a Go program has no lines; its mistakes are sorted by key, and
// nothing of it is taken (M3).
func TestTableUpdateRefuses(t *testing.T) {
	type name string
	u, err := Table{
		"ok": "db:1", "true": true, "int": 2528, "float": 1.5, "wait": time.Second, "list": []string{"db:1"},
		"map": Table{}, "named": name("db:1"), "bytes": []byte("db:1"), "func": func() {}, "ptr": (*int)(nil),
		"text": "", "off": "Off", "a b": "db", "__nowaiting": 1, "__x": nil,
	}.update()
	const want = `table: 16 mistakes:
  __nowaiting: a number is not true or false: write one of them, without quotes
  __x: unknown option: __nowaiting is the only one
  "a b": " " is not allowed in a node name: use letters, digits, "_" and "-"
  "a b": address "db" has no port: write "host:port"
  bytes: a list is not an address: write "host:port", or false for down, or null for absent
  float: a number is not an address: write "host:port", or false for down, or null for absent
  func: a value of type func() is not an address: write "host:port", or false for down, or null for absent
  int: a number is not an address: write "host:port", or false for down, or null for absent
  list: a list is not an address: write "host:port", or false for down, or null for absent
  map: a mapping is not an address: write "host:port", or false for down, or null for absent
  named: a value of type mesh.name is not an address: write "host:port", or false for down, or null for absent
  off: "Off" is text and not an address: write false, without quotes, for down
  ptr: a value of type *int is not an address: write "host:port", or false for down, or null for absent
  text: the address is empty: write "host:port" or "unix:/path"
  true: true is not an address: write "host:port", or false for down, or null for absent
  wait: a number is not an address: write "host:port", or false for down, or null for absent`
	if u.Nodes != nil || err == nil || err.Error() != want {
		t.Errorf("update = %+v\n got %v\nwant %s", u, err, want)
	}
	_, err = Table{"a": "db"}.update()
	if err == nil || err.Error() != `table: a: address "db" has no port: write "host:port"` {
		t.Errorf("one mistake: %v", err)
	}
}

func TestTableErrorSorts(t *testing.T) {
	err := &TableError{[]Mistake{{3, "b", "x"}, {3, "a", "x"}, {1, "c", "x"}, {0, "", "y"}}}
	if want := "table: 4 mistakes:\n  y\n  line 1: c: x\n  line 3: a: x\n  line 3: b: x"; err.Error() != want {
		t.Errorf("got %s", err)
	}
}

// FuzzParseTable: no text makes it panic; a text gives a table that a reload
// takes, or mistakes, of which each is one line that is in the text.
func FuzzParseTable(f *testing.F) {
	f.Add([]byte(rightTable))
	for _, w := range wrongTables {
		if len(w.yaml) <= maxTableText {
			f.Add([]byte(w.yaml))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		table, err := ParseTable(text)
		if err == nil {
			if table == nil {
				t.Fatal("neither table nor error")
			}
			if _, err := table.update(); err != nil {
				t.Fatalf("parsed, and then: %v", err)
			}
			return
		}
		var mistakes *TableError
		if table != nil || !errors.As(err, &mistakes) || len(mistakes.Mistakes) == 0 {
			t.Fatalf("ParseTable = %v, %v", table, err)
		}
		// A lone CR and some characters of Unicode are line ends for YAML 1.1 too.
		ends := bytes.Count(text, []byte("\n")) + bytes.Count(text, []byte("\r")) + bytes.Count(text, []byte("\u0085")) +
			bytes.Count(text, []byte("\u2028")) + bytes.Count(text, []byte("\u2029"))
		for _, m := range mistakes.Mistakes {
			if m.Line < 0 || m.Line > ends+1 || m.Text == "" || strings.ContainsAny(m.String(), "\n\r") {
				t.Fatalf("mistake %q of %d lines", m, ends+1)
			}
		}
	})
}
