package kinds

import (
	"fmt"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"virtmesh/agent/vmi"
)

// Object is any object of the API; the type is always a pointer to a struct.
type Object interface {
	metav1.Object
	runtime.Object
}

// Kind is the registration of one kind: everything that is particular to it. The
// API server, the controllers, the collector and the documentation read it.
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
	Object Object
	List   runtime.Object
	// Support says what works of the kind, for docs/api-coverage.md.
	Support string
	// Writers says who writes the parts of an object.
	Writers Writers

	// Finalizers are those that virtmesh puts on objects of the kind, each with the
	// package whose loop takes it off. Without one that does, an object could not be
	// deleted, nor its namespace.
	Finalizers map[string]string

	// Status says that status is written through its own subresource only.
	Status bool
	// Generation says that metadata.generation counts the changes of the object's
	// wanted state, which is everything but its metadata and status.
	Generation bool
	// ValidateName checks metadata.name; nil means a DNS subdomain.
	ValidateName func(name string, prefix bool) []string

	// Default fills in a new object. Its name and namespace are set. d holds the
	// mesh's own choices.
	Default func(d vmi.Defaults, obj runtime.Object)
	// DefaultUpdate fills in a changed object before it is validated.
	DefaultUpdate func(d vmi.Defaults, obj, old runtime.Object)
	// Validate checks a new object; ValidateUpdate a changed one.
	Validate       func(d vmi.Defaults, obj runtime.Object) field.ErrorList
	ValidateUpdate func(d vmi.Defaults, obj, old runtime.Object) field.ErrorList
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

// Writers says who writes the parts of an object: users, or the packages below
// agent whose loops do. Everything but metadata and status is the spec here.
type Writers struct {
	Spec, Status string
}

// users write a part through the API.
const users = "users"

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

// New returns an empty object of the kind.
func (k *Kind) New() Object { return newOf(k.Object).(Object) }

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
	case k.Status && !k.HasStatus():
		return fmt.Errorf("kind %v: has no status", k.GVK)
	case k.Support == "" || k.Writers.Spec == "" || k.HasStatus() != (k.Writers.Status != ""):
		return fmt.Errorf("kind %v: support and the writers of its parts must be set", k.GVK)
	}
	return nil
}

// HasStatus says whether objects of the kind have a status.
func (k *Kind) HasStatus() bool {
	return reflect.ValueOf(k.Object).Elem().FieldByName("Status").IsValid()
}

// on adapts a function of a concrete type to one of runtime.Object.
func on[T runtime.Object, R any](fn func(T) R) func(runtime.Object) R {
	return func(obj runtime.Object) R { return fn(obj.(T)) }
}

// fill adapts a function that fills in a new object.
func fill[T runtime.Object](fn func(T)) func(vmi.Defaults, runtime.Object) {
	return func(_ vmi.Defaults, obj runtime.Object) { fn(obj.(T)) }
}

// refill adapts a function that fills in a changed object.
func refill[T runtime.Object](fn func(obj, old T)) func(_ vmi.Defaults, obj, old runtime.Object) {
	return func(_ vmi.Defaults, obj, old runtime.Object) { fn(obj.(T), old.(T)) }
}

// judge adapts a function that checks a new object.
func judge[T runtime.Object](fn func(T) field.ErrorList) func(vmi.Defaults, runtime.Object) field.ErrorList {
	return func(_ vmi.Defaults, obj runtime.Object) field.ErrorList { return fn(obj.(T)) }
}

// judgeUpdate adapts a function that checks a changed object.
func judgeUpdate[T runtime.Object](fn func(obj, old T) field.ErrorList) func(_ vmi.Defaults, obj, old runtime.Object) field.ErrorList {
	return func(_ vmi.Defaults, obj, old runtime.Object) field.ErrorList { return fn(obj.(T), old.(T)) }
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
