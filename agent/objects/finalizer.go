package objects

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HasFinalizer reports whether o has the finalizer.
func HasFinalizer(o metav1.Object, finalizer string) bool {
	return slices.Contains(o.GetFinalizers(), finalizer)
}

// AddFinalizer adds the finalizer to o, unless o has it already or is being deleted,
// when it is too late to add one. It reports whether o changed.
func AddFinalizer(o metav1.Object, finalizer string) bool {
	if o.GetDeletionTimestamp() != nil {
		return false
	}
	return addFinalizer(o, finalizer)
}

func addFinalizer(o metav1.Object, finalizer string) bool {
	if HasFinalizer(o, finalizer) {
		return false
	}
	// Clip the list, so that append never writes to an array shared with a copy of o.
	o.SetFinalizers(append(slices.Clip(o.GetFinalizers()), finalizer))
	return true
}

// RemoveFinalizer removes the finalizer from o and reports whether o changed.
func RemoveFinalizer(o metav1.Object, finalizer string) bool {
	if !HasFinalizer(o, finalizer) {
		return false
	}
	o.SetFinalizers(slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return f == finalizer }))
	return true
}
