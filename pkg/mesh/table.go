package mesh

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/meshnode/meshnode/pkg/channel"
)

// Table maps the name of a node to what is known of it: a string is its
// address ("host:port" or "unix:path"), false says that it is down, nil that it
// is absent. Keys that begin with "__" are options; "__nowaiting", a bool, is
// the only one (M1, M2). A Table is only read by the mesh, and not kept.
type Table map[string]any

// TableError says what is wrong with a table. Nothing of such a table was taken.
type TableError struct {
	Mistakes []Mistake // all of them, at least one
}

// Mistake is one thing that is wrong with a table.
type Mistake struct {
	Line int    // from 1; 0 where it is unknown or the table is no text
	Key  string // the key that it is about; empty where it is about the whole
	Text string // what is wrong and what to do, on one line
}

// Error names every mistake, sorted by line: one on one line, several on a line
// each after their number.
func (e *TableError) Error() string {
	if len(e.Mistakes) == 1 {
		return "table: " + e.Mistakes[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table: %d mistakes:", len(e.Mistakes))
	for _, m := range sorted(e.Mistakes) {
		b.WriteString("\n  " + m.String())
	}
	return b.String()
}

// String is "line 3: db: what is wrong", without the parts that are unknown.
func (m Mistake) String() string {
	text := m.Text
	switch name := strings.TrimPrefix(m.Key, optionPrefix); {
	case m.Key == "":
	case channel.CheckNode(name) == nil:
		text = m.Key + ": " + text
	default:
		text = fmt.Sprintf("%.80q: %s", m.Key, text)
	}
	if m.Line > 0 {
		text = fmt.Sprintf("line %d: %s", m.Line, text)
	}
	return text
}

// sorted leaves mistakes of one line and key in the order in which they were found.
func sorted(ms []Mistake) []Mistake {
	return slices.SortedStableFunc(slices.Values(ms), func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
	})
}

const (
	optionPrefix    = "__"
	noWaitingOption = "__nowaiting"
	writeValue      = `write "host:port", or false for down, or null for absent`
)

// update checks the whole table, or returns a *TableError with every mistake.
func (t Table) update() (channel.Update, error) {
	u := channel.Update{Nodes: make(map[string]channel.Entry, len(t))}
	var found []Mistake
	for key, value := range t {
		for _, text := range check(key, value) {
			found = append(found, Mistake{Key: key, Text: text})
		}
		switch v := value.(type) {
		case string:
			u.Nodes[key] = channel.Entry{Kind: channel.Address, Addr: v}
		case bool:
			if key == noWaitingOption {
				u.NoWaiting = &v
			} else {
				u.Nodes[key] = channel.Entry{Kind: channel.Down}
			}
		default:
			u.Nodes[key] = channel.Entry{Kind: channel.Absent}
		}
	}
	if len(found) > 0 {
		return channel.Update{}, &TableError{sorted(found)}
	}
	return u, nil
}

// check returns what is wrong with one line of a table.
func check(key string, value any) (texts []string) {
	if strings.HasPrefix(key, optionPrefix) {
		texts = append(texts, checkOption(key, value))
	} else {
		if err := channel.CheckNode(key); err != nil {
			texts = append(texts, err.Error())
		}
		texts = append(texts, checkValue(value))
	}
	return slices.DeleteFunc(texts, func(text string) bool { return text == "" })
}

// checkOption returns what is wrong with an option, or "".
func checkOption(key string, value any) string {
	if key != noWaitingOption {
		return "unknown option: " + noWaitingOption + " is the only one"
	}
	switch v := value.(type) {
	case bool:
		return ""
	case mistaken:
		return string(v)
	}
	return describe(value) + " is not true or false: write one of them, without quotes"
}

// checkValue returns what is wrong with the value of a node, or "".
func checkValue(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case mistaken:
		return string(v)
	case bool:
		if !v {
			return ""
		}
		return "true is not an address: " + writeValue
	case string:
		err := channel.CheckAddr(v)
		switch {
		case err == nil:
			return ""
		case slices.Contains(downWords, strings.ToLower(v)):
			return fmt.Sprintf("%q is text and not an address: write false, without quotes, for down", v)
		case slices.Contains(absentWords, strings.ToLower(v)):
			return fmt.Sprintf("%q is text and not an address: write null, without quotes, for absent", v)
		}
		return err.Error()
	}
	return describe(value) + " is not an address: " + writeValue
}

// What people write who mean false or null. YAML 1.1 knew more of them than
// YAML 1.2, and quotes make any of them text.
var (
	downWords   = []string{"false", "no", "n", "off", "down"}
	absentWords = []string{"null", "nil", "none", "~", "absent"}
)

// describe says what a value is that should be something else.
func describe(value any) string {
	v := reflect.ValueOf(value)
	switch {
	case value == nil:
		return "null"
	case v.Type() == reflect.TypeFor[string]():
		return fmt.Sprintf("%.80q", value)
	case v.CanInt() || v.CanUint() || v.CanFloat():
		return "a number"
	case v.Kind() == reflect.Slice:
		return "a list"
	case v.Kind() == reflect.Map:
		return "a mapping"
	}
	return fmt.Sprintf("a value of type %T", value)
}

const maxTableText = 16 << 20 // bytes

// ParseTable reads a table from YAML: one mapping, at most 16 MiB, with or
// without a byte order mark. Names may be numbers; what YAML calls a string,
// false and null are the values. It checks everything: an error is a
// *TableError with every mistake and its line, and what it returns without one
// is right for Reload. A text without any table, like a file that is being
// written, is a mistake; {} is a table without nodes, which changes nothing.
func ParseTable(text []byte) (Table, error) {
	r := tableReader{table: Table{}, lines: map[string]int{}}
	r.read(bytes.TrimPrefix(text, []byte("\ufeff")))
	if len(r.found) > 0 {
		return nil, &TableError{sorted(r.found)}
	}
	return r.table, nil
}

// tableReader is the state of one ParseTable.
type tableReader struct {
	table Table
	lines map[string]int // where each key stood first
	found []Mistake
}

// mistaken stands, while a text is read, for a value that YAML can say and a
// table cannot. It is what to say of it.
type mistaken string

func (r *tableReader) add(line int, key, format string, args ...any) {
	r.found = append(r.found, Mistake{line, key, fmt.Sprintf(format, args...)})
}

func (r *tableReader) read(text []byte) {
	if len(text) > maxTableText {
		r.add(0, "", "the table is %d bytes long: the most is %d", len(text), maxTableText)
		return
	}
	if good, _, bad := bytes.Cut(bytes.ToValidUTF8(text, []byte{0}), []byte{0}); bad {
		r.add(1+bytes.Count(good, []byte("\n")), "", "a byte is no UTF-8 text: the table is damaged, or in another encoding")
		return
	}
	docs, err := decode(text)
	if err != nil {
		r.found = append(r.found, syntaxMistake(text, err))
		return
	}
	if len(docs) == 0 || isEmpty(docs[0].Content[0]) {
		r.add(0, "", "the table is empty: write {} for one without nodes")
		return
	}
	switch top := docs[0].Content[0]; {
	case len(docs) > 1:
		r.add(docs[1].Line, "", "a second document begins here: a table is one document")
	case foreign(top) != "":
		r.add(top.Line, "", "%s", foreign(top))
	case top.Kind != yaml.MappingNode:
		r.add(top.Line, "", `this is no table: write one "node: host:port" a line, with a space after the first ":"`)
	default:
		for i := 0; i+1 < len(top.Content); i += 2 {
			r.row(top.Content[i], top.Content[i+1])
		}
	}
}

func (r *tableReader) row(key, value *yaml.Node) {
	name := key.Value
	if key.Kind != yaml.ScalarNode {
		r.add(key.Line, "", "the node name is a list, a mapping or an alias: write plain text")
		return
	}
	if text := foreign(key); text != "" {
		r.add(key.Line, name, "%s", text)
		return
	}
	if first, again := r.lines[name]; again {
		r.add(key.Line, name, "duplicate key: it stands on line %d already", first)
	} else {
		r.lines[name] = key.Line
	}
	r.table[name] = plain(name, value)
	for _, text := range check(name, r.table[name]) {
		r.add(key.Line, name, "%s", text)
	}
}

// plain is the value of a line as a Table has it. Of what is no right value
// only the kind matters.
func plain(name string, n *yaml.Node) any {
	if text := foreign(n); text != "" {
		return mistaken(text)
	}
	switch {
	case isEmpty(n) && strings.HasPrefix(name, optionPrefix):
		return mistaken("empty value: write true or false")
	case isEmpty(n):
		// YAML takes it for null, but somebody forgot something.
		return mistaken("empty value: write null for absent, false for down")
	case n.Kind == yaml.SequenceNode:
		return []any{}
	case n.Kind == yaml.MappingNode:
		return map[string]any{}
	}
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int", "!!float":
		return 0
	}
	return n.Value
}

func isEmpty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Value == "" && foreign(n) == ""
}

// foreign names what makes a line mean something that does not stand on it, or "".
func foreign(n *yaml.Node) string {
	const refusal = " is not allowed in a table: write the line out"
	switch {
	case n.Kind == yaml.AliasNode:
		return fmt.Sprintf("the alias *%.80s", n.Value) + refusal
	case n.Anchor != "":
		return fmt.Sprintf("the anchor &%.80s", n.Anchor) + refusal
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Sprintf("the tag %.80q", n.Tag) + refusal
	case n.Tag == "!!merge":
		return "the merge key <<" + refusal
	}
	return ""
}

// decode reads at most two documents. The parser panics on what it did not
// foresee, and a watched file must not end the process.
func decode(text []byte) (docs []*yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the YAML parser failed: %v", p)
		}
	}()
	for d := yaml.NewDecoder(bytes.NewReader(text)); len(docs) < 2; {
		doc := new(yaml.Node)
		if err := d.Decode(doc); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

var yamlText = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)`)

// syntaxMistake tells what the parser said, with a hint for the usual case.
func syntaxMistake(text []byte, err error) Mistake {
	said := yamlText.FindStringSubmatch(err.Error())
	number, _ := strconv.Atoi(said[1])
	number = syntaxLine(text, number)
	m := Mistake{Line: number, Text: "not YAML: " + said[2]}
	if lines := bytes.SplitN(text, []byte("\n"), number+1); bytes.Contains(lines[min(number, len(lines))-1], []byte(": [")) {
		m.Text += `; an IPv6 address needs quotes: "[::1]:2528"`
	}
	return m
}

// syntaxLine finds the line of a mistake of which the parser said a line. That
// is often where the broken block began, or one too few, or none (0): better is
// the first line up to which the text does not parse. Where that would take
// long, and in a table in braces, of which no beginning parses, it stays.
func syntaxLine(text []byte, said int) int {
	if len(text) > 1<<20 || bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		return max(said, 1)
	}
	var ends []int
	for i, c := range text {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	return 1 + sort.Search(len(ends), func(i int) bool {
		_, err := decode(text[:ends[i]])
		return err != nil
	})
}
