package kinds

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"virtmesh/agent/kinds/hcov1beta1"
)

const (
	tablePath  = "../../docs/hyperconverged.md"
	tableBegin = "<!-- The table is written by: go test ./agent/kinds -run TestHyperConvergedTable -update -->\n"
)

// fieldsOf returns the fields of a type of the configuration: those that are no struct of its
// own package, by path.
func fieldsOf(typ reflect.Type, path string) []string {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	own := reflect.TypeFor[hcov1beta1.HyperConverged]().PkgPath()
	if typ.Kind() != reflect.Struct || typ.PkgPath() != own || typ.NumField() == 0 {
		return []string{path}
	}
	var fields []string
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		fields = append(fields, fieldsOf(typ.Field(i).Type, path+"."+name)...)
	}
	return fields
}

func hyperConvergedTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| field | state | |\n|---|---|---|\n")
	used := map[string]bool{}
	for _, path := range fieldsOf(reflect.TypeFor[hcov1beta1.HyperConvergedSpec](), "spec") {
		setting, ok := hcov1beta1.SettingOf(path)
		if !ok {
			t.Errorf("nothing says whether %s acts", path)
		}
		used[setting.Path] = true
		fmt.Fprintf(&b, "| `%s` | %s | %s; `%s` |\n", strings.TrimPrefix(path, "spec."), setting.State, setting.Note, setting.Test)
	}
	for _, s := range hcov1beta1.Settings() {
		if !used[s.Path] {
			t.Errorf("the list names %s, which is no field", s.Path)
		}
	}
	return b.String()
}

// The documentation lists every field, and says of each what becomes of it.
func TestHyperConvergedTable(t *testing.T) {
	want := hyperConvergedTable(t)
	page, err := os.ReadFile(tablePath)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), tableBegin)
	table, after, ended := strings.Cut(rest, coverageEnd)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table, between %q and %q", tablePath, tableBegin, coverageEnd)
	}
	if table == want {
		return
	}
	if !*update {
		t.Fatalf("the table in %s is stale: run go test ./agent/kinds -run TestHyperConvergedTable -update", tablePath)
	}
	if err := os.WriteFile(tablePath, []byte(before+tableBegin+want+coverageEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The tests that the table names are there.
func TestHyperConvergedTableNamesTests(t *testing.T) {
	named := map[string]bool{}
	for _, s := range hcov1beta1.Settings() {
		named[s.Test] = true
	}
	for _, dir := range []string{".", "../stewards/roster", "../api"} {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			source, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for test := range named {
				if regexp.MustCompile(`(?m)^func ` + test + `\(`).Match(source) {
					delete(named, test)
				}
			}
		}
	}
	for test := range named {
		t.Errorf("no test is named %s", test)
	}
}
