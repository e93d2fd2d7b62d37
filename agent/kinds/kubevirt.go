package kinds

import (
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/vmi"
)

// everything is the category of what kubectl get all lists.
var everything = []string{"all"}

func kubevirtKinds(d vmi.Defaults) []*Kind {
	return []*Kind{
		virtualMachineKind(d),
		virtualMachineInstanceKind(d),
		migrationKind(),
	}
}

func virtualMachineKind(d vmi.Defaults) *Kind {
	type vm = kubevirtv1.VirtualMachine
	return &Kind{
		GVK: kubevirtv1.VirtualMachineGroupVersionKind, Resource: "virtualmachines", Singular: "virtualmachine",
		ShortNames: []string{"vm", "vms"}, Categories: everything, Namespaced: true, Status: true, Generation: true,
		Object: &vm{}, List: &kubevirtv1.VirtualMachineList{},
		Default: do(func(v *vm) {
			vmi.DropUninferred(&v.Spec)
			if v.Spec.Template != nil {
				setFirmwareIdentity(&v.Spec.Template.Spec)
				d.SetTemplate(&v.Spec.Template.Spec)
			}
		}),
		DefaultUpdate: change(func(v, _ *vm) {
			vmi.DropUninferred(&v.Spec)
			if v.Spec.Template != nil && v.DeletionTimestamp == nil {
				d.SetTemplate(&v.Spec.Template.Spec)
			}
		}),
		Validate:       on(func(v *vm) field.ErrorList { return vmi.ValidateVirtualMachine(d, v) }),
		ValidateUpdate: both(func(v, old *vm) field.ErrorList { return vmi.ValidateVirtualMachineUpdate(d, v, old) }),
		Warnings:       on(vmi.VirtualMachineWarnings),
		Columns: []Column{
			age,
			{Name: "Status", Type: "string", Description: "Human Readable Status", Value: on(func(v *vm) any { return orNoCell(string(v.Status.PrintableStatus)) })},
			column("Ready", func(v *vm) any { return vmCondition(v.Status.Conditions, kubevirtv1.VirtualMachineReady) }),
		},
	}
}

// setFirmwareIdentity gives a new VirtualMachine the identity that its instances
// keep, also when it is cloned or renamed.
func setFirmwareIdentity(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	if spec.Domain.Firmware == nil {
		spec.Domain.Firmware = &kubevirtv1.Firmware{}
	}
	fw := spec.Domain.Firmware
	if fw.UUID == "" {
		fw.UUID = types.UID(uuid.NewString())
	}
	if fw.Serial == "" {
		fw.Serial = uuid.NewString()
	}
}

func virtualMachineInstanceKind(d vmi.Defaults) *Kind {
	type instance = kubevirtv1.VirtualMachineInstance
	return &Kind{
		GVK: kubevirtv1.VirtualMachineInstanceGroupVersionKind, Resource: "virtualmachineinstances", Singular: "virtualmachineinstance",
		ShortNames: []string{"vmi", "vmis"}, Categories: everything, Namespaced: true, Generation: true,
		Object: &instance{}, List: &kubevirtv1.VirtualMachineInstanceList{},
		Default: do(func(v *instance) {
			v.Status = kubevirtv1.VirtualMachineInstanceStatus{}
			vmi.SetNewInstance(d, v, time.Now())
		}),
		// Like KubeVirt, there is no status subresource, and a client's status is
		// not taken.
		DefaultUpdate:  change(func(v, old *instance) { v.Status = old.Status }),
		Validate:       on(func(v *instance) field.ErrorList { return vmi.ValidateInstance(d, v) }),
		ValidateUpdate: both(vmi.ValidateInstanceUpdate),
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
			wide("Live-Migratable", func(v *instance) any { return instanceCondition(v, kubevirtv1.VirtualMachineInstanceIsMigratable) }),
			wide("Paused", func(v *instance) any { return instanceCondition(v, kubevirtv1.VirtualMachineInstancePaused) }),
		},
		Fields: map[string]func(obj runtimeObject) string{
			"status.nodeName": on(func(v *instance) string { return v.Status.NodeName }),
			"status.phase":    on(func(v *instance) string { return string(v.Status.Phase) }),
		},
	}
}

func migrationKind() *Kind {
	type vmim = kubevirtv1.VirtualMachineInstanceMigration
	return &Kind{
		GVK:      kubevirtv1.VirtualMachineInstanceMigrationGroupVersionKind,
		Resource: "virtualmachineinstancemigrations", Singular: "virtualmachineinstancemigration",
		ShortNames: []string{"vmim", "vmims"}, Categories: everything, Namespaced: true, Status: true, Generation: true,
		Object: &vmim{}, List: &kubevirtv1.VirtualMachineInstanceMigrationList{},
		Default:        do(vmi.SetNewMigration),
		Validate:       on(vmi.ValidateMigration),
		ValidateUpdate: both(vmi.ValidateMigrationUpdate),
		Columns: []Column{
			{Name: "Phase", Type: "string", Description: "The current phase of VM instance migration", Value: on(func(m *vmim) any { return orNoCell(string(m.Status.Phase)) })},
			{Name: "VMI", Type: "string", Description: "The name of the VMI to perform the migration on", Value: on(func(m *vmim) any { return orNoCell(m.Spec.VMIName) })},
		},
		Fields: map[string]func(obj runtimeObject) string{
			"spec.vmiName": on(func(m *vmim) string { return m.Spec.VMIName }),
			"status.phase": on(func(m *vmim) string { return string(m.Status.Phase) }),
		},
	}
}

// noCell is an empty cell, as the columns of custom resources have for a path
// that leads nowhere.
var noCell any = ""

func orNoCell(s string) any { return s }

func vmCondition(conds []kubevirtv1.VirtualMachineCondition, typ kubevirtv1.VirtualMachineConditionType) any {
	for _, c := range conds {
		if c.Type == typ {
			return string(c.Status)
		}
	}
	return noCell
}

func instanceCondition(v *kubevirtv1.VirtualMachineInstance, typ kubevirtv1.VirtualMachineInstanceConditionType) any {
	for _, c := range v.Status.Conditions {
		if c.Type == typ {
			return string(c.Status)
		}
	}
	return noCell
}
