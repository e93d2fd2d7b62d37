package shape

import (
	"go/ast"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// Where objects live in the store is spelled in one file; everyone else asks it.
func TestKeyLayoutIsSpelledOnce(t *testing.T) {
	fset, packages := load(t)
	layout := filepath.Join("agent", "kinds", "key.go")
	var found bool
	for _, p := range packages {
		if strings.HasPrefix(p.path, "tests") {
			continue
		}
		for path, file := range p.files {
			ast.Inspect(file, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING || !strings.HasPrefix(lit.Value, `"/registry/`) {
					return true
				}
				if path == layout {
					found = true
				} else {
					t.Errorf("%s: spells a store key; use package kinds", fset.Position(lit.Pos()))
				}
				return true
			})
		}
	}
	if !found {
		t.Errorf("%s does not spell the layout of keys any more: this test looks for the wrong thing", layout)
	}
}
