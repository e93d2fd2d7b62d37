package kinds

import (
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Kind is the registration of one served kind.
type Kind struct {
	// GVK names the kind; it is served and stored at this one version.
	GVK schema.GroupVersionKind
	// Resource is the plural name in paths; Singular the name kubectl accepts for
	// one.
	Resource, Singular string
	// ShortNames are further names; Categories are the groups, such as "all".
	ShortNames, Categories []string
	// Namespaced says whether objects live in a namespace.
	Namespaced bool
	// Object and List are empty values of the kind's Go types.
	Object, List runtime.Object

	// Status says that status is written through its own subresource only.
	Status bool
	// Generation says that metadata.generation counts the changes of the object's
	// wanted state.
	Generation bool
	// ValidateName checks metadata.name; nil means a DNS subdomain.
	ValidateName func(name string, prefix bool) []string

	// Default fills in a new object. Its name and namespace are set.
	Default func(obj runtime.Object)
	// DefaultUpdate fills in a changed object before it is validated.
	DefaultUpdate func(obj, old runtime.Object)
	// Validate checks a new object; ValidateUpdate a changed one.
	Validate       func(obj runtime.Object) field.ErrorList
	ValidateUpdate func(obj, old runtime.Object) field.ErrorList
	// ValidateStatusUpdate checks a change through the status subresource.
	ValidateStatusUpdate func(obj, old runtime.Object) field.ErrorList
	// Warnings are told to the client on create and update.
	Warnings func(obj runtime.Object) []string

	// Columns are what kubectl get prints after the name; nil means the time of
	// creation alone.
	Columns []Column
	// NameCell is what it prints as the name; nil means the name itself.
	NameCell func(obj runtime.Object) string
	// Fields are the selectable fields besides metadata.name and
	// metadata.namespace.
	Fields map[string]func(obj runtime.Object) string
}

// Column is one column of kubectl get.
type Column struct {
	// Name is the heading; Type is string, integer, boolean or date.
	Name, Type string
	// Description is shown by kubectl explain of tables.
	Description string
	// Wide columns show only with -o wide.
	Wide bool
	// Value is the cell; nil shows as <none>.
	Value func(obj runtime.Object) any
}

// GroupResource returns the group and plural name.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.GVK.Group, Resource: k.Resource}
}

// KeyPrefix returns where objects of the kind are stored, without a trailing
// slash.
func (k *Kind) KeyPrefix() string {
	group := k.GVK.Group
	if group == "" {
		group = "core"
	}
	return "/registry/" + group + "/" + k.Resource
}

// New returns an empty object of the kind.
func (k *Kind) New() runtime.Object { return newOf(k.Object) }

// NewList returns an empty list of the kind.
func (k *Kind) NewList() runtime.Object { return newOf(k.List) }

func newOf(obj runtime.Object) runtime.Object {
	return reflect.New(reflect.TypeOf(obj).Elem()).Interface().(runtime.Object)
}

// validate reports what is wrong with the registration itself.
func (k *Kind) validate() error {
	switch {
	case k.GVK.Version == "" || k.GVK.Kind == "":
		return fmt.Errorf("kind %v: version and kind must be set", k.GVK)
	case k.Resource == "" || k.Resource != strings.ToLower(k.Resource):
		return fmt.Errorf("kind %v: resource %q must be lower case", k.GVK, k.Resource)
	case k.Singular == "":
		return fmt.Errorf("kind %v: singular must be set", k.GVK)
	case k.Object == nil || k.List == nil:
		return fmt.Errorf("kind %v: object and list must be set", k.GVK)
	case k.Status && !hasField(k.Object, "Status"):
		return fmt.Errorf("kind %v: has no status", k.GVK)
	}
	return nil
}

func hasField(obj runtime.Object, name string) bool {
	return reflect.ValueOf(obj).Elem().FieldByName(name).IsValid()
}

// on adapts a function of a concrete type to one of runtime.Object.
func on[T runtime.Object, R any](fn func(T) R) func(runtime.Object) R {
	return func(obj runtime.Object) R { return fn(obj.(T)) }
}

// do adapts a function without a result.
func do[T runtime.Object](fn func(T)) func(runtime.Object) {
	return func(obj runtime.Object) { fn(obj.(T)) }
}

// both adapts a function of a new and an old object.
func both[T runtime.Object](fn func(obj, old T) field.ErrorList) func(obj, old runtime.Object) field.ErrorList {
	return func(obj, old runtime.Object) field.ErrorList { return fn(obj.(T), old.(T)) }
}

// change adapts a function that changes a new object by the old one.
func change[T runtime.Object](fn func(obj, old T)) func(obj, old runtime.Object) {
	return func(obj, old runtime.Object) { fn(obj.(T), old.(T)) }
}

// column makes a string column.
func column[T runtime.Object](name string, value func(T) any) Column {
	return Column{Name: name, Type: "string", Value: on(value)}
}

// wide makes a string column that shows with -o wide.
func wide[T runtime.Object](name string, value func(T) any) Column {
	return Column{Name: name, Type: "string", Wide: true, Value: on(value)}
}

// age is the column of the time since creation.
var age = Column{Name: "Age", Type: "date", Description: "The time since the object was created", Value: ageOf}
