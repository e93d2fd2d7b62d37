package shape

import (
	"go/ast"
	"go/token"
	"slices"
	"testing"
)

// clocked are the packages that write times into objects. These come from an
// objects.Clock. They call time.Now only to measure how long something lasts.
var clocked = []string{
	"agent/claims", "agent/host/executor", "agent/host/publish", "agent/host/sweep", "agent/objects", "agent/stewards",
}

// TestStoredTimesComeFromAClock forbids what turns the result of time.Now into something
// that is stored: to pass it on, and to round or format it.
func TestStoredTimesComeFromAClock(t *testing.T) {
	found := false
	eachFile(t, func(fset *token.FileSet, path string, file *ast.File) {
		if !slices.ContainsFunc(clocked, func(dir string) bool { return within(path, dir) }) || within(path, "agent/stewards/stewardstest") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			found = found || isTimeNow(n)
			switch n := n.(type) {
			case *ast.CallExpr:
				if slices.ContainsFunc(n.Args, func(arg ast.Expr) bool { return isTimeNow(arg) }) {
					t.Errorf("%s: passes time.Now() on: use a Clock for times that are stored", fset.Position(n.Pos()))
				}
			case *ast.SelectorExpr:
				if isTimeNow(n.X) && !slices.Contains([]string{"Add", "Sub", "Before", "After"}, n.Sel.Name) {
					t.Errorf("%s: uses time.Now().%s: use a Clock for times that are stored", fset.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	})
	if !found {
		t.Error("nobody calls time.Now any more: this test looks for the wrong thing")
	}
}

// isTimeNow reports whether n calls time.Now.
func isTimeNow(n ast.Node) bool {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Now" && isPackage(sel.X, "time")
}
