package vmi

import (
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func drawResources(t *rapid.T, name string) Resources {
	amount := rapid.Int64Range(0, 8)
	r := Resources{
		CPUMilli: amount.Draw(t, name+" cpu"), MemoryBytes: amount.Draw(t, name+" memory"), EphemeralBytes: amount.Draw(t, name+" disk"),
	}
	for _, size := range []string{"2Mi", "1Gi"} {
		if n := amount.Draw(t, name+" "+size); n > 0 {
			if r.Hugepages == nil {
				r.Hugepages = map[string]int64{}
			}
			r.Hugepages[size] = n
		}
	}
	if n := amount.Draw(t, name+" gpu"); n > 0 {
		r.Devices = map[string]int64{"acme.com/gpu": n}
	}
	return r
}

func TestAmountsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawResources(t, "a"), drawResources(t, "b")
		before, err := json.Marshal([]Resources{a, b})
		if err != nil {
			t.Fatal(err)
		}
		sum := a.Add(b)
		if !sum.Equal(b.Add(a)) || !sum.Sub(b).Equal(a) || !sum.Sub(a).Equal(b) {
			t.Errorf("%+v and %+v are %+v", a, b, sum)
		}
		if !sum.Fits(&a) || len(sum.Lacking(b)) > 0 {
			t.Errorf("%+v does not hold its parts", sum)
		}
		if after, _ := json.Marshal([]Resources{a, b}); string(after) != string(before) {
			t.Errorf("adding has changed %s to %s", before, after)
		}
		if a.Fits(&b) != (len(a.Lacking(b)) == 0) {
			t.Errorf("%+v in %+v: fits %v, lacks %v", b, a, a.Fits(&b), a.Lacking(b))
		}
		if a.Equal(b) != (a.Fits(&b) && b.Fits(&a)) {
			t.Errorf("%+v and %+v: equal is %v", a, b, a.Equal(b))
		}
		var back Resources
		text, err := json.Marshal(a)
		if err != nil || json.Unmarshal(text, &back) != nil || !back.Equal(a) {
			t.Errorf("%+v is read back from %s as %+v", a, text, back)
		}
	})
}

func TestWhatIsLackingIsNamed(t *testing.T) {
	have := Resources{CPUMilli: 10, MemoryBytes: 10, EphemeralBytes: 10, Hugepages: map[string]int64{"2Mi": 10}, Devices: map[string]int64{"a/b": 1}}
	for _, tc := range []struct {
		want Resources
		lack []string
	}{
		{Resources{CPUMilli: 10, MemoryBytes: 10, EphemeralBytes: 10, Hugepages: map[string]int64{"2Mi": 10}, Devices: map[string]int64{"a/b": 1}}, nil},
		{Resources{CPUMilli: 11}, []string{"cpu"}},
		{Resources{MemoryBytes: 11}, []string{"memory"}},
		{Resources{EphemeralBytes: 11}, []string{"ephemeral-storage"}},
		{Resources{Hugepages: map[string]int64{"2Mi": 11, "1Gi": 1}}, []string{"hugepages-1Gi", "hugepages-2Mi"}},
		{Resources{Devices: map[string]int64{"a/b": 2, "a/c": 1}}, []string{"a/b", "a/c"}},
		{Resources{CPUMilli: 11, MemoryBytes: 11, EphemeralBytes: 11, Hugepages: map[string]int64{"1Gi": 1}, Devices: map[string]int64{"x/y": 1}},
			[]string{"cpu", "memory", "ephemeral-storage", "hugepages-1Gi", "x/y"}},
	} {
		if got := have.Lacking(tc.want); !slices.Equal(got, tc.lack) {
			t.Errorf("%+v: lacking %v, want %v", tc.want, got, tc.lack)
		}
		if got := have.Fits(&tc.want); got != (tc.lack == nil) {
			t.Errorf("%+v: fits is %v", tc.want, got)
		}
	}
}

// The field names are part of what is stored.
func TestResourcesAreStoredAs(t *testing.T) {
	text, err := json.Marshal(Resources{CPUMilli: 1, MemoryBytes: 2, EphemeralBytes: 3, Hugepages: map[string]int64{"2Mi": 4}, Devices: map[string]int64{"a/b": 5}})
	if want := `{"cpuMilli":1,"memoryBytes":2,"ephemeralBytes":3,"hugepages":{"2Mi":4},"devices":{"a/b":5}}`; err != nil || string(text) != want {
		t.Errorf("got %s, %v", text, err)
	}
	if text, err := json.Marshal(Resources{}); err != nil || string(text) != "{}" {
		t.Errorf("nothing is stored as %s, %v", text, err)
	}
}
