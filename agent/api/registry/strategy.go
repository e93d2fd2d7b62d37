package registry

import (
	"context"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"virtmesh/agent/kinds"
	machine "virtmesh/agent/vmi"
)

// strategy prepares and checks objects of a kind before they are stored.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	kind *kinds.Kind
	// defaults returns the mesh's present defaults.
	defaults func() machine.Defaults
	// level returns the mesh's present feature level.
	level func() uint32
}

var (
	_ rest.RESTCreateStrategy              = strategy{}
	_ rest.RESTUpdateStrategy              = strategy{}
	_ rest.RESTDeleteStrategy              = strategy{}
	_ rest.ResetFieldsStrategy             = strategy{}
	_ rest.GarbageCollectionDeleteStrategy = strategy{}
)

// NamespaceScoped implements rest.RESTCreateStrategy.
func (s strategy) NamespaceScoped() bool { return s.kind.Namespaced }

// AllowCreateOnUpdate implements rest.RESTUpdateStrategy.
func (s strategy) AllowCreateOnUpdate(context.Context) bool { return false }

// AllowUnconditionalUpdate implements rest.RESTUpdateStrategy.
func (s strategy) AllowUnconditionalUpdate(context.Context) bool { return true }

// Canonicalize implements rest.RESTCreateStrategy.
func (s strategy) Canonicalize(runtime.Object) {}

// DefaultGarbageCollectionPolicy implements rest.GarbageCollectionDeleteStrategy.
func (s strategy) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	return rest.DeleteDependents
}

// PrepareForCreate implements rest.RESTCreateStrategy.
func (s strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	if s.kind.Status {
		clearField(obj, "Status")
	}
	if s.kind.Default != nil {
		s.kind.Default(s.defaults(), obj)
	}
	s.kind.BeginGeneration(metaOf(obj))
}

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	if s.kind.Status {
		copyField(obj, old, "Status")
	}
	if s.kind.DefaultUpdate != nil {
		s.kind.DefaultUpdate(s.defaults(), obj, old)
	}
	s.kind.CountGeneration(obj.(kinds.Object), old.(kinds.Object))
}

// Validate implements rest.RESTCreateStrategy.
func (s strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	errs := append(s.validateMeta(obj), s.kind.CheckLevel(s.level(), obj, nil)...)
	if s.kind.Validate != nil {
		errs = append(errs, s.kind.Validate(s.defaults(), obj)...)
	}
	return errs
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (s strategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	errs := append(s.validateMeta(obj), s.kind.CheckLevel(s.level(), obj, old)...)
	if s.kind.ValidateUpdate != nil {
		errs = append(errs, s.kind.ValidateUpdate(s.defaults(), obj, old)...)
	}
	return errs
}

// validateMeta checks the metadata. The library itself only checks that the name can be
// used in a path.
func (s strategy) validateMeta(obj runtime.Object) field.ErrorList {
	name := validation.ValidateNameFunc(validation.NameIsDNSSubdomain)
	if s.kind.ValidateName != nil {
		name = s.kind.ValidateName
	}
	return validation.ValidateObjectMetaAccessor(metaOf(obj), s.kind.Namespaced, name, field.NewPath("metadata"))
}

// WarningsOnCreate implements rest.RESTCreateStrategy.
func (s strategy) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	if s.kind.Warnings == nil {
		return nil
	}
	return s.kind.Warnings(obj)
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy.
func (s strategy) WarningsOnUpdate(ctx context.Context, obj, _ runtime.Object) []string {
	return s.WarningsOnCreate(ctx, obj)
}

// GetResetFields implements rest.ResetFieldsStrategy: an apply to the main resource
// never makes a client the owner of fields that are only written through status.
func (s strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if !s.kind.Status {
		return nil
	}
	return s.resetFields("status")
}

func (s strategy) resetFields(names ...string) map[fieldpath.APIVersion]*fieldpath.Set {
	set := fieldpath.NewSet()
	for _, n := range names {
		set.Insert(fieldpath.MakePathOrDie(n))
	}
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(s.kind.GVK.GroupVersion().String()): set}
}

// statusStrategy is the strategy of a kind's status subresource.
type statusStrategy struct{ strategy }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s statusStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	managed := metaOf(obj).GetManagedFields()
	value := reflect.ValueOf(obj).Elem()
	status := reflect.New(value.FieldByName("Status").Type()).Elem()
	status.Set(value.FieldByName("Status"))
	value.Set(reflect.ValueOf(old.DeepCopyObject()).Elem())
	value.FieldByName("Status").Set(status)
	metaOf(obj).SetManagedFields(managed)
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (s statusStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	errs := append(s.validateMeta(obj), s.kind.CheckLevel(s.level(), obj, old)...)
	if s.kind.ValidateStatusUpdate != nil {
		errs = append(errs, s.kind.ValidateStatusUpdate(obj, old)...)
	}
	return errs
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (s statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.resetFields("spec", "metadata")
}

func clearField(obj runtime.Object, name string) {
	f := reflect.ValueOf(obj).Elem().FieldByName(name)
	f.SetZero()
}

func copyField(obj, from runtime.Object, name string) {
	reflect.ValueOf(obj).Elem().FieldByName(name).Set(reflect.ValueOf(from).Elem().FieldByName(name))
}

// metaOf returns the metadata of an object of a registered kind, which always has some.
func metaOf(obj runtime.Object) metav1.Object {
	m, err := meta.Accessor(obj)
	if err != nil {
		panic("registry: object without metadata: " + err.Error())
	}
	return m
}
