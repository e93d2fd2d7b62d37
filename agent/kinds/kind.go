package kinds

import (
	"fmt"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	machine "virtmesh/agent/vmi"
)

// Object is any object of the API; the type is always a pointer to a struct.
type Object interface {
	metav1.Object
	runtime.Object
}

// Kind is the registration of one kind: everything that is specific to it. The API
// server, the controllers, the collector and the documentation use it.
type Kind struct {
	// GVK is the group, version and kind. The kind is served and stored at this version
	// only.
	GVK schema.GroupVersionKind
	// Resource is the plural name in paths; Singular is the name that kubectl accepts
	// for one object.
	Resource, Singular string
	// ShortNames are additional names; Categories are groups of kinds, such as "all".
	ShortNames, Categories []string
	// Namespaced is true if objects belong to a namespace.
	Namespaced bool
	// AlsoIn are namespaces that show the objects of another namespace, which they are keys of:
	// each object is stored there only, and clients read and write it in both. A kind that has
	// some has a status subresource.
	AlsoIn map[string]string
	// Object and List are empty values of the kind's Go types.
	Object Object
	List   runtime.Object
	// Support says, for docs/api-coverage.md, which features of the kind work.
	Support string
	// Writers says who writes the parts of an object.
	Writers Writers

	// FeatureLevel is the feature level of the mesh from which on the kind can be used;
	// zero stands for the first. FieldLevels are those of fields that came later, by their
	// paths, such as "spec.disks[].cache". Default must leave such a field alone.
	FeatureLevel uint32
	FieldLevels  map[string]uint32

	// Sealed are the members of an object that can be encrypted in the mesh's state; empty
	// for a kind whose objects every host has to read: only voters hold the keys, and hand them
	// out to users of the API. SealedIfNamed is true if they are encrypted only in a mesh whose
	// MeshConfig names the kind.
	Sealed        []string
	SealedIfNamed bool

	// Finalizers are the finalizers that virtmesh adds to objects of the kind, each
	// with the package whose loop removes it. If no loop removed a finalizer, the
	// object and its namespace could not be deleted.
	Finalizers map[string]string

	// Status is true if status is written only through its subresource.
	Status bool
	// Generation is true if metadata.generation counts the changes of everything but
	// metadata and status.
	Generation bool
	// ValidateName checks metadata.name; nil means a DNS subdomain.
	ValidateName func(name string, prefix bool) []string

	// Default sets the defaults of a new object, whose name and namespace are set. d
	// holds the mesh's own defaults.
	Default func(d machine.Defaults, obj runtime.Object)
	// DefaultUpdate sets the defaults of a changed object before it is validated.
	DefaultUpdate func(d machine.Defaults, obj, old runtime.Object)
	// Validate checks a new object; ValidateUpdate a changed one.
	Validate       func(d machine.Defaults, obj runtime.Object) field.ErrorList
	ValidateUpdate func(d machine.Defaults, obj, old runtime.Object) field.ErrorList
	// ValidateStatusUpdate checks a change through the status subresource.
	ValidateStatusUpdate func(obj, old runtime.Object) field.ErrorList
	// Warnings returns warnings that the client receives on create and update.
	Warnings func(obj runtime.Object) []string

	// Planners add to each transaction that writes objects of the kind, whoever commits it.
	Planners []Planner

	// Columns are the columns that kubectl get prints after the name; nil means the
	// creation time only.
	Columns []Column
	// NameCell returns what kubectl get prints as the name; nil means the name itself.
	NameCell func(obj runtime.Object) string
	// Fields are the fields for field selectors, besides metadata.name and
	// metadata.namespace.
	Fields map[string]func(obj runtime.Object) string
}

// Writers says who writes the parts of an object: users, or the packages below agent
// whose loops write them. Spec stands for everything but metadata and status. A test in
// package agent compares the packages with what their loops declare as outputs.
type Writers struct {
	Spec, Status string
}

// users are clients of the API.
const users = "users"

// Column is one column of kubectl get.
type Column struct {
	// Name is the heading. Type is string, integer, boolean or date.
	Name, Type string
	// Description is part of the table's column definition.
	Description string
	// Wide is true if the column is only printed with -o wide.
	Wide bool
	// Value returns the cell; nil is printed as <none>.
	Value func(obj runtime.Object) any
}

// GroupResource returns the group and plural name.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.GVK.Group, Resource: k.Resource}
}

// New returns an empty object of the kind.
func (k *Kind) New() Object { return newOf(k.Object).(Object) }

// NewList returns an empty list of the kind.
func (k *Kind) NewList() runtime.Object { return newOf(k.List) }

func newOf(obj runtime.Object) runtime.Object {
	return reflect.New(reflect.TypeOf(obj).Elem()).Interface().(runtime.Object)
}

// validateKind returns an error if the registration itself is invalid.
func (k *Kind) validateKind() error {
	switch {
	case k.GVK.Version == "" || k.GVK.Kind == "":
		return fmt.Errorf("kind %v: version and kind must be set", k.GVK)
	case k.Resource == "" || k.Resource != strings.ToLower(k.Resource):
		return fmt.Errorf("kind %v: resource %q must be lower case", k.GVK, k.Resource)
	case k.Singular == "":
		return fmt.Errorf("kind %v: singular must be set", k.GVK)
	case k.Object == nil || k.List == nil:
		return fmt.Errorf("kind %v: object and list must be set", k.GVK)
	case len(k.AlsoIn) > 0 && (!k.Namespaced || !k.Status):
		return fmt.Errorf("kind %v: only objects in namespaces that have a status subresource can be shown in other ones", k.GVK)
	case k.Status && !k.HasStatus():
		return fmt.Errorf("kind %v: has no status", k.GVK)
	case k.Support == "" || k.Writers.Spec == "" || k.HasStatus() != (k.Writers.Status != ""):
		return fmt.Errorf("kind %v: support and the writers of its parts must be set", k.GVK)
	}
	return nil
}

// HasStatus reports whether objects of the kind have a status.
func (k *Kind) HasStatus() bool {
	return reflect.ValueOf(k.Object).Elem().FieldByName("Status").IsValid()
}

// forType adapts a function of a concrete type to one of runtime.Object.
func forType[T runtime.Object, R any](fn func(T) R) func(runtime.Object) R {
	return func(obj runtime.Object) R { return fn(obj.(T)) }
}

// defaultWith adapts a function that sets the defaults of a new object.
func defaultWith[T runtime.Object](fn func(T)) func(machine.Defaults, runtime.Object) {
	return func(_ machine.Defaults, obj runtime.Object) { fn(obj.(T)) }
}

// defaultUpdateWith adapts a function that sets the defaults of a changed object.
func defaultUpdateWith[T runtime.Object](fn func(obj, old T)) func(_ machine.Defaults, obj, old runtime.Object) {
	return func(_ machine.Defaults, obj, old runtime.Object) { fn(obj.(T), old.(T)) }
}

// validateWith adapts a function that checks a new object.
func validateWith[T runtime.Object](fn func(T) field.ErrorList) func(machine.Defaults, runtime.Object) field.ErrorList {
	return func(_ machine.Defaults, obj runtime.Object) field.ErrorList { return fn(obj.(T)) }
}

// validateUpdateWith adapts a function that checks a changed object.
func validateUpdateWith[T runtime.Object](fn func(obj, old T) field.ErrorList) func(_ machine.Defaults, obj, old runtime.Object) field.ErrorList {
	return func(_ machine.Defaults, obj, old runtime.Object) field.ErrorList { return fn(obj.(T), old.(T)) }
}

// column makes a string column.
func column[T runtime.Object](name string, value func(T) any) Column {
	return Column{Name: name, Type: "string", Value: forType(value)}
}

// wideColumn makes a string column that is only printed with -o wide.
func wideColumn[T runtime.Object](name string, value func(T) any) Column {
	return Column{Name: name, Type: "string", Wide: true, Value: forType(value)}
}

// age is the column of the time since creation.
var age = Column{Name: "Age", Type: "date", Description: "The time since the object was created", Value: ageOf}
