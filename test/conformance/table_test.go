package conformance_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	tableFile  = "../../docs/conformance.md"
	tableBegin = "<!-- table: begin; make test-polyglot UPDATE=1 writes it -->\n"
	tableEnd   = "<!-- table: end -->\n"
)

// results are what the cases gave, by language and "feature/case".
type results struct {
	mu    sync.Mutex
	infos map[string]answer
	cells map[string]map[string]string
}

func newResults() *results {
	return &results{infos: map[string]answer{}, cells: map[string]map[string]string{}}
}

// driver notes who the driver of a language is.
func (r *results) driver(language string, info answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.infos[language] = info
	r.cells[language] = map[string]string{}
}

func (r *results) note(language, row string, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cells[language][row] = "yes"
	if failed {
		r.cells[language][row] = "FAILED"
	}
}

// rows are the rows of the table.
func rows() (all []string) {
	for _, g := range groups {
		for _, c := range g.cases {
			all = append(all, g.name+"/"+c.name)
		}
	}
	return all
}

// String is the table as Markdown. A dash: the helper has not the feature.
func (r *results) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var languages []string
	for l := range r.infos {
		languages = append(languages, l)
	}
	slices.Sort(languages)
	var b strings.Builder
	line := func(first string, cell func(language string) string) {
		b.WriteString("| " + first + " |")
		for _, l := range languages {
			b.WriteString(" " + cell(l) + " |")
		}
		b.WriteString("\n")
	}
	line("case", func(l string) string { return l })
	line("---", func(string) string { return "---" })
	line("gRPC", func(l string) string { return r.infos[l].GRPC })
	for _, row := range rows() {
		line("`"+row+"`", func(l string) string { return or(r.cells[l][row], "–") })
	}
	line("passed", func(l string) string {
		passed := 0
		for _, cell := range r.cells[l] {
			if cell == "yes" {
				passed++
			}
		}
		return fmt.Sprintf("%d of %d", passed, len(r.cells[l]))
	})
	return b.String()
}

// write puts the table where the flags say.
func (r *results) write(t *testing.T) {
	t.Helper()
	table := r.String()
	if *tableTo != "" {
		if err := os.WriteFile(*tableTo, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
	if !*update || t.Failed() {
		return // a table with a failure is not committed
	}
	_, before, after := readTable(t)
	if err := os.WriteFile(tableFile, []byte(before+tableBegin+table+tableEnd+after), 0o644); err != nil {
		t.Error(err)
	}
}

// readTable is the table in the document, and what stands around it.
func readTable(t *testing.T) (table, before, after string) {
	t.Helper()
	text, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	table, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no table between its marks", tableFile)
	}
	return table, before, after
}

// TestTableHasEveryCase holds the table in docs/conformance.md against the kit:
// its rows are the cases, its columns the languages in clients/, and each cell
// says something. Whether it is of today only a run can tell.
func TestTableHasEveryCase(t *testing.T) {
	table, _, _ := readTable(t)
	lines := strings.Split(strings.TrimSpace(table), "\n")
	if len(lines) < 5 {
		t.Fatal("the table is empty: make test-polyglot UPDATE=1")
	}
	cells := func(line string) []string {
		var all []string
		for _, c := range strings.Split(strings.Trim(line, "|"), "|") {
			all = append(all, strings.TrimSpace(c))
		}
		return all
	}
	want := append([]string{"case", "go"}, languages(t)...)
	slices.Sort(want[1:])
	if got := cells(lines[0]); !slices.Equal(got, want) {
		t.Errorf("the columns are %v, want %v: make test-polyglot UPDATE=1", got, want)
	}
	var got []string
	for _, line := range lines[3 : len(lines)-1] {
		row := cells(line)
		got = append(got, strings.Trim(row[0], "`"))
		for i, cell := range row[1:] {
			if cell != "yes" && cell != "–" {
				t.Errorf("%s, %s: %q; a table with a failure is not committed", row[0], want[i+1], cell)
			}
		}
		if len(row) != len(want) {
			t.Errorf("%s has %d cells, want %d", row[0], len(row), len(want))
		}
	}
	if !slices.Equal(got, rows()) {
		t.Errorf("the rows are not the cases of the kit: make test-polyglot UPDATE=1\n%v\n%v", got, rows())
	}
}

// TestContractListsTheCases holds README.md against the kit.
func TestContractListsTheCases(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, cases, ok := strings.Cut(string(text), "\n## Cases\n")
	if !ok {
		t.Fatal("README.md has no section Cases")
	}
	var listed []string
	for _, section := range strings.Split(cases, "\n### ")[1:] {
		name, body, _ := strings.Cut(section, "\n")
		for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(body, -1) {
			listed = append(listed, name+"/"+m[1])
		}
	}
	want := rows()
	slices.Sort(want)
	slices.Sort(listed)
	if !slices.Equal(listed, want) {
		t.Errorf("README.md lists\n%v\nthe kit has\n%v", listed, want)
	}
}
