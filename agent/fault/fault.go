// Package fault is how errors cross between hosts and reach users: a code that
// programs test, the object and the field it is about, a sentence, and a remedy.
//
// A fault is made where the trouble is known, with New. Layers wrap it as they wrap
// any error. Write answers a request with it and Read takes it from an answer; on
// the wire it is a Status of the Kubernetes API, so kubectl and virtctl read it
// too. In between nothing is lost: the code, the object, the field and the sentence
// are the same for the host that had the trouble, the one that asked, and the user.
//
//	if errors.Is(err, fault.NotFound) { ... }
//
// holds on every side. The errors of the packages that know nothing of the agent,
// such as raftstore, get their code and their sentence from one table here.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Fault is an error that people and other hosts can make something of. Its fields
// are not changed once it is handed out.
type Fault struct {
	// Code says what kind of trouble it is.
	Code Code
	// Object names what it is about, such as "ns/name"; empty if nothing certain.
	Object string
	// Field is the path of the field that must be corrected; empty if none.
	Field string
	// Sentence says what is wrong, in one line. It names object and field itself.
	Sentence string
	// Remedy says what to do; empty if the sentence says it.
	Remedy string

	cause error
}

// New returns a fault with the sentence that format makes, which may wrap an error
// with %w.
func New(code Code, format string, args ...any) *Fault {
	cause := fmt.Errorf(format, args...)
	return &Fault{Code: code, Sentence: cause.Error(), cause: errors.Unwrap(cause)}
}

// InField returns a fault of the code Invalid: a field that must be corrected. The
// sentence begins with the field: "ttl must be positive".
func InField(field, format string, args ...any) *Fault {
	f := New(Invalid, field+" "+format, args...)
	f.Field = field
	return f
}

// About returns a copy of f that is about an object.
func (f *Fault) About(object string) *Fault {
	about := *f
	about.Object = object
	return &about
}

// WithRemedy returns a copy of f that says what to do.
func (f *Fault) WithRemedy(remedy string) *Fault {
	remedied := *f
	remedied.Remedy = remedy
	return &remedied
}

// Error is the sentence and the remedy in one line.
func (f *Fault) Error() string {
	if f.Remedy == "" {
		return f.Sentence
	}
	return f.Sentence + "; " + f.Remedy
}

// Unwrap returns what the sentence was made of.
func (f *Fault) Unwrap() error { return f.cause }

// Is reports whether target is the code of f, or a fault with that code: so a fault
// is the same error on both sides of the wire.
func (f *Fault) Is(target error) bool {
	switch t := target.(type) {
	case Code:
		return t == f.Code
	case *Fault:
		return t.Code == f.Code
	}
	return false
}

// Of returns the fault that err is or wraps, with all that err says. Errors of
// packages that know nothing of faults get code and sentence from a table; what is
// not in it is Internal. Of a nil error it returns nil.
func Of(err error) *Fault {
	if err == nil {
		return nil
	}
	if f, ok := known(err); ok {
		return f
	}
	return &Fault{Code: Internal, Sentence: oneLine(err.Error()), cause: err}
}

// Known reports whether Of makes anything better than an Internal fault of err.
func Known(err error) bool {
	_, ok := known(err)
	return ok
}

// Sentence is err as people should read it: without the machinery that errors of
// inner packages name.
func Sentence(err error) string { return Of(err).Error() }

// known finds the fault in the chain of err, and gives it the text of the layers
// around it.
func known(err error) (*Fault, bool) {
	var inner *Fault
	if !errors.As(err, &inner) {
		var text string
		if inner, text = translate(err); inner == nil {
			return nil, false
		}
		around := *inner
		around.Sentence = oneLine(strings.Replace(err.Error(), text, inner.Sentence, 1))
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
		// The text of a layer holds the remedy where the fault stood in it.
		around.Sentence = oneLine(strings.Replace(err.Error(), "; "+inner.Remedy, "", 1))
	}
	return &around, true
}

// oneLine keeps a text on one line: errors that were joined have several.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
