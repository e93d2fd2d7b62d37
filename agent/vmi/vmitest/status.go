package vmitest

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// StatusTable is a table of docs/status.md about one status: it maps the path of a
// field to the row that says who fills it in. A row also covers the fields below its
// own, unless they have rows of their own.
type StatusTable map[string]string

// ReadStatusTable reads the table below a heading of the document at path.
func ReadStatusTable(t *testing.T, path, heading string) StatusTable {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no heading %q", path, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	table := StatusTable{}
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) == 1 && len(table) > 0 {
			break // the text after the table is not part of it
		}
		if len(cells) < 4 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue
		}
		for field := range strings.SplitSeq(cells[1], ",") {
			table[strings.Trim(field, " `")] = strings.TrimSpace(cells[2])
		}
	}
	return table
}

// Empty reports whether the table says that nobody fills in the field, because it has
// no meaning here or is not supported yet.
func (s StatusTable) Empty(field string) bool {
	who := s.who(field)
	return strings.HasPrefix(who, "not applicable") || strings.HasPrefix(who, "not yet")
}

// who returns the text of the row of the field, or of the nearest field above it that
// has one.
func (s StatusTable) who(field string) string {
	for {
		if who, ok := s[field]; ok {
			return who
		}
		dot := strings.LastIndexByte(field, '.')
		if dot < 0 {
			return ""
		}
		field = field[:dot]
	}
}

// Check compares the table with a type and with statuses of it that were really seen,
// which together show all that is ever filled in: every field of the type has a row,
// every row a field, and a field is filled in exactly if the table says so.
func (s StatusTable) Check(t *testing.T, seen ...any) {
	t.Helper()
	filled := map[string]bool{}
	for _, status := range seen {
		walkValue(reflect.ValueOf(status), "", filled)
	}
	fields := map[string]bool{}
	leaves := walkType(reflect.TypeOf(seen[0]), "", fields, nil)
	for _, field := range leaves {
		switch {
		case s.who(field) == "":
			t.Errorf("%s has no row", field)
		case s.Empty(field) && filled[field]:
			t.Errorf("%s is filled in, and the table says %q", field, s.who(field))
		case !s.Empty(field) && !filled[field]:
			t.Errorf("%s is never filled in, and the table says by %q", field, s.who(field))
		}
	}
	for field := range s {
		if !fields[field] {
			t.Errorf("the table has a row of %s, and there is no such field", field)
		}
	}
}

// walkType notes the paths of all fields below a type in fields, and returns those of
// the fields that have none below them.
func walkType(typ reflect.Type, path string, fields map[string]bool, leaves []string) []string {
	typ = element(typ)
	if path != "" {
		fields[path] = true
	}
	if !inner(typ) {
		return append(leaves, path)
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		leaves = walkType(f.Type, join(path, f), fields, leaves)
	}
	return leaves
}

// walkValue notes the paths of the fields that are not zero.
func walkValue(v reflect.Value, path string, filled map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			walkValue(v.Elem(), path, filled)
		}
		return
	case reflect.Slice:
		for i := range v.Len() {
			walkValue(v.Index(i), path, filled)
		}
		return
	}
	if !inner(v.Type()) {
		filled[path] = filled[path] || !v.IsZero()
		return
	}
	for i := range v.NumField() {
		walkValue(v.Field(i), join(path, v.Type().Field(i)), filled)
	}
}

func element(typ reflect.Type) reflect.Type {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	return typ
}

// inner reports whether the walk descends into the fields of a type. It does for
// KubeVirt's structures; a time or a quantity counts as one value.
func inner(typ reflect.Type) bool {
	return typ.Kind() == reflect.Struct && strings.HasPrefix(typ.PkgPath(), "kubevirt.io/")
}

// join adds a field's name in JSON to a path. An embedded structure adds none.
func join(path string, f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	switch {
	case name == "" && f.Anonymous:
		name = "typeMeta"
	case name == "":
		name = f.Name
	}
	if path == "" {
		return name
	}
	return path + "." + name
}
