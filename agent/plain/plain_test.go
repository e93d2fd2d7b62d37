package plain

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestText(t *testing.T) {
	for hostile, want := range map[string]string{
		"Debian GNU/Linux 12":        "Debian GNU/Linux 12",
		"Ünï çødé 日本語 ✓":             "Ünï çødé 日本語 ✓",
		"a\x1b[31mb\x07":             "a[31mb",
		"a\u009b31mb\u0090c":         "a31mbc",     // C1: a terminal takes U+009B for ESC [
		"abc\u202etxt.exe":           "abctxt.exe", // the rest would run backwards
		"a\u2066b\u2069\u200f\u061c": "ab",
		"vm\u200b1\ufeff\u00ad":      "vm1", // invisible
		"a\nb\r\nc\td\u2028e\u0085f": "a b  c d e f",
		"\xff\xfea\x80":              "a",
		"a\U000e0041b\ufffe":         "ab", // tags
		"a\x00b\x7f":                 "ab",
	} {
		if got := Text(hostile); got != want {
			t.Errorf("%q becomes %q, want %q", hostile, got, want)
		}
	}
}

func TestNothingHostilePasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
			rapid.StringOf(rapid.RuneFrom(nil, unicode.Cc, unicode.Cf, unicode.Zs, unicode.Zl, unicode.Zp, unicode.Latin))).Draw(t, "s")
		got := Text(s)
		for _, r := range got {
			if r == utf8.RuneError && !strings.ContainsRune(s, utf8.RuneError) || r != ' ' && !unicode.IsGraphic(r) && !unicode.In(r, unicode.Co) && unicode.IsOneOf([]*unicode.RangeTable{unicode.C, unicode.Z}, r) {
				t.Errorf("%q becomes %q, with %U", s, got, r)
			}
		}
		if again := Text(got); again != got {
			t.Errorf("%q becomes %q, and that %q", s, got, again)
		}
		most := rapid.IntRange(3, 40).Draw(t, "most")
		short := Shorten(got, most)
		if len(short) > most || !utf8.ValidString(short) || len(got) <= most && short != got || !strings.HasPrefix(got, strings.TrimSuffix(short, "…")) {
			t.Errorf("%q is shortened to %q, %d bytes of %d", got, short, len(short), most)
		}
	})
}
