package registry

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// mirror says in which namespace the objects are stored that a kind shows in other ones, too
// (kinds.Kind.AlsoIn). Whoever asks in such a namespace reads and writes the stored object, and
// sees it in the namespace that was asked for.
type mirror map[string]string

// enter returns ctx as the storage is to be asked, and the function that shows an object of the
// storage to the client. The function is the identity where the client asks for what is stored.
func (m mirror) enter(ctx context.Context) (context.Context, func(runtime.Object) (runtime.Object, error)) {
	asked := genericapirequest.NamespaceValue(ctx)
	stored, ok := m[asked]
	if !ok {
		return ctx, func(obj runtime.Object) (runtime.Object, error) { return obj, nil }
	}
	return genericapirequest.WithNamespace(ctx, stored), func(obj runtime.Object) (runtime.Object, error) {
		return inNamespace(obj, asked)
	}
}

// inNamespace returns a copy of an object, or of the objects of a list, in a namespace. What
// has no namespace, a Status, stays as it is.
func inNamespace(obj runtime.Object, namespace string) (runtime.Object, error) {
	if obj == nil {
		return nil, nil
	}
	shown := obj.DeepCopyObject()
	if meta.IsListType(shown) {
		err := meta.EachListItem(shown, func(item runtime.Object) error { return setNamespace(item, namespace) })
		return shown, err
	}
	if _, ok := shown.(*metav1.Status); ok {
		return shown, nil
	}
	return shown, setNamespace(shown, namespace)
}

func setNamespace(obj runtime.Object, namespace string) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	m.SetNamespace(namespace)
	return nil
}

// mirroredUpdate is an update of a stored object by a client that sees it in another namespace.
type mirroredUpdate struct {
	rest.UpdatedObjectInfo
	show   func(runtime.Object) (runtime.Object, error)
	stored string
}

// UpdatedObject implements rest.UpdatedObjectInfo.
func (u mirroredUpdate) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	shown, err := u.show(old)
	if err != nil {
		return nil, err
	}
	obj, err := u.UpdatedObjectInfo.UpdatedObject(ctx, shown)
	if err != nil {
		return nil, err
	}
	return inNamespace(obj, u.stored)
}

// update returns info for the storage that enter has returned.
func (m mirror) update(ctx context.Context, info rest.UpdatedObjectInfo, show func(runtime.Object) (runtime.Object, error)) rest.UpdatedObjectInfo {
	stored, ok := m[genericapirequest.NamespaceValue(ctx)]
	if !ok {
		return info
	}
	return mirroredUpdate{UpdatedObjectInfo: info, show: show, stored: stored}
}

// Mirrored serves the main resource of a kind that shows its objects in other namespaces, too.
type Mirrored struct {
	*REST
	mirror mirror
}

var (
	_ rest.StandardStorage = (*Mirrored)(nil)
	_ rest.Watcher         = (*Mirrored)(nil)
)

// Create implements rest.Creater.
func (r *Mirrored) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	inner, show := r.mirror.enter(ctx)
	if stored, ok := r.mirror[genericapirequest.NamespaceValue(ctx)]; ok {
		if err := setNamespace(obj, stored); err != nil {
			return nil, err
		}
	}
	made, err := r.REST.Create(inner, obj, validate, opts)
	if err != nil {
		return nil, err
	}
	return show(made)
}

// Get implements rest.Getter.
func (r *Mirrored) Get(ctx context.Context, name string, opts *metav1.GetOptions) (runtime.Object, error) {
	inner, show := r.mirror.enter(ctx)
	obj, err := r.REST.Get(inner, name, opts)
	if err != nil {
		return nil, err
	}
	return show(obj)
}

// Update implements rest.Updater.
func (r *Mirrored) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, force bool, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	inner, show := r.mirror.enter(ctx)
	obj, made, err := r.REST.Update(inner, name, r.mirror.update(ctx, info, show), create, update, force, opts)
	if err != nil {
		return nil, false, err
	}
	obj, err = show(obj)
	return obj, made, err
}

// Delete implements rest.GracefulDeleter.
func (r *Mirrored) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	inner, show := r.mirror.enter(ctx)
	obj, deleted, err := r.REST.Delete(inner, name, validate, opts)
	if err != nil {
		return nil, false, err
	}
	obj, err = show(obj)
	return obj, deleted, err
}

// DeleteCollection implements rest.CollectionDeleter.
func (r *Mirrored) DeleteCollection(
	ctx context.Context, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions, selected *metainternalversion.ListOptions,
) (runtime.Object, error) {
	inner, show := r.mirror.enter(ctx)
	list, err := r.REST.DeleteCollection(inner, validate, opts, selected)
	if err != nil {
		return nil, err
	}
	return show(list)
}

// List implements rest.Lister. A list over all namespaces has each object once, where it is
// stored.
func (r *Mirrored) List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	inner, show := r.mirror.enter(ctx)
	list, err := r.Store.List(inner, opts)
	if err != nil {
		return nil, err
	}
	return show(list)
}

// Watch implements rest.Watcher.
func (r *Mirrored) Watch(ctx context.Context, opts *metainternalversion.ListOptions) (watch.Interface, error) {
	inner, show := r.mirror.enter(ctx)
	events, err := r.Store.Watch(inner, opts)
	if err != nil {
		return nil, err
	}
	return watch.Filter(events, func(e watch.Event) (watch.Event, bool) {
		if e.Type != watch.Added && e.Type != watch.Modified && e.Type != watch.Deleted {
			return e, true
		}
		shown, err := show(e.Object)
		if err != nil {
			return watch.Event{Type: watch.Error, Object: &metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}}, true
		}
		return watch.Event{Type: e.Type, Object: shown}, true
	}), nil
}

// MirroredStatus serves the status subresource of such a kind.
type MirroredStatus struct {
	*Status
	mirror mirror
}

var _ rest.Patcher = (*MirroredStatus)(nil)

// Get implements rest.Getter.
func (r *MirroredStatus) Get(ctx context.Context, name string, opts *metav1.GetOptions) (runtime.Object, error) {
	inner, show := r.mirror.enter(ctx)
	obj, err := r.Status.Get(inner, name, opts)
	if err != nil {
		return nil, err
	}
	return show(obj)
}

// Update implements rest.Updater. It never creates.
func (r *MirroredStatus) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, force bool, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	inner, show := r.mirror.enter(ctx)
	obj, made, err := r.Status.Update(inner, name, r.mirror.update(ctx, info, show), create, update, force, opts)
	if err != nil {
		return nil, false, err
	}
	obj, err = show(obj)
	return obj, made, err
}
