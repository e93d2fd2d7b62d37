package kinds

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of kinds in docs/api-coverage.md anew")

const (
	coveragePath  = "../../docs/api-coverage.md"
	coverageBegin = "<!-- The table is written by: go test ./agent/kinds -run TestCoverageTable -update -->\n"
	coverageEnd   = "<!-- end of the table -->\n"
)

// coverageTable renders the catalogue for people.
func coverageTable() string {
	var b strings.Builder
	b.WriteString("| kind | names for kubectl | state | spec is written by | status is written by |\n|---|---|---|---|---|\n")
	for _, k := range All() {
		names := strings.Join(append([]string{k.Resource}, k.ShortNames...), ", ")
		status := k.Writers.Status
		if status == "" {
			status = "-"
		}
		fmt.Fprintf(&b, "| %s (`%s`) | %s | %s | %s | %s |\n", k.GVK.Kind, k.GVK.GroupVersion(), names, k.Support, k.Writers.Spec, status)
	}
	return b.String()
}

// The documentation lists the kinds that are served, and no others.
func TestCoverageTable(t *testing.T) {
	page, err := os.ReadFile(coveragePath)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), coverageBegin)
	table, after, ended := strings.Cut(rest, coverageEnd)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table of kinds, between %q and %q", coveragePath, coverageBegin, coverageEnd)
	}
	want := coverageTable()
	if table == want {
		return
	}
	if !*update {
		t.Fatalf("the table of kinds in %s is stale: run go test ./agent/kinds -run TestCoverageTable -update", coveragePath)
	}
	if err := os.WriteFile(coveragePath, []byte(before+coverageBegin+want+coverageEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
