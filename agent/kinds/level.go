package kinds

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CheckLevel returns an error for each part of an object that must wait for a higher
// feature level of the mesh: hosts with an older version would not act on it. old is nil
// for a new object. What is stored already stays, and can be taken out.
func (k *Kind) CheckLevel(mesh uint32, obj, old runtime.Object) field.ErrorList {
	if old == nil && k.FeatureLevel > mesh {
		return field.ErrorList{tooEarly(field.NewPath("kind"), "objects of kind "+k.GVK.Kind, k.FeatureLevel, mesh)}
	}
	var errs field.ErrorList
	for path, needed := range k.FieldLevels {
		if needed <= mesh {
			continue
		}
		after, err := valuesAt(obj, path)
		if err != nil {
			errs = append(errs, field.InternalError(field.NewPath(path), err))
			continue
		}
		if len(after) == 0 {
			continue
		}
		if old != nil {
			before, err := valuesAt(old, path)
			if err == nil && reflect.DeepEqual(before, after) {
				continue
			}
		}
		errs = append(errs, tooEarly(field.NewPath(path), "the field", needed, mesh))
	}
	slices.SortFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	return errs
}

func tooEarly(path *field.Path, what string, needed, mesh uint32) *field.Error {
	return field.Forbidden(path, fmt.Sprintf("%s cannot be used before the mesh is at feature level %d; it is at %d ('virtmesh level' says when it can be raised)", what, needed, mesh))
}

// valuesAt returns the values of an object at a path such as spec.disks[].cache, one for
// each element of the lists in it that has one.
func valuesAt(obj runtime.Object, path string) ([]any, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("read the fields of the object: %w", err)
	}
	values := []any{content}
	for _, part := range strings.Split(path, ".") {
		name, isList := strings.CutSuffix(part, "[]")
		var next []any
		for _, value := range values {
			fields, _ := value.(map[string]any)
			inner, ok := fields[name]
			if !ok {
				continue
			}
			if list, _ := inner.([]any); isList {
				next = append(next, list...)
				continue
			}
			next = append(next, inner)
		}
		values = next
	}
	return values, nil
}
