package kinds

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/vmi"
)

func meshConfigKind() *Kind {
	type config = meshv1alpha1.MeshConfig
	setDefaults := func(c *config) { c.Spec = meshv1alpha1.Effective(c) }
	return &Kind{
		GVK: meshv1alpha1.SchemeGroupVersion.WithKind("MeshConfig"), Resource: "meshconfigs", Singular: "meshconfig",
		ShortNames: []string{"mc"}, Status: true, Generation: true,
		Object: &config{}, List: &meshv1alpha1.MeshConfigList{},
		Support:        "works: the settings of the whole mesh, in one object named `mesh`; [operate.md](operate.md) says what they do, and so does `kubectl explain meshconfig.spec`",
		Writers:        Writers{Spec: users, Status: "nobody yet"},
		ValidateName:   validateMeshConfigName,
		Default:        fill(setDefaults),
		DefaultUpdate:  refill(func(c, _ *config) { setDefaults(c) }),
		Validate:       judge(validateMeshConfig),
		ValidateUpdate: judgeUpdate(func(c, _ *config) field.ErrorList { return validateMeshConfig(c) }),
		Columns: []Column{
			column("Strategy", func(c *config) any { return string(c.Spec.Capacity.Strategy) }),
			{Name: "CPU-Ratio", Type: "integer", Description: "Virtual CPUs for each CPU of a host", Value: on(func(c *config) any { return deref(c.Spec.Capacity.CPUAllocationRatio) })},
			{Name: "Memory-Percent", Type: "integer", Description: "Guest memory promised for every 100 of a host's", Value: on(func(c *config) any { return deref(c.Spec.Capacity.MemoryOvercommitPercent) })},
			{Name: "Hotplug-Ratio", Type: "integer", Wide: true, Value: on(func(c *config) any { return deref(c.Spec.VirtualMachine.MaxHotplugRatio) })},
			age,
		},
	}
}

// DefaultsUnder returns the choices that fill in virtual machines under the mesh's
// settings. A nil config stands for a mesh without the object.
func DefaultsUnder(config *meshv1alpha1.MeshConfig) vmi.Defaults {
	d := vmi.DefaultDefaults()
	d.MaxHotplugRatio = uint32(*meshv1alpha1.Effective(config).VirtualMachine.MaxHotplugRatio)
	return d
}

// validateMeshConfigName lets one object exist. Its signature is that of the
// library's checks of names.
func validateMeshConfigName(name string, _ bool) []string {
	if name != meshv1alpha1.Name {
		return []string{fmt.Sprintf("must be %q: a mesh has one MeshConfig", meshv1alpha1.Name)}
	}
	return nil
}

// validateMeshConfig checks settings that have their defaults already.
func validateMeshConfig(c *meshv1alpha1.MeshConfig) field.ErrorList {
	capacity, machine := field.NewPath("spec", "capacity"), field.NewPath("spec", "virtualMachine")
	var errs field.ErrorList
	errs = append(errs, between(capacity.Child("cpuAllocationRatio"), c.Spec.Capacity.CPUAllocationRatio,
		meshv1alpha1.MinCPUAllocationRatio, meshv1alpha1.MaxCPUAllocationRatio)...)
	errs = append(errs, between(capacity.Child("memoryOvercommitPercent"), c.Spec.Capacity.MemoryOvercommitPercent,
		meshv1alpha1.MinMemoryOvercommitPercent, meshv1alpha1.MaxMemoryOvercommitPercent)...)
	errs = append(errs, oneOf(capacity.Child("strategy"), c.Spec.Capacity.Strategy,
		[]meshv1alpha1.Strategy{meshv1alpha1.Balance, meshv1alpha1.Pack})...)
	errs = append(errs, between(machine.Child("maxHotplugRatio"), c.Spec.VirtualMachine.MaxHotplugRatio,
		meshv1alpha1.MinHotplugRatio, meshv1alpha1.MaxHotplugRatio)...)
	return errs
}
