package kinds

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// unknown is what kubectl prints for a time that is not set.
const unknown = "<unknown>"

// sinceHuman formats the time since t like kubectl.
func sinceHuman(t metav1.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// orNone returns s, or nil if it is empty.
func orNone(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// runtimeObject shortens the signatures of the registrations.
type runtimeObject = runtime.Object

// sinceMicro is sinceHuman for a time with microseconds.
func sinceMicro(t metav1.MicroTime) string { return sinceHuman(metav1.Time(t)) }

// joined formats a list; it returns nil for an empty list.
func joined(parts []string) any {
	if len(parts) == 0 {
		return nil
	}
	return strings.Join(parts, ",")
}

// noCell is an empty cell, which custom resources print for a path without a value.
var noCell any = ""

func orNoCell(s string) any { return s }

// ageOf is the value of the AGE column.
func ageOf(obj runtime.Object) any {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	return sinceHuman(m.GetCreationTimestamp())
}
