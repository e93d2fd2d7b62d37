package fetch

import (
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of the text of an error, in bytes: what is read of it, and what is left.
const (
	maxRead = 64 << 10
	maxTold = 512
)

// Told returns err with a text that may be stored, logged and shown, although a server or
// an image has chosen some of its words: one line of at most 512 bytes, without control
// characters and invisible ones, and without the parts of URLs that may be secret (user,
// password, query, fragment). It is nil for nil. The error that it returns wraps err: what
// reads the error inside gets the text as it was.
func Told(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if clean := clean(text); clean != text {
		return &told{text: clean, err: err}
	}
	return err
}

type told struct {
	text string
	err  error
}

// Error implements error.
func (t *told) Error() string { return t.text }

// Unwrap returns the error with its own text.
func (t *told) Unwrap() error { return t.err }

// anyURL finds URLs in a text, as far as they do not contain what ends them there.
var anyURL = regexp.MustCompile("[a-zA-Z][a-zA-Z0-9+.-]*://[^\\s\"'<>`\\\\]*")

func clean(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxRead)], "")
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.In(r, unicode.Zl, unicode.Zp):
			return ' '
		case !unicode.IsGraphic(r):
			return -1
		}
		return r
	}, text)
	return shorten(anyURL.ReplaceAllStringFunc(text, withoutSecrets))
}

// withoutSecrets returns a URL without what may be secret in it.
func withoutSecrets(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		scheme, _, _ := strings.Cut(raw, "://")
		return scheme + "://…"
	}
	// What follows a URL in a sentence is not part of it.
	end := raw[len(strings.TrimRight(raw, ":,;.)")):]
	if u.User == nil && u.RawQuery == "" && u.Fragment == "" {
		return raw
	}
	u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = nil, "", false, "", ""
	return strings.TrimSuffix(u.String(), end) + end
}

func shorten(text string) string {
	const more = "…"
	if len(text) <= maxTold {
		return text
	}
	end := maxTold - len(more)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}
