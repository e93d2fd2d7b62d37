package kinds

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// IsHeld reports whether finalizers prevent the deletion of o: those of its metadata,
// and those in the spec of a namespace. o is a typed or an unstructured object.
func IsHeld(o metav1.Object) bool {
	if len(o.GetFinalizers()) > 0 {
		return true
	}
	switch o := o.(type) {
	case *corev1.Namespace:
		return len(o.Spec.Finalizers) > 0
	case *unstructured.Unstructured:
		if !isNamespace(o) {
			return false
		}
		inSpec, _, err := unstructured.NestedSlice(o.Object, "spec", "finalizers")
		return err != nil || len(inSpec) > 0
	}
	return false
}

// MarkDeleted records in o, which IsHeld, that its deletion was requested at now. It
// reports whether o changed; an object that is already being deleted does not change. o
// is a typed or an unstructured object.
func MarkDeleted(o metav1.Object, now time.Time) bool {
	if o.GetDeletionTimestamp() != nil {
		return false
	}
	at, grace := metav1.NewTime(now.Truncate(time.Second)), int64(0)
	o.SetDeletionTimestamp(&at)
	o.SetDeletionGracePeriodSeconds(&grace)
	if o.GetGeneration() > 0 { // a kind that counts generations
		o.SetGeneration(o.GetGeneration() + 1)
	}
	switch o := o.(type) {
	case *corev1.Namespace:
		o.Status.Phase = corev1.NamespaceTerminating
	case *unstructured.Unstructured:
		if isNamespace(o) {
			// It fails if status is not an object; then there is no phase to set.
			_ = unstructured.SetNestedField(o.Object, string(corev1.NamespaceTerminating), "status", "phase")
		}
	}
	return true
}

func isNamespace(o *unstructured.Unstructured) bool {
	return o.GetAPIVersion() == "v1" && o.GetKind() == "Namespace"
}
