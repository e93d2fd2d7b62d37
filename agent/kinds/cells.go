package kinds

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// unknown is what kubectl shows for a time that is not set.
const unknown = "<unknown>"

// sinceHuman renders the time since t as kubectl does.
func sinceHuman(t metav1.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// orNone returns s, or nil when it is empty.
func orNone(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// runtimeObject shortens the signatures of the registrations.
type runtimeObject = runtime.Object

// sinceMicro is sinceHuman for times with microseconds.
func sinceMicro(t metav1.MicroTime) string { return sinceHuman(metav1.Time(t)) }

// joined renders a list, or nil for none.
func joined(parts []string) any {
	if len(parts) == 0 {
		return nil
	}
	return strings.Join(parts, ",")
}

// noCell is an empty cell, as the columns of custom resources have for a path
// that leads nowhere.
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
