// Package fault is the form of errors that cross between hosts and reach users. A
// fault has a code that programs test, the object and the field concerned, a sentence,
// and a remedy.
//
// The code that detects an error makes the fault, with New. Callers wrap it like any
// other error. Write sends it as the answer to a request and Read takes it from an
// answer. On the wire it is a Status of the Kubernetes API, so kubectl and virtctl can
// read it too. Code, object, field and sentence are the same on the host that detected
// the error, on the host that made the request, and for the user. So
//
//	if errors.Is(err, fault.NotFound) { ... }
//
// works on every side. One table in this package gives errors of packages that do not
// depend on the agent, such as raftstore, their code and their sentence.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Fault is an error for users and for other hosts. Its fields must not change once it
// is returned.
type Fault struct {
	// Code is the kind of error.
	Code Code
	// Object names the object concerned, such as "ns/name"; empty if none is certain.
	Object string
	// Field is the path of the field that must be corrected; empty if none.
	Field string
	// Sentence says what is wrong, in one line. It names the object and the field
	// itself.
	Sentence string
	// Remedy says what to do; empty if Sentence says so already.
	Remedy string

	cause error
}

// New returns a fault whose sentence is made from format, which may wrap an error with
// %w.
func New(code Code, format string, args ...any) *Fault {
	cause := fmt.Errorf(format, args...)
	return &Fault{Code: code, Sentence: cause.Error(), cause: errors.Unwrap(cause)}
}

// InField returns a fault with the code Invalid for a field that must be corrected. The
// sentence begins with the field: "ttl must be positive".
func InField(field, format string, args ...any) *Fault {
	f := New(Invalid, field+" "+format, args...)
	f.Field = field
	return f
}

// About returns a copy of f with the object it concerns.
func (f *Fault) About(object string) *Fault {
	about := *f
	about.Object = object
	return &about
}

// WithRemedy returns a copy of f with the remedy.
func (f *Fault) WithRemedy(remedy string) *Fault {
	remedied := *f
	remedied.Remedy = remedy
	return &remedied
}

// Error returns the sentence and the remedy in one line.
func (f *Fault) Error() string {
	if f.Remedy == "" {
		return f.Sentence
	}
	return f.Sentence + "; " + f.Remedy
}

// Unwrap returns the error that the sentence was made from.
func (f *Fault) Unwrap() error { return f.cause }

// Is reports whether target is the code of f, or a fault with the same code. So a fault
// matches the same errors on both sides of the wire.
func (f *Fault) Is(target error) bool {
	switch t := target.(type) {
	case Code:
		return t == f.Code
	case *Fault:
		return t.Code == f.Code
	}
	return false
}

// Of returns the fault that err is or wraps, with the full text of err. A table gives
// errors of packages that do not use faults their code and sentence; any other error is
// Internal. Of returns nil for a nil error.
func Of(err error) *Fault {
	if err == nil {
		return nil
	}
	if f, ok := findFault(err); ok {
		return f
	}
	return &Fault{Code: Internal, Sentence: oneLine(err.Error()), cause: err}
}

// Known reports whether Of finds a more specific fault for err than Internal.
func Known(err error) bool {
	_, ok := findFault(err)
	return ok
}

// findFault finds the fault in the chain of err, and adds the text of the errors that
// wrap it.
func findFault(err error) (*Fault, bool) {
	var inner *Fault
	if !errors.As(err, &inner) {
		var text string
		if inner, text = translateLeaf(err); inner == nil {
			return nil, false
		}
		around := *inner
		plain := strings.ReplaceAll(err.Error(), " ("+text+")", "") // a layer that explains itself by it
		around.Sentence = oneLine(strings.ReplaceAll(plain, text, inner.Sentence))
		around.cause = err
		return &around, true
	}
	if itself, ok := err.(*Fault); ok { //nolint:errorlint // whether a layer is around the fault is the question
		return itself, true
	}
	around := *inner
	around.cause = err
	around.Sentence = oneLine(err.Error())
	if inner.Remedy != "" {
		// err.Error() contains the remedy in the middle of its text; Error adds it at the end.
		around.Sentence = oneLine(strings.Replace(err.Error(), "; "+inner.Remedy, "", 1))
	}
	return &around, true
}

// oneLine joins the lines of a text: joined errors have several.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
