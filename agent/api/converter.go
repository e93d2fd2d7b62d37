package api

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"virtmesh/agent/kinds"
)

// converter converts objects to the form that the field manager compares.
//
// The field manager reads Go structs by reflection and panics on a uint64, which the
// status of a VirtualMachineInstance has. So objects are converted to plain maps first.
type converter struct {
	managedfields.TypeConverter
	scheme *runtime.Scheme
}

func newConverter(scheme *runtime.Scheme, schemas map[string]*spec.Schema) (managedfields.TypeConverter, error) {
	inner, err := managedfields.NewTypeConverter(schemas, false)
	if err != nil {
		return nil, fmt.Errorf("build type converter: %w", err)
	}
	return &converter{TypeConverter: inner, scheme: scheme}, nil
}

// ObjectToTyped implements managedfields.TypeConverter.
func (c *converter) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	if applied, ok := obj.(*unstructured.Unstructured); ok {
		return c.TypeConverter.ObjectToTyped(unifySpelling(applied), opts...)
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("convert %s: %w", gvk, err)
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(gvk)
	return c.TypeConverter.ObjectToTyped(u, opts...)
}

// unifySpelling returns an applied manifest with its quantities spelled like those of
// stored objects, so that equal values do not conflict. It cannot unify values with
// different kinds of units, such as 134217728 and 128Mi: a stored quantity keeps the
// kind of unit with which it was written.
func unifySpelling(applied *unstructured.Unstructured) *unstructured.Unstructured {
	k, ok := kinds.ByGroupKind(applied.GroupVersionKind().GroupKind())
	if !ok {
		return applied
	}
	applied = applied.DeepCopy()
	unifyQuantities(reflect.TypeOf(k.Object), applied.Object)
	return applied
}
