package kinds

import (
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

func virtualMachineInstanceKind() *Kind {
	type instance = kubevirtv1.VirtualMachineInstance
	return &Kind{
		GVK: kubevirtv1.VirtualMachineInstanceGroupVersionKind, Resource: "virtualmachineinstances", Singular: "virtualmachineinstance",
		ShortNames: []string{"vmi", "vmis"}, Categories: everything, Namespaced: true, Generation: true,
		Object: &instance{}, List: &kubevirtv1.VirtualMachineInstanceList{},
		Support: "works. Only its labels, annotations and finalizers can be changed, as in KubeVirt",
		Writers: Writers{Spec: "users, stewards/vm", Status: "stewards/schedule until it has a host, then host/executor; stewards/nodes while its host is dead; stewards/operation when its host is removed"},
		Finalizers: map[string]string{
			kubevirtv1.VirtualMachineInstanceFinalizer:   "host/executor; stewards/schedule if it never had a host",
			kubevirtv1.VirtualMachineControllerFinalizer: "stewards/vm",
		},
		Default: func(d machine.Defaults, obj runtime.Object) {
			v := obj.(*instance)
			v.Status = kubevirtv1.VirtualMachineInstanceStatus{}
			machine.SetNewInstance(d, v, time.Now())
		},
		// As in KubeVirt, there is no status subresource, and a status from a client is
		// ignored.
		DefaultUpdate: defaultUpdateWith(func(v, old *instance) { v.Status = old.Status }),
		Validate: func(d machine.Defaults, obj runtime.Object) field.ErrorList {
			return machine.ValidateInstance(d, obj.(*instance))
		},
		ValidateUpdate: validateUpdateWith(machine.ValidateInstanceUpdate),
		Columns: []Column{
			age,
			column("Phase", func(v *instance) any { return orNoCell(string(v.Status.Phase)) }),
			column("IP", func(v *instance) any {
				if len(v.Status.Interfaces) == 0 {
					return noCell
				}
				return orNoCell(v.Status.Interfaces[0].IP)
			}),
			column("NodeName", func(v *instance) any { return orNoCell(v.Status.NodeName) }),
			column("Ready", func(v *instance) any { return instanceCondition(v, kubevirtv1.VirtualMachineInstanceReady) }),
			wideColumn("Live-Migratable", func(v *instance) any { return instanceCondition(v, kubevirtv1.VirtualMachineInstanceIsMigratable) }),
			wideColumn("Paused", func(v *instance) any { return instanceCondition(v, kubevirtv1.VirtualMachineInstancePaused) }),
		},
		Fields: map[string]func(obj runtimeObject) string{
			"status.nodeName": forType(func(v *instance) string { return v.Status.NodeName }),
			"status.phase":    forType(func(v *instance) string { return string(v.Status.Phase) }),
		},
	}
}

func instanceCondition(v *kubevirtv1.VirtualMachineInstance, typ kubevirtv1.VirtualMachineInstanceConditionType) any {
	for _, c := range v.Status.Conditions {
		if c.Type == typ {
			return string(c.Status)
		}
	}
	return noCell
}
