package registry

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// The library ends a dry run before the storage is asked to write. So what planners have to say
// to it (kinds.Planner) is asked where the object is validated last.

// Create implements rest.Creater.
func (r *REST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	if r.planned == nil || opts == nil || len(opts.DryRun) == 0 {
		return r.Store.Create(ctx, obj, validate, opts)
	}
	rehearsed := func(ctx context.Context, obj runtime.Object) error {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return err
		}
		return r.rehearse(ctx, obj, nil)
	}
	return r.Store.Create(ctx, obj, rehearsed, opts)
}

// Update implements rest.Updater.
func (r *REST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, force bool, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	if r.planned == nil || opts == nil || len(opts.DryRun) == 0 {
		return r.Store.Update(ctx, name, info, create, update, force, opts)
	}
	rehearsed := func(ctx context.Context, obj, old runtime.Object) error {
		if err := update(ctx, obj.DeepCopyObject(), old.DeepCopyObject()); err != nil {
			return err
		}
		return r.rehearse(ctx, obj, old)
	}
	return r.Store.Update(ctx, name, info, create, rehearsed, force, opts)
}

// rehearseDelete returns the validation of a deletion, which asks the planners too if it is a dry
// run.
func (r *REST) rehearseDelete(validate rest.ValidateObjectFunc, dryRun []string) rest.ValidateObjectFunc {
	if r.planned == nil || len(dryRun) == 0 {
		return validate
	}
	return func(ctx context.Context, old runtime.Object) error {
		if validate != nil {
			if err := validate(ctx, old.DeepCopyObject()); err != nil {
				return err
			}
		}
		return r.rehearse(ctx, nil, old)
	}
}

// rehearse asks the planners what they say to obj in the place of old, one of which may be nil.
func (r *REST) rehearse(ctx context.Context, obj, old runtime.Object) error {
	named := obj
	if named == nil {
		named = old
	}
	name, err := r.ObjectNameFunc(named)
	if err != nil {
		return err
	}
	key, err := r.KeyFunc(ctx, name)
	if err != nil {
		return err
	}
	return r.planned.Rehearse(ctx, key, obj, old)
}
