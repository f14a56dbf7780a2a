package house_test

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const (
	lastPromise = 63
	// Promises above this one belong to later issues: their cell may say so.
	lastProved = 60
	later      = "later issue"
)

var (
	promiseRow  = regexp.MustCompile(`^\| M(\d+) \|([^|]*)\|([^|]*)\|$`)
	proofInCell = regexp.MustCompile("`([^`]*)`")
	testName    = regexp.MustCompile(`^((?:[\w-]+/)*[\w-]+)\.((?:Test|Fuzz|Example)\w*)$`)
	number      = regexp.MustCompile(`\bM(\d+)\b`)
)

// TestEveryPromiseIsProved reads the table of docs/semantics.md: every promise
// stands there, says what is promised, and names tests or scripts that exist,
// at least one of which carries the promise's number.
func TestEveryPromiseIsProved(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/semantics.md"))
	if err != nil {
		t.Fatal(err)
	}
	inv := takeInventory(t)
	next := 1
	for i, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "| M") {
			continue
		}
		row := promiseRow.FindStringSubmatch(line)
		if row == nil || row[1] != strconv.Itoa(next) {
			t.Fatalf("docs/semantics.md:%d: want the row `| M%d | promise | proved by |`, have %q", i+1, next, line)
		}
		promise, proof := strings.TrimSpace(row[2]), strings.TrimSpace(row[3])
		if promise == "" {
			t.Errorf("docs/semantics.md:%d: M%d does not say what is promised", i+1, next)
		}
		for _, complaint := range inv.judge(next, proof) {
			t.Errorf("docs/semantics.md:%d: M%d: %s", i+1, next, complaint)
		}
		next++
	}
	if next != lastPromise+1 {
		t.Errorf("docs/semantics.md ends before M%d", next)
	}
}

// TestEveryPromiseHasItsNumberInATest looks only for the numbers.
func TestEveryPromiseHasItsNumberInATest(t *testing.T) {
	inv := takeInventory(t)
	var missing []string
	for m := 1; m <= lastProved; m++ {
		if !inv.numbered[m] {
			missing = append(missing, fmt.Sprintf("M%d", m))
		}
	}
	if missing != nil {
		t.Errorf("in no *_test.go and in no test/testdata/*.txt: %s", strings.Join(missing, " "))
	}
}

// TestAnEmptyOrWrongProofIsSeen proves that judge can fail.
func TestAnEmptyOrWrongProofIsSeen(t *testing.T) {
	inv := inventory{
		tests: map[string]string{"pkg/x.TestA": "pkg/x/a_test.go"},
		files: map[string]map[int]bool{"pkg/x/a_test.go": {7: true}, "test/testdata/a.txt": {8: true}},
	}
	for _, c := range []struct {
		m     int
		proof string
		ok    bool
	}{
		{7, "`pkg/x.TestA`", true},
		{8, "`pkg/x.TestA`, `test/testdata/a.txt`", true},
		{7, "", false},
		{7, "pkg/x.TestA", false},
		{7, later, false},
		{61, later, true},
		{61, "", false},
		{7, "`pkg/x.TestB`", false},
		{7, "`pkg/x.TestA`, `test/testdata/b.txt`", false},
		{9, "`pkg/x.TestA`", false},
		{7, "`TestA`", false},
	} {
		if complaints := inv.judge(c.m, c.proof); (len(complaints) == 0) != c.ok {
			t.Errorf("M%d %q: want ok %v, have %q", c.m, c.proof, c.ok, complaints)
		}
	}
}

// inventory is what there is to prove a promise with.
type inventory struct {
	tests    map[string]string       // "pkg/x.TestA" -> its file
	files    map[string]map[int]bool // test file or script -> the promises that it names
	numbered map[int]bool            // promises named anywhere
}

func takeInventory(t *testing.T) inventory {
	t.Helper()
	inv := inventory{map[string]string{}, map[string]map[int]bool{}, map[int]bool{}}
	walk(t, func(path string) {
		script, _ := filepath.Match("test/testdata/*.txt", path)
		test := strings.HasSuffix(path, "_test.go") && !strings.HasPrefix(path, "test/house/")
		if !script && !test {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		inv.files[path] = map[int]bool{}
		for _, found := range number.FindAllStringSubmatch(string(text), -1) {
			m, _ := strconv.Atoi(found[1])
			inv.files[path][m] = true
			inv.numbered[m] = true
		}
	})
	for _, f := range sources(t) {
		if !f.isTest() {
			continue
		}
		dir := filepath.ToSlash(filepath.Dir(f.path))
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				inv.tests[dir+"."+fn.Name.Name] = f.path
			}
		}
	}
	return inv
}

// judge says what is wrong with the cell "proved by" of promise m.
func (inv inventory) judge(m int, proof string) []string {
	if m > lastProved && proof == later {
		return nil
	}
	proofs := proofInCell.FindAllStringSubmatch(proof, -1)
	if len(proofs) == 0 {
		return []string{"names no test: want `pkg/x.TestName` or `test/testdata/file.txt`, in backquotes"}
	}
	var complaints []string
	carried := false
	for _, p := range proofs {
		file := p[1]
		if testName.MatchString(p[1]) {
			file = inv.tests[p[1]]
		}
		numbers, exists := inv.files[file]
		if !exists {
			complaints = append(complaints, "there is no test or script "+p[1])
		}
		carried = carried || numbers[m]
	}
	if len(complaints) == 0 && !carried {
		complaints = append(complaints, "none of the files of "+proof+" carries the number")
	}
	return complaints
}
