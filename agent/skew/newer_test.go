package skew_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"virtmesh/agent/skew"
)

// TestOlderVersionChangesOnlyWhatItKnows draws a record of a newer version, which has
// more fields, at any place where an object of the older version can have some, and
// changes. A writer of the older version must leave the record as one of the newer
// version would that makes the same changes.
func TestOlderVersionChangesOnlyWhatItKnows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		known := draw(t)
		newer := addUnknown(t, reflect.TypeFor[thing](), clone(t, known))
		fresh := 100 // makes every value that is written another one
		for range rapid.IntRange(1, 3).Draw(t, "writes") {
			stored := encode(t, newer)
			fields := []string{"title", "spec", "ptr", "labels", "parts", "keyed", "named", "plain", "tags"}
			for range rapid.IntRange(1, 6).Draw(t, "changes") {
				where := rapid.SampledFrom(fields).Draw(t, "where")
				if where != "keyed" && where != "named" {
					// Of what is removed and added again in one write, only the change shows.
					fields = slices.DeleteFunc(fields, func(f string) bool { return f == where })
				}
				fresh++
				c := drawChange(t, known, where, fresh)
				c(known)
				c(newer)
			}
			var wanted thing
			if err := json.Unmarshal(encode(t, known), &wanted); err != nil {
				t.Fatal(err)
			}
			got, err := skew.Rewrite(stored, wanted)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(parseText(t, string(got)), any(newer)) {
				t.Fatalf("a record of a newer version\n%s\nbecame\n%s, want\n%s", stored, got, encode(t, newer))
			}
		}
	})
}

// TestEveryWriteTakesEffect: whatever is kept, a reader of the writer's version reads what
// was written.
func TestEveryWriteTakesEffect(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stored := encode(t, addUnknown(t, reflect.TypeFor[thing](), draw(t)))
		var wanted thing
		if err := json.Unmarshal(encode(t, draw(t)), &wanted); err != nil {
			t.Fatal(err)
		}
		out, err := skew.Rewrite(stored, wanted)
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(wanted)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := skew.KnownOf[thing](out); err != nil || string(got) != string(want) {
			t.Errorf("over %s\nwrote %s\nread back %s (%v)", stored, want, got, err)
		}
	})
}

type tree = map[string]any

// draw draws a record of the older version, as JSON.
func draw(t *rapid.T) tree {
	text := rapid.StringMatching(`[a-e]{1,2}`)
	drawPart := rapid.Custom(func(t *rapid.T) part {
		p := part{Text: text.Draw(t, "text")}
		if rapid.Bool().Draw(t, "deeper") {
			p.More = &part{Text: text.Draw(t, "text")}
		}
		return p
	})
	v := thing{
		Title:  text.Draw(t, "title"),
		Spec:   drawPart.Draw(t, "spec"),
		Labels: rapid.MapOfN(text, text, 0, 3).Draw(t, "labels"),
		Parts:  rapid.MapOfN(text, drawPart, 0, 3).Draw(t, "parts"),
		Plain:  rapid.SliceOfNDistinct(drawPart, 0, 4, func(p part) string { return p.Text }).Draw(t, "plain"),
		Tags:   rapid.SliceOfN(text, 0, 3).Draw(t, "tags"),
	}
	if rapid.Bool().Draw(t, "ptr") {
		v.Ptr = &part{Text: text.Draw(t, "text")}
	}
	for _, port := range rapid.SliceOfNDistinct(rapid.IntRange(1, 9), 0, 4, rapid.ID).Draw(t, "ports") {
		v.Keyed = append(v.Keyed, keyed{Port: port, Part: &part{Text: text.Draw(t, "text")}})
	}
	for _, name := range rapid.SliceOfNDistinct(text, 0, 4, rapid.ID).Draw(t, "names") {
		v.Named = append(v.Named, named{Name: name, Part: &part{Text: text.Draw(t, "text")}})
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return parseText(t, string(b)).(tree)
}

// unknown draws the value of a field that only the newer version has.
func unknown(depth int) *rapid.Generator[any] {
	leaves := []any{"x", "", true, nil, json.Number("18446744073709551615"), json.Number("1.50"), tree{}, []any{}}
	if depth == 0 {
		return rapid.SampledFrom(leaves)
	}
	return rapid.OneOf(
		rapid.SampledFrom(leaves),
		rapid.Map(rapid.SliceOfN(unknown(depth-1), 1, 3), func(l []any) any { return l }),
		rapid.Map(rapid.MapOfN(rapid.SampledFrom([]string{"text", "name", "newer"}), unknown(depth-1), 1, 3), func(m tree) any { return m }),
	)
}

// addUnknown adds fields of a newer version to the objects in a value of a type, except to
// maps, all of whose keys are known.
func addUnknown[T any](t *rapid.T, typ reflect.Type, value T) T {
	switch v := any(value).(type) {
	case []any:
		for i := range v {
			v[i] = addUnknown(t, typ.Elem(), v[i])
		}
	case tree:
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if typ.Kind() == reflect.Map {
				v[name] = addUnknown(t, typ.Elem(), v[name])
			} else if f, ok := fieldNamed(typ, name); ok {
				v[name] = addUnknown(t, f, v[name])
			}
		}
		if typ.Kind() == reflect.Struct {
			for i := range rapid.IntRange(0, 2).Draw(t, "unknown fields") {
				v[fmt.Sprintf("new%d", i)] = unknown(2).Draw(t, "unknown")
			}
		}
	}
	return value
}

func fieldNamed(typ reflect.Type, name string) (reflect.Type, bool) {
	for _, f := range reflect.VisibleFields(typ) {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name {
			return f.Type, true
		}
	}
	return nil, false
}

// drawChange draws a change that means the same for a record of either version.
func drawChange(t *rapid.T, now tree, where string, n int) func(tree) {
	fresh := fmt.Sprint("fresh-", n)
	switch where {
	case "title":
		if rapid.Bool().Draw(t, "remove") {
			return func(v tree) { delete(v, "title") }
		}
		return func(v tree) { v["title"] = fresh }
	case "spec":
		if rapid.Bool().Draw(t, "remove") {
			return func(v tree) { delete(v["spec"].(tree), "more") }
		}
		return func(v tree) { v["spec"].(tree)["text"] = fresh }
	case "ptr":
		if now["ptr"] != nil && rapid.Bool().Draw(t, "change") {
			return func(v tree) { v["ptr"].(tree)["text"] = fresh }
		}
		if now["ptr"] != nil {
			return func(v tree) { delete(v, "ptr") }
		}
		return func(v tree) { v["ptr"] = tree{"text": fresh} }
	case "labels":
		return changeMap(t, now, "labels", func(any) any { return fresh })
	case "parts":
		return changeMap(t, now, "parts", func(old any) any { return withText(old, fresh) })
	case "keyed":
		return changeList(t, now, where, withPart(tree{"port": json.Number(fmt.Sprint(n))}), fresh)
	case "named":
		return changeList(t, now, where, withPart(tree{"name": fresh}), fresh)
	case "plain":
		return changeList(t, now, where, withText, fresh)
	}
	return func(v tree) { v["tags"] = []any{fresh, fresh} }
}

// withText returns an object with another text, or a new one.
func withText(old any, text string) any {
	v, ok := old.(tree)
	if !ok {
		v = tree{}
	}
	v["text"] = text
	return v
}

// withPart returns the function that sets the part of an element of a list, or returns a
// copy of added.
func withPart(added tree) func(old any, text string) any {
	return func(old any, text string) any {
		v, ok := old.(tree)
		if !ok {
			v = maps.Clone(added)
		}
		v["part"] = withText(v["part"], text)
		return v
	}
}

// changeMap changes or adds an entry of a map, or removes one.
func changeMap(t *rapid.T, now tree, name string, set func(old any) any) func(tree) {
	entries, _ := now[name].(tree)
	keys := append(slices.Sorted(maps.Keys(entries)), "added")
	key := rapid.SampledFrom(keys).Draw(t, "key")
	remove := entries[key] != nil && rapid.Bool().Draw(t, "remove")
	return func(v tree) {
		entries, ok := v[name].(tree)
		if !ok {
			entries = tree{}
			v[name] = entries
		}
		if entries[key] = set(entries[key]); remove {
			delete(entries, key)
		}
		if len(entries) == 0 {
			delete(v, name)
		}
	}
}

// changeList changes an element of a list, adds one, removes one, or reverses the list.
func changeList(t *rapid.T, now tree, name string, set func(old any, text string) any, text string) func(tree) {
	list, _ := now[name].([]any)
	act := "add"
	if len(list) > 0 {
		act = rapid.SampledFrom([]string{"add", "change", "remove", "reverse"}).Draw(t, "act")
	}
	at := rapid.IntRange(0, max(0, len(list)-1)).Draw(t, "at")
	return func(v tree) {
		list, _ := v[name].([]any)
		switch act {
		case "add":
			list = slices.Insert(slices.Clone(list), at, set(nil, text))
		case "change":
			list[at] = set(list[at], text)
		case "remove":
			list = slices.Delete(slices.Clone(list), at, at+1)
		case "reverse":
			slices.Reverse(list)
		}
		if v[name] = list; len(list) == 0 {
			delete(v, name)
		}
	}
}

func clone(t *rapid.T, v tree) tree { return parseText(t, string(encode(t, v))).(tree) }

func encode(t *rapid.T, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
