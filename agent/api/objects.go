package api

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/api/registry"
	"virtmesh/agent/api/subresources"
)

// objects lets the subresources work on the served resources.
type objects struct {
	machines, instances, migrations *registry.REST
	machineStatus                   rest.Updater
	trustedInstances                *genericregistry.Store
}

var _ subresources.Objects = (*objects)(nil)

// newObjects finds what it needs in the storage of kubevirt.io.
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

func get[T runtime.Object](ctx context.Context, from rest.Getter, namespace, name string) (T, error) {
	obj, err := from.Get(genericapirequest.WithNamespace(ctx, namespace), name, &metav1.GetOptions{})
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}

func put(ctx context.Context, to rest.Updater, obj runtime.Object, m metav1.Object, dryRun []string) error {
	ctx = genericapirequest.WithNamespace(ctx, m.GetNamespace())
	_, _, err := to.Update(ctx, m.GetName(), rest.DefaultUpdatedObjectInfo(obj),
		rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{DryRun: dryRun})
	return err
}

// VirtualMachine implements subresources.Objects.
func (o *objects) VirtualMachine(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachine, error) {
	return get[*kubevirtv1.VirtualMachine](ctx, o.machines, namespace, name)
}

// Instance implements subresources.Objects.
func (o *objects) Instance(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error) {
	return get[*kubevirtv1.VirtualMachineInstance](ctx, o.instances, namespace, name)
}

// PutVirtualMachine implements subresources.Objects.
func (o *objects) PutVirtualMachine(ctx context.Context, vm *kubevirtv1.VirtualMachine, dryRun []string) error {
	return put(ctx, o.machines, vm, vm, dryRun)
}

// PutVirtualMachineStatus implements subresources.Objects.
func (o *objects) PutVirtualMachineStatus(ctx context.Context, vm *kubevirtv1.VirtualMachine, dryRun []string) error {
	return put(ctx, o.machineStatus, vm, vm, dryRun)
}

// PutInstance implements subresources.Objects.
func (o *objects) PutInstance(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, dryRun []string) error {
	return put(ctx, o.trustedInstances, vmi, vmi, dryRun)
}

// CreateMigration implements subresources.Objects.
func (o *objects) CreateMigration(ctx context.Context, m *kubevirtv1.VirtualMachineInstanceMigration, dryRun []string) error {
	ctx = genericapirequest.WithNamespace(ctx, m.Namespace)
	_, err := o.migrations.Create(ctx, m, rest.ValidateAllObjectFunc, &metav1.CreateOptions{DryRun: dryRun})
	return err
}
