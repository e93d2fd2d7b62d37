package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mutant is one fault: some bytes of a file replaced by others.
type mutant struct {
	target      target
	file        string // from the root of the tree
	source      []byte
	line        int
	from, to    int
	replacement string
	kind        string
}

func (m mutant) mutated() []byte {
	return bytes.Join([][]byte{m.source[:m.from], []byte(m.replacement), m.source[m.to:]}, nil)
}

// diff is the first line that the fault changes, before and after.
func (m mutant) diff() string {
	line := func(text []byte, from int) string {
		start := bytes.LastIndexByte(text[:from], '\n') + 1
		rest, _, _ := bytes.Cut(text[start:], []byte("\n"))
		return strings.TrimSpace(string(rest))
	}
	return fmt.Sprintf("        - %s\n        + %s\n", line(m.source, m.from), line(m.mutated(), m.from))
}

// collect lists the faults that the packages below dir can be given.
func collect(only string) ([]mutant, error) {
	var all []mutant
	for _, t := range targets {
		if !strings.HasPrefix(t.dir, only) {
			continue
		}
		files, err := filepath.Glob(filepath.Join(t.dir, "*.go"))
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", t.dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", file, err)
			}
			found, err := mutantsOf(file, source)
			if err != nil {
				return nil, err
			}
			for i := range found {
				found[i].target = t
			}
			all = append(all, found...)
		}
	}
	return all, nil
}

// swapped are operators that are easily mistaken for each other.
var swapped = map[token.Token][]string{
	token.LSS: {"<="}, token.LEQ: {"<"}, token.GTR: {">="}, token.GEQ: {">"},
	token.EQL: {"!="}, token.NEQ: {"=="}, token.LAND: {"||"}, token.LOR: {"&&"},
	token.ADD: {"-"}, token.SUB: {"+"}, token.MUL: {"/"}, token.QUO: {"*"},
}

// mutantsOf lists the faults that a file can be given.
func mutantsOf(file string, source []byte) ([]mutant, error) {
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", file, err)
	}
	var found []mutant
	change := func(kind string, from, to token.Pos, replacement string) {
		at := fset.Position(from)
		found = append(found, mutant{
			file: file, source: source, line: at.Line, kind: kind,
			from: at.Offset, to: fset.Position(to).Offset, replacement: replacement,
		})
	}
	text := func(n ast.Node) string {
		return string(source[fset.Position(n.Pos()).Offset:fset.Position(n.End()).Offset])
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.IfStmt:
			change("negated condition", n.Cond.Pos(), n.Cond.End(), "!("+text(n.Cond)+")")
		case *ast.BinaryExpr:
			for _, other := range swapped[n.Op] {
				change("swapped "+n.Op.String(), n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), other)
			}
		case *ast.ExprStmt:
			if call, ok := n.X.(*ast.CallExpr); ok && !onlyTells(call) {
				change("dropped call", n.Pos(), n.End(), "")
			}
		case *ast.BasicLit:
			if number, err := strconv.ParseInt(n.Value, 0, 64); n.Kind == token.INT && err == nil {
				change("changed constant", n.Pos(), n.End(), strconv.FormatInt(number+1, 10))
			}
		case *ast.Ident:
			if other, ok := map[string]string{"true": "false", "false": "true"}[n.Name]; ok {
				change("changed constant", n.Pos(), n.End(), other)
			}
		}
		return true
	})
	return found, nil
}

// onlyTells says whether a call writes to the log, which no test should hold.
func onlyTells(call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	switch selector.Sel.Name {
	case "Debug", "Info", "Warn", "Error", "Log":
		return true
	}
	return false
}
