// Package plain makes text that others chose (guests, registries, the tools that read
// their images) safe to store in a status and to show on a terminal.
package plain

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s as one line of valid UTF-8 that a terminal shows as it is. White space of
// any kind becomes a space. Control characters, with which text could drive a terminal,
// and invisible ones, with which it could look like other text or run backwards, are left
// out.
func Text(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.In(r, unicode.Zl, unicode.Zp):
			return ' '
		case unicode.In(r, unicode.Cc, unicode.Cf), unicode.Is(unicode.Noncharacter_Code_Point, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

// Shorten returns s if it has at most so many bytes, and otherwise its beginning and an
// ellipsis. It does not cut a character in two.
func Shorten(s string, most int) string {
	const more = "…"
	if len(s) <= most {
		return s
	}
	end := max(most-len(more), 0)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + more
}

// maxMessage is the length in bytes that Kubernetes gives the message of an event.
const maxMessage = 1024

// Message returns s as it can be the message of an event or of a condition.
func Message(s string) string { return Shorten(Text(s), maxMessage) }
