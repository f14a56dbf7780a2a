// Loc counts the hand-written Go of the tree that it is given: no tests, no
// generated files, no other modules.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// lines of one package. A line with code and a comment is code.
type lines struct{ code, comment, blank int }

func (l *lines) add(m lines) {
	l.code += m.code
	l.comment += m.comment
	l.blank += m.blank
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: loc DIRECTORY")
		os.Exit(2)
	}
	byPackage, err := countTree(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "loc:", err)
		os.Exit(1)
	}
	printTable(byPackage)
}

func printTable(byPackage map[string]*lines) {
	var pkgs []string
	var total, inPkg lines
	for pkg, l := range byPackage {
		pkgs = append(pkgs, pkg)
		total.add(*l)
		if strings.HasPrefix(pkg, "pkg/") {
			inPkg.add(*l)
		}
	}
	slices.Sort(pkgs)
	row := func(name string, l lines) { fmt.Printf("%-32s %7d %8d %7d\n", name, l.code, l.comment, l.blank) }
	fmt.Printf("%-32s %7s %8s %7s\n", "package", "code", "comment", "blank")
	for _, pkg := range pkgs {
		row(pkg, *byPackage[pkg])
	}
	row("pkg/ in all", inPkg)
	row("everything", total)
}

func countTree(root string) (map[string]*lines, error) {
	byPackage := map[string]*lines{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipDir(root, path, entry.Name())
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, src, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		if ast.IsGenerated(file) {
			return nil
		}
		pkg, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		if byPackage[pkg] == nil {
			byPackage[pkg] = &lines{}
		}
		byPackage[pkg].add(count(src))
		return nil
	})
	return byPackage, err
}

// skipDir skips what the go command skips too, and modules below the root.
func skipDir(root, path, name string) error {
	if path == root {
		return nil
	}
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	if err == nil || name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return filepath.SkipDir
	}
	return nil
}

func count(src []byte) lines {
	fset := token.NewFileSet()
	file := fset.AddFile("", fset.Base(), len(src))
	code, comment := map[int]bool{}, map[int]bool{}
	var s scanner.Scanner
	s.Init(file, src, nil, scanner.ScanComments)
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			break
		}
		if tok == token.SEMICOLON && text == "\n" {
			continue
		}
		mark := code
		if tok == token.COMMENT {
			mark = comment
		}
		first := file.Line(pos)
		for line := first; line <= first+strings.Count(text, "\n"); line++ {
			mark[line] = true
		}
	}
	l := lines{code: len(code)}
	for line := range comment {
		if !code[line] {
			l.comment++
		}
	}
	l.blank = bytes.Count(src, []byte("\n")) - l.code - l.comment
	return l
}
