package registry

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	apistore "virtmesh/agent/api/store"
	"virtmesh/agent/kinds"
	machine "virtmesh/agent/vmi"
)

// REST serves the main resource of a kind.
type REST struct {
	*genericregistry.Store
	kind *kinds.Kind
	// undecoded lists and watches objects as they are stored.
	undecoded *genericregistry.Store
	// stored deletes what cannot be read; nil if the storage is not the mesh's, or nothing of
	// the kind is ever encrypted.
	stored *apistore.Store
	// opened is the storage without what cannot be read; nil if stored is.
	opened *genericregistry.Store
	// planned is the storage of a kind with planners, for dry runs; nil of any other.
	planned *apistore.Store
}

var (
	_ rest.StandardStorage    = (*REST)(nil)
	_ rest.Watcher            = (*REST)(nil)
	_ rest.ShortNamesProvider = (*REST)(nil)
	_ rest.CategoriesProvider = (*REST)(nil)
)

// ShortNames implements rest.ShortNamesProvider.
func (r *REST) ShortNames() []string { return r.kind.ShortNames }

// Categories implements rest.CategoriesProvider.
func (r *REST) Categories() []string { return r.kind.Categories }

func newREST(main *genericregistry.Store, k *kinds.Kind) *REST {
	r := &REST{Store: main, kind: k, undecoded: main}
	s, ok := main.Storage.Storage.(*apistore.Store)
	if !ok {
		return r
	}
	if len(k.Planners) > 0 {
		r.planned = s
	}
	if len(k.Sealed) > 0 {
		opened := *main
		opened.Storage.Storage = s.WithoutUnopened()
		r.stored, r.opened = s, &opened
	}
	if s = s.Undecoded(); s != nil {
		u := *main
		u.Storage.Storage = s
		u.NewListFunc = func() runtime.Object { return s.NewUndecodedList() }
		r.undecoded = &u
	}
	return r
}

// List implements rest.Lister. The list may be a store.UndecodedList.
func (r *REST) List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	return r.undecoded.List(ctx, opts)
}

// Watch implements rest.Watcher. The objects may be of type store.Undecoded.
func (r *REST) Watch(ctx context.Context, opts *metainternalversion.ListOptions) (watch.Interface, error) {
	return r.undecoded.Watch(ctx, opts)
}

// Delete implements rest.GracefulDeleter. It also deletes an object that no key of the mesh
// opens, which the library could not, since it reads what it deletes.
func (r *REST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if opts != nil {
		validate = r.rehearseDelete(validate, opts.DryRun)
	}
	obj, deleted, err := r.Store.Delete(ctx, name, validate, opts)
	if err == nil || r.stored == nil || apierrors.IsNotFound(err) {
		return obj, deleted, err
	}
	key, keyErr := r.KeyFunc(ctx, name)
	if keyErr != nil {
		return obj, deleted, err
	}
	var pre storage.Preconditions
	if opts != nil && opts.Preconditions != nil {
		pre.UID, pre.ResourceVersion = opts.Preconditions.UID, opts.Preconditions.ResourceVersion
	}
	out := r.NewFunc()
	dryRun := opts != nil && len(opts.DryRun) > 0
	unopened, failed := r.stored.DeleteUnopened(ctx, key, out, &pre, storage.ValidateObjectFunc(validate), dryRun)
	switch {
	case !unopened:
		return obj, deleted, err
	case failed != nil:
		return nil, false, storeerr.InterpretDeleteError(failed, r.kind.GroupResource(), name)
	}
	return out, true, nil
}

// DeleteCollection implements rest.CollectionDeleter. It also deletes what no key of the mesh opens,
// if the selectors match what of it can be read.
func (r *REST) DeleteCollection(
	ctx context.Context, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions, selected *metainternalversion.ListOptions,
) (runtime.Object, error) {
	if r.stored == nil {
		return r.Store.DeleteCollection(ctx, validate, opts, selected)
	}
	label, field := labels.Everything(), fields.Everything()
	if selected != nil && selected.LabelSelector != nil {
		label = selected.LabelSelector
	}
	if selected != nil && selected.FieldSelector != nil {
		field = selected.FieldSelector
	}
	unopened, err := r.stored.UnopenedNames(ctx, r.KeyRootFunc(ctx), r.PredicateFunc(label, field))
	if err != nil {
		return nil, storeerr.InterpretListError(err, r.kind.GroupResource())
	}
	for _, name := range unopened {
		if _, _, err := r.Delete(ctx, name, validate, opts.DeepCopy()); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return r.opened.DeleteCollection(ctx, validate, opts, selected)
}

// Mesh is what the objects of the mesh are judged by at each write.
type Mesh struct {
	// Defaults returns the mesh's defaults for virtual machines, Level its feature level.
	Defaults func() machine.Defaults
	Level    func() uint32
}

// New returns the storage of kind k and its status. The keys of the map are the
// resource and, for kinds that have it, resource/status.
func New(scheme *runtime.Scheme, k *kinds.Kind, mesh Mesh, getter generic.RESTOptionsGetter) (map[string]rest.Storage, error) {
	main, err := newStore(scheme, k, mesh, getter)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", k.GroupResource(), err)
	}
	if k.GVK.GroupKind() == namespaceKind {
		return newNamespaces(main, k), nil
	}
	if len(k.AlsoIn) > 0 {
		return map[string]rest.Storage{
			k.Resource:             &Mirrored{REST: newREST(main, k), mirror: k.AlsoIn},
			k.Resource + "/status": &MirroredStatus{Status: newStatus(main, k), mirror: k.AlsoIn},
		}, nil
	}
	out := map[string]rest.Storage{k.Resource: newREST(main, k)}
	if k.Status {
		out[k.Resource+"/status"] = newStatus(main, k)
	}
	return out, nil
}

func newStore(scheme *runtime.Scheme, k *kinds.Kind, mesh Mesh, getter generic.RESTOptionsGetter) (*genericregistry.Store, error) {
	s := strategy{ObjectTyper: scheme, NameGenerator: names.SimpleNameGenerator, kind: k, defaults: mesh.Defaults, level: mesh.Level}
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return k.New() },
		NewListFunc:               k.NewList,
		DefaultQualifiedResource:  k.GroupResource(),
		SingularQualifiedResource: schema.GroupResource{Group: k.GVK.Group, Resource: k.Singular},
		CreateStrategy:            s,
		UpdateStrategy:            s,
		DeleteStrategy:            s,
		ResetFieldsStrategy:       s,
		TableConvertor:            newTable(k),
	}
	attrs := attributes(k)
	store.PredicateFunc = func(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
		p := storage.SelectionPredicate{Label: l, Field: f, GetAttrs: attrs}
		if !selectsFields(f, k) {
			p.GetAttrs = metadataAttributes(k)
		}
		return p
	}
	return store, store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter, AttrFunc: attrs})
}

// selectsFields reports whether a selector names a field of k besides its metadata.
func selectsFields(f fields.Selector, k *kinds.Kind) bool {
	return slices.ContainsFunc(f.Requirements(), func(r fields.Requirement) bool { return k.Fields[r.Field] != nil })
}

// attributes returns the function that reads the labels and fields by which objects of
// k are selected.
func attributes(k *kinds.Kind) storage.AttrFunc {
	metadata := metadataAttributes(k)
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		obj, err := apistore.Decoded(obj)
		if err != nil {
			return nil, nil, err
		}
		words, set, err := metadata(obj)
		if err != nil {
			return nil, nil, err
		}
		for name, value := range k.Fields {
			set[name] = value(obj)
		}
		return words, set, nil
	}
}

// metadataAttributes is attributes for selectors that name metadata alone: it does not
// decode the rest of the object.
func metadataAttributes(k *kinds.Kind) storage.AttrFunc {
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		m, err := meta.Accessor(obj)
		if err != nil {
			return nil, nil, err
		}
		set := make(fields.Set, 2+len(k.Fields))
		set["metadata.name"] = m.GetName()
		if k.Namespaced {
			set["metadata.namespace"] = m.GetNamespace()
		}
		return labels.Set(m.GetLabels()), set, nil
	}
}

// Status serves the status subresource of a kind.
type Status struct {
	store *genericregistry.Store
	kind  *kinds.Kind
}

var (
	_ rest.Getter              = (*Status)(nil)
	_ rest.Patcher             = (*Status)(nil)
	_ rest.ResetFieldsStrategy = (*Status)(nil)
)

func newStatus(main *genericregistry.Store, k *kinds.Kind) *Status {
	store := *main
	s := statusStrategy{main.UpdateStrategy.(strategy)}
	store.UpdateStrategy = s
	store.ResetFieldsStrategy = s
	return &Status{store: &store, kind: k}
}

// New implements rest.Storage.
func (r *Status) New() runtime.Object { return r.kind.New() }

// Destroy implements rest.Storage. The main resource owns the store.
func (r *Status) Destroy() {}

// Get implements rest.Getter.
func (r *Status) Get(ctx context.Context, name string, opts *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, opts)
}

// Update implements rest.Updater. It never creates.
func (r *Status) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, info, create, update, false, opts)
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (r *Status) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

// ConvertToTable implements rest.TableConvertor.
func (r *Status) ConvertToTable(ctx context.Context, obj, opts runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, obj, opts)
}

// NewTrusted returns a store for the server's own writes of a kind, without the
// restrictions on what clients may change. It shares the storage of r.
func (r *REST) NewTrusted() *genericregistry.Store {
	store := *r.Store
	store.UpdateStrategy = trustedStrategy{r.UpdateStrategy.(strategy)}
	return &store
}

// trustedStrategy only counts generations and checks metadata.
type trustedStrategy struct{ strategy }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s trustedStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	s.kind.CountGeneration(obj.(kinds.Object), old.(kinds.Object))
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (s trustedStrategy) ValidateUpdate(_ context.Context, obj, _ runtime.Object) field.ErrorList {
	return s.validateMeta(obj)
}
