package kinds

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// everything is the category of the kinds that kubectl get all lists.
var everything = []string{"all"}

func virtualMachineKind() *Kind {
	type vm = kubevirtv1.VirtualMachine
	return &Kind{
		GVK: kubevirtv1.VirtualMachineGroupVersionKind, Resource: "virtualmachines", Singular: "virtualmachine",
		ShortNames: []string{"vm", "vms"}, Categories: everything, Namespaced: true, Status: true, Generation: true,
		Object: &vm{}, List: &kubevirtv1.VirtualMachineList{},
		Support: "works",
		Writers: Writers{Spec: "users; the run strategy by stewards/vm when the guest ends", Status: "stewards/vm; powering on and off (subresources) through the API"},
		Finalizers: map[string]string{
			kubevirtv1.VirtualMachineControllerFinalizer: "stewards/vm",
		},
		Default: func(d machine.Defaults, obj runtime.Object) {
			v := obj.(*vm)
			machine.DropUninferred(&v.Spec)
			if v.Spec.Template != nil {
				machine.NewIdentity(&v.Spec.Template.Spec)
				d.SetTemplate(&v.Spec.Template.Spec)
			}
		},
		DefaultUpdate: func(d machine.Defaults, obj, old runtime.Object) {
			v, before := obj.(*vm), old.(*vm)
			machine.DropUninferred(&v.Spec)
			if v.Spec.Template != nil && v.DeletionTimestamp == nil {
				if before.Spec.Template != nil {
					machine.KeepIdentity(&v.Spec.Template.Spec, &before.Spec.Template.Spec)
				}
				d.SetTemplate(&v.Spec.Template.Spec)
			}
		},
		Validate: func(d machine.Defaults, obj runtime.Object) field.ErrorList {
			return machine.ValidateVirtualMachine(d, obj.(*vm))
		},
		ValidateUpdate: func(d machine.Defaults, obj, old runtime.Object) field.ErrorList {
			return machine.ValidateVirtualMachineUpdate(d, obj.(*vm), old.(*vm))
		},
		Warnings: forType(machine.VirtualMachineWarnings),
		Columns: []Column{
			age,
			{Name: "Status", Type: "string", Description: "Human Readable Status", Value: forType(func(v *vm) any { return orNoCell(string(v.Status.PrintableStatus)) })},
			column("Ready", func(v *vm) any { return vmCondition(v.Status.Conditions, kubevirtv1.VirtualMachineReady) }),
		},
	}
}

func vmCondition(conds []kubevirtv1.VirtualMachineCondition, typ kubevirtv1.VirtualMachineConditionType) any {
	for _, c := range conds {
		if c.Type == typ {
			return string(c.Status)
		}
	}
	return noCell
}
