package main

import (
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

const source = `package p

func f(a, b int, ok bool) int {
	if a < b && ok {
		g()
		log.Info("told")
	}
	return a + 7
}
`

func TestFaultsOfAFile(t *testing.T) {
	found, err := mutantsOf("p.go", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range found {
		changed := string(m.mutated())
		if changed == source {
			t.Errorf("%s at line %d changes nothing", m.kind, m.line)
		}
		if _, err := parser.ParseFile(token.NewFileSet(), "p.go", changed, 0); err != nil {
			t.Errorf("%s at line %d is no Go: %v", m.kind, m.line, err)
		}
		if diff := m.diff(); strings.Count(diff, "\n") != 2 {
			t.Errorf("%s shows as %q", m.kind, diff)
		}
		_, after, _ := strings.Cut(m.diff(), "\n        + ")
		got = append(got, strings.TrimSpace(after))
	}
	slices.Sort(got)
	want := []string{"", "if !(a < b && ok) {", "if a < b || ok {", "if a <= b && ok {", "return a + 8", "return a - 7"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestSameSourceGivesSameFaults(t *testing.T) {
	one, _ := mutantsOf("p.go", []byte(source))
	two, _ := mutantsOf("p.go", []byte(source))
	if len(one) == 0 || !slices.EqualFunc(one, two, func(a, b mutant) bool { return a.from == b.from && a.kind == b.kind }) {
		t.Error("a seed would not draw the same faults again")
	}
}
