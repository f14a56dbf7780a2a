package file

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshnode/meshnode/pkg/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched is a Watch of a real file, and what it told, in order.
type watched struct {
	dir, path string
	told      chan told
}

// told is a reload, or an error.
type told struct {
	table mesh.Table
	err   error
}

func startWatch(t *testing.T, first string) *watched {
	dir := filepath.Join(t.TempDir(), "d")
	w := &watched{dir: dir, path: filepath.Join(dir, "table.yaml"), told: make(chan told, 100)}
	must(t, os.Mkdir(w.dir, 0o755))
	if first != "" {
		w.replace(t, first)
	}
	reload := func(table mesh.Table) error {
		if table["db"] == "refused:1" {
			return errors.New("reload refuses")
		}
		w.told <- told{table: table}
		return nil
	}
	o := Options{Settle: 20 * time.Millisecond, OnError: func(err error) { w.told <- told{err: err} }}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Watch(ctx, w.path, o, reload) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch = %v", err)
		}
		for range len(w.told) {
			t.Errorf("told too much: %v", <-w.told)
		}
	})
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// replace gives the file another content at once.
func (w *watched) replace(t *testing.T, text string) {
	t.Helper()
	next := filepath.Join(w.dir, "next")
	must(t, os.WriteFile(next, []byte(text), 0o644))
	must(t, os.Rename(next, w.path))
}

func (w *watched) next(t *testing.T) told {
	t.Helper()
	select {
	case got := <-w.told:
		return got
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was told")
	}
	return told{}
}

// wantTable waits for a reload that has the given address. Nothing else may be
// told before it.
func (w *watched) wantTable(t *testing.T, addr string) {
	t.Helper()
	if got := w.next(t); got.err != nil || !reflect.DeepEqual(got.table, mesh.Table{"db": addr}) {
		t.Fatalf("told %v, want %s", got, addr)
	}
}

// wantTableInTheEnd is wantTable after a change of several steps. On a machine
// that stops between two of them the file rightly settles empty or missing.
func (w *watched) wantTableInTheEnd(t *testing.T, addr string) {
	t.Helper()
	got := w.next(t)
	for got.err != nil && (errors.Is(got.err, fs.ErrNotExist) || strings.Contains(got.err.Error(), "is empty")) {
		got = w.next(t)
	}
	if got.err != nil || !reflect.DeepEqual(got.table, mesh.Table{"db": addr}) {
		t.Fatalf("told %v, want %s", got, addr)
	}
}

func (w *watched) wantError(t *testing.T, text string) error {
	t.Helper()
	got := w.next(t)
	if got.err == nil || !strings.Contains(got.err.Error(), w.path) || !strings.Contains(got.err.Error(), text) {
		t.Fatalf("told %v, want error %s", got, text)
	}
	return got.err
}

// F26: however the content comes, it is one reload; the same content is none,
// or the next wantTable would see it.
func TestWatchFile(t *testing.T) {
	t.Parallel()
	w := startWatch(t, "db: a:1\n")
	w.wantTable(t, "a:1")
	w.replace(t, "db: a:1\n")
	w.replace(t, "db: a:2\n")
	w.wantTable(t, "a:2")

	must(t, os.WriteFile(w.path, []byte("db: a:3\n"), 0o644))
	w.wantTableInTheEnd(t, "a:3")

	must(t, os.Remove(w.path))
	w.replace(t, "db: a:4\n")
	w.wantTableInTheEnd(t, "a:4")

	// The directory is another one.
	must(t, os.Rename(w.dir, w.dir+".old"))
	must(t, os.Mkdir(w.dir, 0o755))
	w.replace(t, "db: a:5\n")
	w.wantTableInTheEnd(t, "a:5")
	must(t, os.RemoveAll(w.dir))
	must(t, os.Mkdir(w.dir, 0o755))
	w.replace(t, "db: a:6\n")
	w.wantTableInTheEnd(t, "a:6")
}

// F26: what is wrong is told once and changes nothing.
func TestWatchBadFile(t *testing.T) {
	t.Parallel()
	w := startWatch(t, "")
	if err := w.wantError(t, "no such file"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	w.replace(t, "db: a:1\n")
	w.wantTable(t, "a:1")
	for text, says := range map[string]string{
		"":                   "the table is empty",
		"db: a:1\ndb: a:2\n": "duplicate key",
		"db: \"a":            "not YAML",
		"__x: 1\n":           "unknown option",
		"db: refused:1\n":    "reload refuses",
	} {
		w.replace(t, text)
		var mistakes *mesh.TableError
		if err := w.wantError(t, says); errors.As(err, &mistakes) == (says == "reload refuses") {
			t.Errorf("error %v: is it a *mesh.TableError?", err)
		}
	}
	must(t, os.Remove(w.path))
	w.wantError(t, "no such file")
	must(t, os.Mkdir(w.path, 0o755))
	w.wantError(t, "not a regular file")
	must(t, os.Remove(w.path))
	w.wantError(t, "no such file")
	// What is in force already is no reload.
	w.replace(t, "db: a:1\n")
	w.replace(t, "db: a:2\n")
	w.wantTable(t, "a:2")
}

// F26: Kubernetes gives a new ConfigMap by moving the symlink ..data.
func TestWatchSymlinkSwap(t *testing.T) {
	t.Parallel()
	w := startWatch(t, "")
	w.wantError(t, "no such file")
	must(t, os.Symlink(filepath.Join("..data", "table.yaml"), w.path))
	for _, version := range []string{"a:1", "a:2", "a:3"} {
		dir := filepath.Join(w.dir, ".."+version)
		must(t, os.Mkdir(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "table.yaml"), []byte("db: "+version+"\n"), 0o644))
		must(t, os.Symlink(".."+version, filepath.Join(w.dir, "..tmp")))
		must(t, os.Rename(filepath.Join(w.dir, "..tmp"), filepath.Join(w.dir, "..data")))
		w.wantTable(t, version)
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table.yaml")
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("missing: %v", err)
	}
	must(t, os.WriteFile(path, []byte("db: a:1\n"), 0o644))
	if table, err := Read(path); err != nil || !reflect.DeepEqual(table, mesh.Table{"db": "a:1"}) {
		t.Errorf("Read = %v, %v", table, err)
	}
	must(t, os.WriteFile(path, []byte("db: a\n"), 0o644))
	table, err := Read(path)
	if want := path + `: table: line 1: db: address "a" has no port: write "host:port"`; err == nil || table != nil || err.Error() != want {
		t.Errorf("Read = %v, %v", table, err)
	}
}

func TestWatchWithoutWhatItNeeds(t *testing.T) {
	reload := func(mesh.Table) error { return nil }
	if Watch(t.Context(), "", Options{}, reload) == nil || Watch(t.Context(), "x", Options{}, nil) == nil {
		t.Error("Watch began")
	}
}
