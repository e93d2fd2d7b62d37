package api

import (
	"context"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/api/registry"
	"virtmesh/agent/api/subresources"
)

// objects implements subresources.Objects on the storage of the served resources.
type objects struct {
	machines, instances, migrations *registry.REST
	machineStatus                   rest.Updater
	trustedInstances                *genericregistry.Store
}

var _ subresources.Objects = (*objects)(nil)

// decodedInstances lists and watches instances as they are, where their storage has them as they
// are stored.
type decodedInstances struct{ *registry.REST }

// List implements pods.Instances.
func (d decodedInstances) List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	return d.Store.List(ctx, opts)
}

// Watch implements pods.Instances.
func (d decodedInstances) Watch(ctx context.Context, opts *metainternalversion.ListOptions) (watch.Interface, error) {
	return d.Store.Watch(ctx, opts)
}

// newObjects takes the storage that it needs from the storage of kubevirt.io.
func newObjects(kubevirt map[string]rest.Storage) *objects {
	o := &objects{
		machines:      kubevirt["virtualmachines"].(*registry.REST),
		instances:     kubevirt["virtualmachineinstances"].(*registry.REST),
		migrations:    kubevirt["virtualmachineinstancemigrations"].(*registry.REST),
		machineStatus: kubevirt["virtualmachines/status"].(rest.Updater),
	}
	o.trustedInstances = o.instances.NewTrusted()
	return o
}

func getObject[T runtime.Object](ctx context.Context, from rest.Getter, namespace, name string) (T, error) {
	obj, err := from.Get(genericapirequest.WithNamespace(ctx, namespace), name, &metav1.GetOptions{})
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}

// changeObject applies fn to the stored object, and repeats this if another write comes
// first.
func changeObject[T runtime.Object](ctx context.Context, to rest.Updater, namespace, name string, dryRun []string, fn func(T) error) error {
	ctx = genericapirequest.WithNamespace(ctx, namespace)
	apply := func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		obj := old.DeepCopyObject().(T)
		return obj, fn(obj)
	}
	_, _, err := to.Update(ctx, name, rest.DefaultUpdatedObjectInfo(nil, apply),
		rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{DryRun: dryRun})
	return err
}

// VirtualMachine implements subresources.Objects.
func (o *objects) VirtualMachine(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachine, error) {
	return getObject[*kubevirtv1.VirtualMachine](ctx, o.machines, namespace, name)
}

// Instance implements subresources.Objects.
func (o *objects) Instance(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error) {
	return getObject[*kubevirtv1.VirtualMachineInstance](ctx, o.instances, namespace, name)
}

// ChangeVirtualMachine implements subresources.Objects.
func (o *objects) ChangeVirtualMachine(ctx context.Context, namespace, name string, dryRun []string, fn func(*kubevirtv1.VirtualMachine) error) error {
	return changeObject(ctx, o.machines, namespace, name, dryRun, fn)
}

// ChangeVirtualMachineStatus implements subresources.Objects.
func (o *objects) ChangeVirtualMachineStatus(ctx context.Context, namespace, name string, dryRun []string, fn func(*kubevirtv1.VirtualMachine) error) error {
	return changeObject(ctx, o.machineStatus, namespace, name, dryRun, fn)
}

// ChangeInstance implements subresources.Objects.
func (o *objects) ChangeInstance(ctx context.Context, namespace, name string, dryRun []string, fn func(*kubevirtv1.VirtualMachineInstance) error) error {
	return changeObject(ctx, o.trustedInstances, namespace, name, dryRun, fn)
}

// CreateMigration implements subresources.Objects.
func (o *objects) CreateMigration(ctx context.Context, m *kubevirtv1.VirtualMachineInstanceMigration, dryRun []string) error {
	ctx = genericapirequest.WithNamespace(ctx, m.Namespace)
	_, err := o.migrations.Create(ctx, m, rest.ValidateAllObjectFunc, &metav1.CreateOptions{DryRun: dryRun})
	return err
}
