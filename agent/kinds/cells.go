package kinds

import (
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
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

func equal(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

func validateLabelKey(path *field.Path, key string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsQualifiedName(key) {
		errs = append(errs, field.Invalid(path, key, msg))
	}
	return errs
}

func validateLabelValue(path *field.Path, value string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsValidLabelValue(value) {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}
