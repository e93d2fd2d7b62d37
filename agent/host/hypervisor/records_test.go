package hypervisor

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestRecordsSurviveWriting: whatever is allowed comes back as it was.
func TestRecordsSurviveWriting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-zA-Z0-9.-]{1,64}`), 0, maxRecords, rapid.ID[string]).Draw(t, "names")
		want := map[string]string{}
		var records map[string]string
		for _, name := range names {
			value := rapid.StringMatching(`[ -~]{1,40}|[äöü€<>&"']{1,10}`).Draw(t, "value")
			var err error
			if records, err = WithRecord(records, name, value); err != nil {
				t.Fatal(err)
			}
			want[name] = value
		}
		text, err := FormatRecords(records)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseRecords(text)
		if err != nil || !maps.Equal(got, want) {
			t.Fatalf("wrote %v, read %v, %v from %s", want, got, err, text)
		}
	})
}

func TestWithRecordDoesNotChangeWhatItIsGiven(t *testing.T) {
	had := map[string]string{"a": "1", "b": "2"}
	for _, c := range []struct {
		name, value string
		want        map[string]string
	}{
		{"a", "3", map[string]string{"a": "3", "b": "2"}},
		{"c", "3", map[string]string{"a": "1", "b": "2", "c": "3"}},
		{"a", "", map[string]string{"b": "2"}},
		{"c", "", map[string]string{"a": "1", "b": "2"}},
	} {
		got, err := WithRecord(had, c.name, c.value)
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s=%q: %v, %v", c.name, c.value, got, err)
		}
	}
	if !maps.Equal(had, map[string]string{"a": "1", "b": "2"}) {
		t.Errorf("the records given have become %v", had)
	}
}

func TestRecordsAreBounded(t *testing.T) {
	var records map[string]string
	for i := range maxRecords {
		var err error
		if records, err = WithRecord(records, fmt.Sprint("r", i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := WithRecord(records, "more", "x"); !errors.Is(err, ErrInvalid) {
		t.Errorf("one more: %v", err)
	}
	if _, err := WithRecord(records, "r0", "y"); err != nil {
		t.Errorf("another value of one that is there: %v", err)
	}
	for _, c := range []struct {
		name, value string
		good        bool
	}{
		{"a", "", true},
		{strings.Repeat("n", maxRecordName), strings.Repeat("v", maxRecordValue), true},
		{"Shutdown.requested-1", "2024-11-26T03:52:13Z", true},
		{"", "x", false},
		{strings.Repeat("n", maxRecordName+1), "x", false},
		{"a", strings.Repeat("v", maxRecordValue+1), false},
		{"a b", "x", false},
		{"a/b", "x", false},
		{"ä", "x", false},
		{"a", "two\nlines", false},
		{"a", "nul\x00", false},
		{"a", "\xff", false},
	} {
		err := ValidateRecord(c.name, c.value)
		if (err == nil) != c.good || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("record %q of %d bytes: %v", c.name, len(c.value), err)
		}
	}
}

// TestForeignRecordsAreIgnored: someone with virsh may have written anything.
func TestForeignRecordsAreIgnored(t *testing.T) {
	got, err := ParseRecords(`<records><record name="good">1</record><record name="a b">2</record><record>3</record><other/></records>`)
	if err != nil || !maps.Equal(got, map[string]string{"good": "1"}) {
		t.Errorf("got %v, %v", got, err)
	}
	var many strings.Builder
	many.WriteString("<records>")
	for i := range 10 * maxRecords {
		fmt.Fprintf(&many, `<record name="r%d">x</record>`, i)
	}
	many.WriteString("</records>")
	if got, err := ParseRecords(many.String()); err != nil || len(got) != maxRecords {
		t.Errorf("%d records of very many, %v", len(got), err)
	}
	if _, err := ParseRecords("<records><"); err == nil {
		t.Error("what is no XML was read")
	}
}

func FuzzParseRecords(f *testing.F) {
	f.Add(`<records><record name="a">b</record></records>`)
	f.Add(`<records xmlns="x"><record name="a"/></records>`)
	f.Fuzz(func(t *testing.T, text string) {
		records, err := ParseRecords(text)
		if err != nil {
			return
		}
		for name, value := range records {
			if err := ValidateRecord(name, value); err != nil {
				t.Errorf("%v", err)
			}
		}
	})
}
