package registry

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"virtmesh/agent/kinds"
)

var namespaceKind = schema.GroupKind{Kind: "Namespace"}

// Namespaces serves namespaces. Deleting a namespace only marks it: it disappears when
// its content is deleted and the last of its spec.finalizers is removed.
type Namespaces struct {
	collection
	store *genericregistry.Store
	kind  *kinds.Kind
}

// collection is the part of a common resource's storage that namespaces also have. It
// lacks deletion of collections: namespaces are deleted one by one.
type collection interface {
	rest.Storage
	rest.Scoper
	rest.SingularNameProvider
	rest.ShortNamesProvider
	rest.CategoriesProvider
	rest.Getter
	rest.Lister
	rest.Creater
	rest.Updater
	rest.Watcher
	rest.ResetFieldsStrategy
}

var _ rest.GracefulDeleter = (*Namespaces)(nil)

func newNamespaces(store *genericregistry.Store, k *kinds.Kind) map[string]rest.Storage {
	store.ShouldDeleteDuringUpdate = func(ctx context.Context, key string, obj, old runtime.Object) bool {
		return !kinds.IsHeld(obj.(*corev1.Namespace)) && genericregistry.ShouldDeleteDuringUpdate(ctx, key, obj, old)
	}
	return map[string]rest.Storage{
		k.Resource:               &Namespaces{collection: newREST(store, k), store: store, kind: k},
		k.Resource + "/status":   newStatus(store, k),
		k.Resource + "/finalize": newFinalize(store, k),
	}
}

// Delete implements rest.GracefulDeleter.
func (r *Namespaces) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := r.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if opts == nil {
		opts = metav1.NewDeleteOptions(0)
	}
	if opts.Preconditions == nil {
		opts.Preconditions = &metav1.Preconditions{}
	}
	if opts.Preconditions.UID == nil {
		opts.Preconditions.UID = &ns.UID
	} else if *opts.Preconditions.UID != ns.UID {
		return nil, false, r.conflict(name, fmt.Errorf("the UID in the precondition is %s, that of the namespace %s", *opts.Preconditions.UID, ns.UID))
	}
	if v := opts.Preconditions.ResourceVersion; v != nil && *v != ns.ResourceVersion {
		return nil, false, r.conflict(name, fmt.Errorf("the resourceVersion in the precondition is %s, that of the namespace %s", *v, ns.ResourceVersion))
	}
	if ns.DeletionTimestamp.IsZero() {
		return r.markTerminating(ctx, name, validate, opts)
	}
	if len(ns.Spec.Finalizers) > 0 {
		return ns, false, nil // it is already being deleted
	}
	return r.store.Delete(ctx, name, validate, opts)
}

func (r *Namespaces) conflict(name string, err error) error {
	return apierrors.NewConflict(r.kind.GroupResource(), name, err)
}

// markTerminating marks a namespace as Terminating.
func (r *Namespaces) markTerminating(ctx context.Context, name string, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	key, err := r.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	pre := &storage.Preconditions{UID: opts.Preconditions.UID, ResourceVersion: opts.Preconditions.ResourceVersion}
	out := r.store.NewFunc()
	err = r.store.Storage.GuaranteedUpdate(ctx, key, out, false, pre, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
		ns := obj.(*corev1.Namespace)
		kinds.MarkDeleted(ns, time.Now())
		return ns, nil
	}), len(opts.DryRun) > 0, nil)
	if err != nil {
		err = storeerr.InterpretDeleteError(err, r.kind.GroupResource(), name)
		if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
			err = apierrors.NewInternalError(err)
		}
		return nil, false, err
	}
	return out, false, nil
}

// Finalize serves namespaces/finalize, through which spec.finalizers are removed.
type Finalize struct {
	store *genericregistry.Store
	kind  *kinds.Kind
}

var _ rest.Updater = (*Finalize)(nil)

func newFinalize(main *genericregistry.Store, k *kinds.Kind) *Finalize {
	store := *main
	s := finalizeStrategy{main.UpdateStrategy.(strategy)}
	store.UpdateStrategy = s
	store.ResetFieldsStrategy = s
	return &Finalize{store: &store, kind: k}
}

// New implements rest.Storage.
func (r *Finalize) New() runtime.Object { return r.kind.New() }

// Destroy implements rest.Storage. The main resource owns the store.
func (r *Finalize) Destroy() {}

// Update implements rest.Updater. It never creates.
func (r *Finalize) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, info, create, update, false, opts)
}

// finalizeStrategy changes spec.finalizers and nothing else.
type finalizeStrategy struct{ strategy }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s finalizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	ns, was := obj.(*corev1.Namespace), old.(*corev1.Namespace).DeepCopy()
	was.Spec.Finalizers = ns.Spec.Finalizers
	was.ManagedFields = ns.ManagedFields
	*ns = *was
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (s finalizeStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.resetFields("metadata", "status")
}
