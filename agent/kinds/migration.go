package kinds

import (
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

func migrationKind() *Kind {
	type vmim = kubevirtv1.VirtualMachineInstanceMigration
	return &Kind{
		GVK:      kubevirtv1.VirtualMachineInstanceMigrationGroupVersionKind,
		Resource: "virtualmachineinstancemigrations", Singular: "virtualmachineinstancemigration",
		ShortNames: []string{"vmim", "vmims"}, Categories: everything, Namespaced: true, Status: true, Generation: true,
		Object: &vmim{}, List: &kubevirtv1.VirtualMachineInstanceMigrationList{},
		Support:        "accepted: it can be created and read, and nothing migrates. A warning says so, its phase is `Failed` from the start, and instances have the condition `LiveMigratable` False",
		Writers:        Writers{Spec: users, Status: "the API, when it is created"},
		Default:        defaultWith(machine.SetNewMigration),
		Warnings:       forType(func(*vmim) []string { return []string{machine.NothingMigrates} }),
		Validate:       validateWith(machine.ValidateMigration),
		ValidateUpdate: validateUpdateWith(machine.ValidateMigrationUpdate),
		Columns: []Column{
			{Name: "Phase", Type: "string", Description: "The current phase of VM instance migration", Value: forType(func(m *vmim) any { return orNoCell(string(m.Status.Phase)) })},
			{Name: "VMI", Type: "string", Description: "The name of the VMI to perform the migration on", Value: forType(func(m *vmim) any { return orNoCell(m.Spec.VMIName) })},
		},
		Fields: map[string]func(obj runtimeObject) string{
			"spec.vmiName": forType(func(m *vmim) string { return m.Spec.VMIName }),
			"status.phase": forType(func(m *vmim) string { return string(m.Status.Phase) }),
		},
	}
}
