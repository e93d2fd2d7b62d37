package api

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// converter turns objects into the form the field manager compares.
//
// The field manager reads Go structs by reflection and panics at a uint64, which
// the status of a VirtualMachineInstance has. So objects become plain maps first.
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
	if _, ok := obj.(*unstructured.Unstructured); ok {
		return c.TypeConverter.ObjectToTyped(obj, opts...)
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
