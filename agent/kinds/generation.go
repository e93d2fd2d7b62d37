package kinds

import (
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BeginGeneration sets the generation of a new object, if its kind counts them.
func (k *Kind) BeginGeneration(o metav1.Object) {
	if k.Generation {
		o.SetGeneration(1)
	}
}

// CountGeneration sets the generation of a changed object: old's, or the next if
// what is wanted of the object changed. It does nothing if the kind counts none.
func (k *Kind) CountGeneration(o, old Object) {
	if !k.Generation {
		return
	}
	generation := old.GetGeneration()
	if !sameWant(o, old) {
		generation++
	}
	o.SetGeneration(generation)
}

// sameWant says whether a and b differ in nothing but metadata and status.
func sameWant(a, b Object) bool {
	x, y := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range x.NumField() {
		switch x.Type().Field(i).Name {
		case "TypeMeta", "ObjectMeta", "Status":
			continue
		}
		if !equal(x.Field(i).Interface(), y.Field(i).Interface()) {
			return false
		}
	}
	return true
}
