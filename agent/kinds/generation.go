package kinds

import (
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BeginGeneration sets the generation of a new object, if its kind counts generations.
func (k *Kind) BeginGeneration(o metav1.Object) {
	if k.Generation {
		o.SetGeneration(1)
	}
}

// CountGeneration sets the generation of a changed object: that of old, or one more if
// anything but metadata and status changed. It does nothing if the kind does not count
// generations.
func (k *Kind) CountGeneration(o, old Object) {
	if !k.Generation {
		return
	}
	generation := old.GetGeneration()
	if !sameSpec(o, old) {
		generation++
	}
	o.SetGeneration(generation)
}

// sameSpec reports whether a and b are equal except for metadata and status.
func sameSpec(a, b Object) bool {
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
