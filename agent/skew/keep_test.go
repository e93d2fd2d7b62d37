package skew_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"virtmesh/agent/skew"
)

type part struct {
	Text string `json:"text,omitempty"`
	More *part  `json:"more,omitempty"`
}

type named struct {
	Name string `json:"name"`
	Part *part  `json:"part,omitempty"`
	part `json:",inline"`
}

type keyed struct {
	Port int   `json:"port,omitempty"`
	Part *part `json:"part,omitempty"`
}

// thing is the type of a version that does not know the newest fields.
type thing struct {
	Title  string            `json:"title,omitempty"`
	Spec   part              `json:"spec"`
	Ptr    *part             `json:"ptr,omitempty"`
	Zero   part              `json:"zero,omitzero"`
	Labels map[string]string `json:"labels,omitempty"`
	Parts  map[string]part   `json:"parts,omitempty"`
	Keyed  []keyed           `json:"keyed,omitempty" patchMergeKey:"port"`
	Named  []named           `json:"named,omitempty"`
	Plain  []part            `json:"plain,omitempty"`
	Tags   []string          `json:"tags,omitempty"`
}

// rewrite is what a version with the type thing does: read, change, write back.
func rewrite(t *testing.T, stored string, change func(*thing)) string {
	t.Helper()
	var v thing
	if err := json.Unmarshal([]byte(stored), &v); err != nil {
		t.Fatal(err)
	}
	change(&v)
	out, err := skew.Rewrite([]byte(stored), v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestWhatIsKept(t *testing.T) {
	for _, c := range []struct {
		name, stored string
		change       func(*thing)
		want         string
	}{
		{"at the top", `{"spec":{},"title":"a","new":[1,{}]}`, func(v *thing) { v.Title = "b" },
			`{"new":[1,{}],"spec":{},"title":"b"}`},
		{"deep inside", `{"spec":{"more":{"text":"a","new":1}}}`, func(v *thing) { v.Spec.More.Text = "b" },
			`{"spec":{"more":{"new":1,"text":"b"}}}`},
		{"numbers that no type can hold", `{"spec":{},"new":[1.50,18446744073709551615,1e999]}`, func(v *thing) { v.Title = "b" },
			`{"new":[1.50,18446744073709551615,1e999],"spec":{},"title":"b"}`},
		{"in a value of a map", `{"spec":{},"parts":{"a":{"text":"a","new":1},"b":{"new":2}}}`, func(v *thing) { v.Parts["a"] = part{Text: "b"} },
			`{"parts":{"a":{"new":1,"text":"b"},"b":{"new":2}},"spec":{}}`},
		{"a field that is removed goes with all that is in it", `{"spec":{},"ptr":{"text":"a","new":1},"new":2}`, func(v *thing) { v.Ptr = nil },
			`{"new":2,"spec":{}}`},
		{"an entry of a map too", `{"spec":{},"labels":{"a":"1","b":"2"},"new":1}`, func(v *thing) { delete(v.Labels, "a") },
			`{"labels":{"b":"2"},"new":1,"spec":{}}`},
		{"in a field that has nothing else in it", `{"spec":{},"zero":{"new":1}}`, func(v *thing) { v.Zero.Text = "b" },
			`{"spec":{},"zero":{"new":1,"text":"b"}}`},
		{"in a struct that becomes empty, and is left out", `{"spec":{},"zero":{"text":"a","new":1}}`, func(v *thing) { v.Zero.Text = "" },
			`{"spec":{},"zero":{"new":1}}`},
		{"an entry of a map of structs is removed", `{"spec":{},"parts":{"a":{"text":"a","new":1},"b":{}}}`, func(v *thing) { delete(v.Parts, "a") },
			`{"parts":{"b":{}},"spec":{}}`},
		{"by the merge key of the type", `{"spec":{},"keyed":[{"port":1,"new":1},{"port":2,"new":2},{"port":3,"new":3}]}`,
			func(v *thing) { v.Keyed = []keyed{{Port: 3, Part: &part{}}, {Port: 4}, {Port: 1}} },
			`{"keyed":[{"new":3,"part":{},"port":3},{"port":4},{"new":1,"port":1}],"spec":{}}`},
		{"by name", `{"spec":{},"named":[{"name":"a","new":1},{"name":"b","new":2}]}`,
			func(v *thing) { v.Named = []named{{Name: "c"}, {Name: "b", Part: &part{Text: "x"}}} },
			`{"named":[{"name":"c"},{"name":"b","new":2,"part":{"text":"x"}}],"spec":{}}`},
		{"a renamed element is another one", `{"spec":{},"named":[{"name":"a","new":1}]}`, func(v *thing) { v.Named[0].Name = "b" },
			`{"spec":{},"named":[{"name":"b"}]}`},
		{"keys that occur twice tell nothing: the place does", `{"spec":{},"keyed":[{"port":1,"new":1},{"port":1,"new":2}]}`,
			func(v *thing) { v.Keyed[1].Part = &part{} },
			`{"keyed":[{"new":1,"port":1},{"new":2,"part":{},"port":1}],"spec":{}}`},
		{"by place", `{"spec":{},"plain":[{"text":"a","new":1},{"text":"b","new":2}]}`, func(v *thing) { v.Plain[1].Text = "c" },
			`{"plain":[{"new":1,"text":"a"},{"new":2,"text":"c"}],"spec":{}}`},
		{"elements that move", `{"spec":{},"plain":[{"text":"a","new":1},{"text":"b","new":2},{"text":"c"}]}`,
			func(v *thing) { v.Plain = []part{{Text: "x"}, {Text: "b"}, {Text: "a"}, {Text: "y"}} },
			`{"plain":[{"text":"x"},{"new":2,"text":"b"},{"new":1,"text":"a"},{"text":"y"}],"spec":{}}`},
		{"a new element does not get what a removed one had", `{"spec":{},"plain":[{"text":"a","new":1},{"text":"b","new":2}]}`,
			func(v *thing) { v.Plain = []part{{Text: "b"}, {Text: "z"}} },
			`{"plain":[{"new":2,"text":"b"},{"text":"z"}],"spec":{}}`},
		{"a list of plain values is the writer's", `{"spec":{},"tags":["a","b"],"new":1}`, func(v *thing) { v.Tags = []string{"b", "c"} },
			`{"new":1,"spec":{},"tags":["b","c"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := rewrite(t, c.stored, c.change)
			if !equalJSON(t, got, c.want) {
				t.Errorf("%s became\n%s, want\n%s", c.stored, got, c.want)
			}
		})
	}
}

func equalJSON(t *testing.T, a, b string) bool {
	t.Helper()
	return reflect.DeepEqual(parseText(t, a), parseText(t, b))
}

func parseText(t interface{ Fatalf(string, ...any) }, text string) any {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// A record in which nothing is unknown is written as this version encodes it, however it
// was spelled before: so the next write of it needs no decoding.
func TestNothingUnknown(t *testing.T) {
	got := rewrite(t, ` { "title" : "\u0061", "tags": ["x"], "spec": {"text":"t"} } `, func(v *thing) { v.Spec.Text = "u" })
	if want := `{"title":"a","spec":{"text":"u"},"tags":["x"]}`; got != want {
		t.Errorf("wrote %s, want %s", got, want)
	}
	if got, err := skew.Rewrite(nil, part{Text: "a"}); err != nil || string(got) != `{"text":"a"}` {
		t.Errorf("a new record: %s, %v", got, err)
	}
}

func TestDamagedRecords(t *testing.T) {
	for _, stored := range []string{"{", `"text"`, `[]`, `{} {}`} {
		if out, err := skew.Rewrite([]byte(stored), part{}); err == nil {
			t.Errorf("%s was replaced by %s", stored, out)
		}
	}
	good := []byte("{}")
	for i := range 3 {
		values := [][]byte{[]byte(`{"a":1}`), good, good}
		values[i] = []byte(`{} {}`)
		if out, err := skew.KeepUnknown(nil, values[0], values[1], values[2]); err == nil {
			t.Errorf("value %d is damaged, and the result is %s", i, out)
		}
	}
}

// The lists may come from clients. If each element were compared with each other one,
// this test would run until it is stopped.
func TestLongListsTakeLinearTime(t *testing.T) {
	const n = 200_000
	list := func(first, last string) []byte {
		return []byte("[" + first + strings.Repeat("{},", n) + last + "]")
	}
	out, err := skew.KeepUnknown(nil, list("", `{"text":"a","new":1}`), list("", `{"text":"a"}`), list(`{"text":"z"},`, `{"text":"a"}`))
	if err != nil || !strings.HasSuffix(string(out), `{},{"new":1,"text":"a"}]`) {
		t.Errorf("the last element, which has moved, lost what was unknown (%v)", err)
	}
}

func FuzzKeepUnknown(f *testing.F) {
	f.Add([]byte(`{"title":"a","named":[{"name":"a","new":1}],"new":1}`), []byte(`{"title":"b","named":[{"name":"a","text":"x"}],"spec":{}}`))
	f.Add([]byte(`{"keyed":[{"port":1,"new":1},null,{"port":1}],"plain":[[],{},1]}`), []byte(`{"keyed":[{"port":1}],"spec":{}}`))
	f.Fuzz(func(t *testing.T, stored, wanted []byte) {
		for _, typ := range []reflect.Type{nil, reflect.TypeFor[thing]()} {
			// What a peer stored may be anything, and need not fit what is known of it.
			if out, err := skew.KeepUnknown(typ, stored, wanted, wanted); err == nil && !json.Valid(out) && json.Valid(wanted) {
				t.Errorf("wrote %q", out)
			}
			if out, err := skew.KeepUnknown(typ, stored, []byte(`{"named":[{"name":"a"}],"keyed":[{"port":1},{"port":1}]}`), wanted); err == nil && !json.Valid(out) {
				t.Errorf("wrote %q", out)
			}
		}
		var v thing
		if json.Unmarshal(wanted, &v) != nil || json.Unmarshal(stored, new(thing)) != nil {
			return
		}
		out, err := skew.Rewrite(stored, v)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := json.Marshal(v)
		if got, err := skew.KnownOf[thing](out); err != nil || string(got) != string(want) {
			t.Errorf("%s was written over %s: read back %s (%v), want %s", want, stored, got, err, want)
		}
	})
}
