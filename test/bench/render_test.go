package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func testResults() *results {
	c := &cellResult{Name: "closed/64B/64", Kind: kindClosed, Callers: 64, Payload: 64, Headline: mRate, Scores: []*score{
		{Name: "mesh", Group: groupMesh, Rounds: []metrics{{mRate: 80_000, mCPU: 12}}, Where: where{whereSocket: 3, whereMesh: 1}},
		{Name: "wire", Group: groupWire, Rounds: []metrics{{mRate: 100_000, mCPU: 6}}},
		{Name: "nats", Group: groupPeer, Errors: 1, ErrorTexts: []string{"it fell"}},
	}}
	c.rate(cell{headline: mRate})
	return &results{Contestants: map[string]string{"mesh": "m", "wire": "w", "nats": "n"}, Cells: []*cellResult{c}}
}

// The blocks of a document are written anew, what stands around them stays, and
// a block of what was not run does too.
func TestRenderRewritesItsBlocks(t *testing.T) {
	dir := t.TempDir()
	if err := testResults().write(filepath.Join(dir, "results.json")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "performance.md")
	text := "# Top\n<!-- bench: closed -->\nold\n<!-- /bench -->\nbetween\n<!-- bench: scale-idle -->\nkept\n<!-- /bench -->\n<!-- bench: where -->\n<!-- /bench -->\nend\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and again: nothing grows
		if err := render(file, dir, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := `# Top
<!-- bench: closed -->

**64B each way**, calls a second

| callers | mesh | wire | nats | mesh / wire | / mailbox | / best peer |
|---|---:|---:|---:|---:|---:|---:|
| 64 | 80.0k | 100k | failed | 0.80 | - | - |

![Calls a second, 64B](performance/closed-64B.svg)

<!-- /bench -->
between
<!-- bench: scale-idle -->
kept
<!-- /bench -->
<!-- bench: where -->

| cell | CPU µs | socket | scheduler | memory | copying | grpc | mesh | load | other |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
| ` + "`closed/64B/64`" + ` | 12.0 | 75 % | 0 % | 0 % | 0 % | 0 % | 25 % | 0 % | 0 % |

<!-- /bench -->
end
`
	if string(b) != want {
		t.Errorf("the document is\n%s\nnot\n%s", b, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "performance", "closed-64B.svg")); err != nil {
		t.Error(err)
	}
}

func TestRenderTellsWhatIsWrong(t *testing.T) {
	d := document{blocks: map[string]func() string{}}
	for _, text := range []string{"<!-- bench: nothing -->\n<!-- /bench -->", "<!-- bench: closed -->\nno end", "<!-- bench: closed -->\n<!-- bench: open -->\n<!-- /bench -->"} {
		if _, _, err := d.rewrite(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
	if err := render("x.md", t.TempDir(), io.Discard); err == nil {
		t.Error("no error without results")
	}
}

// Every block of docs/performance.md is known, and every known block is there.
func TestPerformanceDocumentHasEveryBlock(t *testing.T) {
	b, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range blockNames() {
		if !strings.Contains(string(b), blockBegin+name+" -->\n") {
			t.Errorf("docs/performance.md has no block %s", name)
		}
	}
	for _, part := range strings.Split(string(b), blockBegin)[1:] {
		if name, _, _ := strings.Cut(part, " -->"); !slices.Contains(blockNames(), name) {
			t.Errorf("docs/performance.md has an unknown block %s", name)
		}
	}
}
