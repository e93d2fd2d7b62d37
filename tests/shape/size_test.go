package shape

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

// Limits above which something is too large to be read in one go.
const (
	maxFileLines        = 400
	maxTestFileLines    = 800
	maxFunctionLines    = 60
	maxInterfaceMethods = 10
	maxStructFields     = 30
)

func lineCount(fset *token.FileSet, from, to token.Pos) int {
	return fset.Position(to).Line - fset.Position(from).Line + 1
}

func TestFilesStaySmall(t *testing.T) {
	fset, packages := load(t)
	rule := newRule(t, "files")
	check := func(files map[string]*ast.File, limit int) {
		for path, file := range files {
			if lines := fset.Position(file.FileEnd).Line; lines > limit+1 {
				rule.broken(path, "%s has %d lines, more than %d", path, lines-1, limit)
			}
		}
	}
	for _, p := range packages {
		check(p.files, maxFileLines)
		check(p.tests, maxTestFileLines)
	}
	rule.done()
}

func TestFunctionsStaySmall(t *testing.T) {
	rule := newRule(t, "functions")
	eachFile(t, func(fset *token.FileSet, path string, file *ast.File) {
		for _, declaration := range file.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if lines := lineCount(fset, function.Pos(), function.End()); lines > maxFunctionLines {
				rule.broken(path+" "+function.Name.Name, "%s: %s has %d lines, more than %d", path, function.Name.Name, lines, maxFunctionLines)
			}
		}
	})
	rule.done()
}

// An interface is what its user needs. One that embeds others counts only what
// it adds itself: each of the others is small as well.
func TestInterfacesStayNarrow(t *testing.T) {
	rule := newRule(t, "interfaces")
	eachFile(t, func(_ *token.FileSet, path string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			contract, ok := spec.Type.(*ast.InterfaceType)
			if !ok {
				return true
			}
			methods := 0
			for _, method := range contract.Methods.List {
				methods += len(method.Names)
			}
			if methods > maxInterfaceMethods {
				rule.broken(path+" "+spec.Name.Name, "%s: interface %s has %d methods, more than %d", path, spec.Name.Name, methods, maxInterfaceMethods)
			}
			return true
		})
	})
	rule.done()
}

// apiTypes says whether a package holds types of the API, whose fields are the
// users' and not ours to split.
func apiTypes(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasSuffix(part, "v1") || strings.Contains(part, "v1alpha") || strings.Contains(part, "v1beta") {
			return true
		}
	}
	return false
}

func TestStructsAreNotBags(t *testing.T) {
	rule := newRule(t, "structs")
	eachFile(t, func(_ *token.FileSet, path string, file *ast.File) {
		if apiTypes(path) {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			structure, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			if fields := structure.Fields.NumFields(); fields > maxStructFields {
				rule.broken(path+" "+spec.Name.Name, "%s: struct %s has %d fields, more than %d", path, spec.Name.Name, fields, maxStructFields)
			}
			return true
		})
	})
	rule.done()
}

// Package agent only assembles: what it would do itself has a room of its own.
const (
	maxAssemblyLines   = 900
	maxAssemblyMethods = 25
)

func TestPackageAgentOnlyAssembles(t *testing.T) {
	fset, packages := load(t)
	lines, methods := 0, map[string]int{}
	for _, p := range packages {
		if p.path != "agent" {
			continue
		}
		for _, file := range p.files {
			lines += fset.Position(file.FileEnd).Line - 1
			for _, declaration := range file.Decls {
				if function, ok := declaration.(*ast.FuncDecl); ok && function.Recv != nil {
					methods[receiverName(function)]++
				}
			}
		}
	}
	if lines == 0 {
		t.Fatal("package agent was not found")
	}
	if lines > maxAssemblyLines {
		t.Errorf("package agent has %d lines, more than %d: find a room for what is not assembly", lines, maxAssemblyLines)
	}
	for name, n := range methods {
		if n > maxAssemblyMethods {
			t.Errorf("agent.%s has %d methods, more than %d: it is a bag", name, n, maxAssemblyMethods)
		}
	}
}

// receiverName is the name of the type that a method belongs to.
func receiverName(method *ast.FuncDecl) string {
	expression := method.Recv.List[0].Type
	if star, ok := expression.(*ast.StarExpr); ok {
		expression = star.X
	}
	if name, ok := expression.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}
