package house_test

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

const (
	maxFuncLines = 80
	maxFileLines = 400
)

func TestFunctionsFitOnAScreen(t *testing.T) {
	for _, f := range sources(t) {
		if f.isTest() {
			continue
		}
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := f.line(fn.End()) - f.line(fn.Pos()) + 1; n > maxFuncLines {
				t.Errorf("%s:%d: %s has %d lines, more than %d", f.path, f.line(fn.Pos()), fn.Name.Name, n, maxFuncLines)
			}
		}
	}
}

func TestFilesAreReadInOneSitting(t *testing.T) {
	for _, f := range sources(t) {
		if !strings.HasPrefix(f.path, "pkg/") || strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		if n := f.fset.File(f.ast.FileStart).LineCount(); n > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", f.path, n, maxFileLines)
		}
	}
}

func TestPackagesAndExportedNamesAreDocumented(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range sources(t) {
		if f.isTest() {
			continue
		}
		dir := f.path[:strings.LastIndex(f.path, "/")]
		documented[dir] = documented[dir] || f.ast.Doc != nil
		for _, decl := range f.ast.Decls {
			for _, name := range undocumented(decl) {
				t.Errorf("%s:%d: %s is exported and has no doc comment", f.path, f.line(name.Pos()), name.Name)
			}
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no file has a package comment", dir)
		}
	}
}

// undocumented names what decl exports without a comment: functions, methods of
// exported types, types, constants, variables, and the methods of interfaces. In
// a group of constants or variables the comment of the group counts.
func undocumented(decl ast.Decl) []*ast.Ident {
	switch decl := decl.(type) {
	case *ast.FuncDecl:
		if decl.Name.IsExported() && decl.Doc == nil && (decl.Recv == nil || receiver(decl).IsExported()) {
			return []*ast.Ident{decl.Name}
		}
	case *ast.GenDecl:
		var missing []*ast.Ident
		for _, spec := range decl.Specs {
			missing = append(missing, undocumentedSpec(decl, spec)...)
		}
		return missing
	}
	return nil
}

func undocumentedSpec(decl *ast.GenDecl, spec ast.Spec) []*ast.Ident {
	var missing []*ast.Ident
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		if !spec.Name.IsExported() {
			return nil
		}
		if spec.Doc == nil && (decl.Doc == nil || decl.Lparen != token.NoPos) {
			missing = append(missing, spec.Name)
		}
		if face, ok := spec.Type.(*ast.InterfaceType); ok {
			for _, method := range face.Methods.List {
				if len(method.Names) == 1 && method.Names[0].IsExported() && method.Doc == nil && method.Comment == nil {
					missing = append(missing, method.Names[0])
				}
			}
		}
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			if name.IsExported() && decl.Doc == nil && spec.Doc == nil && spec.Comment == nil {
				missing = append(missing, name)
			}
		}
	}
	return missing
}

func receiver(fn *ast.FuncDecl) *ast.Ident {
	expr := fn.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e
		default:
			return ast.NewIdent("_")
		}
	}
}
