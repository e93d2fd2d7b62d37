package shape

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

func TestNoInitFunctions(t *testing.T) {
	eachFile(t, func(_ *token.FileSet, path string, file *ast.File) {
		for _, declaration := range file.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok && function.Recv == nil && function.Name.Name == "init" {
				t.Errorf("%s: nothing happens before main: no init functions", path)
			}
		}
	})
}

// A package variable is an error, a table or something else that never
// changes: two agents live in one process of the tests.
func TestPackageVariablesAreConstant(t *testing.T) {
	_, packages := load(t)
	rule := newRule(t, "variables")
	for _, p := range packages {
		variables := packageVariables(p)
		report := func(name, how string) {
			rule.broken(p.path+"."+name, "%s: package variable %s %s; state belongs to a value that is passed on", p.path, name, how)
		}
		for name, spec := range variables {
			if reason := mutableByNature(spec, name); reason != "" {
				report(name, reason)
			}
		}
		for _, file := range p.files {
			ast.Inspect(file, func(n ast.Node) bool {
				for _, target := range changedBy(n) {
					id := rootOf(target)
					if id == nil || variables[id.Name] == nil {
						continue
					}
					// The parser binds a name to what declares it in the file, if
					// anything does: a local variable of the same name is another.
					if id.Obj == nil || id.Obj.Decl == variables[id.Name] {
						report(id.Name, "is changed")
					}
				}
				return true
			})
		}
	}
	rule.done()
}

func packageVariables(p goPackage) map[string]*ast.ValueSpec {
	variables := map[string]*ast.ValueSpec{}
	for _, file := range p.files {
		for _, declaration := range file.Decls {
			group, ok := declaration.(*ast.GenDecl)
			if !ok || group.Tok != token.VAR {
				continue
			}
			for _, spec := range group.Specs {
				value := spec.(*ast.ValueSpec)
				if embedded(group, value) {
					continue
				}
				for _, name := range value.Names {
					if name.Name != "_" {
						variables[name.Name] = value
					}
				}
			}
		}
	}
	return variables
}

// embedded says whether a variable is filled by the compiler from a file.
func embedded(group *ast.GenDecl, value *ast.ValueSpec) bool {
	for _, doc := range []*ast.CommentGroup{group.Doc, value.Doc} {
		if doc == nil {
			continue
		}
		for _, comment := range doc.List {
			if strings.HasPrefix(comment.Text, "//go:embed ") {
				return true
			}
		}
	}
	return false
}

// mutableByNature says why a variable is one that is meant to change.
func mutableByNature(spec *ast.ValueSpec, name string) string {
	if len(spec.Values) == 0 {
		return "has no value of its own"
	}
	for i, id := range spec.Names {
		if id.Name != name || i >= len(spec.Values) {
			continue
		}
		switch value := spec.Values[i].(type) {
		case *ast.CallExpr:
			if called, ok := value.Fun.(*ast.Ident); ok && called.Name == "make" {
				return "is made to be filled"
			}
			if selector, ok := value.Fun.(*ast.SelectorExpr); ok && isPackage(selector.X, "prometheus", "promauto") && selector.Sel.Name != "NewDesc" {
				return "is a metric, which counts"
			}
		case *ast.CompositeLit:
			if selector, ok := value.Type.(*ast.SelectorExpr); ok && isPackage(selector.X, "sync", "atomic") {
				return "is a lock or counter"
			}
		}
	}
	return ""
}

func isPackage(x ast.Expr, names ...string) bool {
	id, ok := x.(*ast.Ident)
	if !ok || id.Obj != nil {
		return false
	}
	for _, name := range names {
		if id.Name == name {
			return true
		}
	}
	return false
}

// changedBy lists what a statement assigns to, counts up, deletes from or
// takes the address of.
func changedBy(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.CallExpr:
		if called, ok := n.Fun.(*ast.Ident); ok && (called.Name == "delete" || called.Name == "clear") && len(n.Args) > 0 {
			return n.Args[:1]
		}
	}
	return nil
}

// rootOf is the variable that an expression such as a.b[c] begins with.
func rootOf(x ast.Expr) *ast.Ident {
	for {
		switch inner := x.(type) {
		case *ast.Ident:
			return inner
		case *ast.SelectorExpr:
			x = inner.X
		case *ast.IndexExpr:
			x = inner.X
		case *ast.StarExpr:
			x = inner.X
		case *ast.ParenExpr:
			x = inner.X
		default:
			return nil
		}
	}
}
