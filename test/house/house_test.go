// Package house_test checks the house itself: which package may import which
// (doors), how the code is cut and documented (style), and that every promise
// M1 to M63 of docs/semantics.md names tests that prove it.
package house_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/meshnode/meshnode"
)

// sourceFile is a hand-written Go file of this module.
type sourceFile struct {
	path string // from the root, with slashes
	fset *token.FileSet
	ast  *ast.File
}

func (f sourceFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

func (f sourceFile) line(pos token.Pos) int { return f.fset.Position(pos).Line }

// sources parses the hand-written Go files of the module, tests included.
func sources(t *testing.T) []sourceFile {
	t.Helper()
	var files []sourceFile
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".go") {
			return
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(root, path), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		if !ast.IsGenerated(file) {
			files = append(files, sourceFile{path, fset, file})
		}
	})
	return files
}

// walk calls visit with each file below the root, and leaves out hidden
// directories, node_modules and modules of their own.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.IsDir() {
			visit(path)
			return nil
		}
		if path == "." {
			return nil
		}
		_, err = os.Stat(filepath.Join(root, path, "go.mod"))
		if err == nil || strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
