package kinds

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"virtmesh/agent/kinds/hcov1beta1"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	machine "virtmesh/agent/vmi"
)

func meshConfigKind() *Kind {
	type config = meshv1alpha1.MeshConfig
	setDefaults := func(c *config) { c.Spec = meshv1alpha1.Effective(c) }
	return &Kind{
		GVK: meshv1alpha1.SchemeGroupVersion.WithKind("MeshConfig"), Resource: "meshconfigs", Singular: "meshconfig",
		ShortNames: []string{"mc"}, Generation: true,
		FieldLevels: map[string]uint32{"spec.capacity.storageOvercommitPercent": level.Apart, "spec.capacity.imageOverlay": level.Succession, "spec.encryption": level.Succession, "spec.voters": level.Succession, "spec.voters.keepKeys": level.Access},
		Object:      &config{}, List: &meshv1alpha1.MeshConfigList{},
		Support:        "works: the settings of the whole mesh, in one object named `mesh`; [operate.md](operate.md) says what they do, and so does `kubectl explain meshconfig.spec`",
		Writers:        Writers{Spec: users},
		ValidateName:   validateMeshConfigName,
		Default:        defaultWith(setDefaults),
		DefaultUpdate:  defaultUpdateWith(func(c, _ *config) { setDefaults(c) }),
		Validate:       validateWith(validateMeshConfig),
		ValidateUpdate: validateUpdateWith(func(c, _ *config) field.ErrorList { return validateMeshConfig(c) }),
		Warnings:       forType(func(c *config) []string { return warnOfVoters(c.Spec.Voters) }),
		Columns: []Column{
			column("Strategy", func(c *config) any { return string(c.Spec.Capacity.Strategy) }),
			{Name: "CPU-Ratio", Type: "integer", Description: "Virtual CPUs for each CPU of a host", Value: forType(func(c *config) any { return deref(c.Spec.Capacity.CPUAllocationRatio) })},
			{Name: "Memory-Percent", Type: "integer", Description: "Guest memory promised for every 100 of a host's", Value: forType(func(c *config) any { return deref(c.Spec.Capacity.MemoryOvercommitPercent) })},
			wideColumn("Feature-Level", func(c *config) any { return string(c.Spec.FeatureLevel) }),
			{Name: "Hotplug-Ratio", Type: "integer", Wide: true, Value: forType(func(c *config) any { return deref(c.Spec.VirtualMachine.MaxHotplugRatio) })},
			age,
		},
	}
}

// DefaultsUnder returns the defaults for virtual machines according to the mesh's
// settings and its configuration. A nil config stands for a mesh without a MeshConfig
// object, a nil hco for one without a HyperConverged.
func DefaultsUnder(config *meshv1alpha1.MeshConfig, hco *hcov1beta1.HyperConverged) machine.Defaults {
	d := machine.DefaultDefaults()
	d.MaxHotplugRatio = uint32(*meshv1alpha1.Effective(config).VirtualMachine.MaxHotplugRatio)
	if hco == nil {
		return d
	}
	if model := deref(hco.Spec.DefaultCPUModel); model != "" {
		d.CPUModel = model
	}
	d.EvictionStrategy = hco.Spec.EvictionStrategy
	return d
}

// validateMeshConfigName allows only one name, so that there is only one object. Its
// signature is that of the library's name checks.
func validateMeshConfigName(name string, _ bool) []string {
	if name != meshv1alpha1.Name {
		return []string{fmt.Sprintf("must be %q: a mesh has one MeshConfig", meshv1alpha1.Name)}
	}
	return nil
}

// validateMeshConfig checks settings whose defaults are already filled in.
func validateMeshConfig(c *meshv1alpha1.MeshConfig) field.ErrorList {
	capacity, machines := field.NewPath("spec", "capacity"), field.NewPath("spec", "virtualMachine")
	var errs field.ErrorList
	errs = append(errs, checkRange(capacity.Child("cpuAllocationRatio"), c.Spec.Capacity.CPUAllocationRatio,
		meshv1alpha1.MinCPUAllocationRatio, meshv1alpha1.MaxCPUAllocationRatio)...)
	errs = append(errs, checkRange(capacity.Child("memoryOvercommitPercent"), c.Spec.Capacity.MemoryOvercommitPercent,
		meshv1alpha1.MinMemoryOvercommitPercent, meshv1alpha1.MaxMemoryOvercommitPercent)...)
	if percent := c.Spec.Capacity.StorageOvercommitPercent; percent != nil {
		errs = append(errs, checkRange(capacity.Child("storageOvercommitPercent"), percent,
			meshv1alpha1.MinStorageOvercommitPercent, meshv1alpha1.MaxStorageOvercommitPercent)...)
	}
	if overlay := c.Spec.Capacity.ImageOverlay; overlay != nil && (overlay.Sign() < 0 || overlay.Value() > meshv1alpha1.MaxImageOverlay) {
		errs = append(errs, field.Invalid(capacity.Child("imageOverlay"), overlay.String(), "must be from 0 to 1Ti"))
	}
	errs = append(errs, checkOneOf(capacity.Child("strategy"), c.Spec.Capacity.Strategy,
		[]meshv1alpha1.Strategy{meshv1alpha1.Balance, meshv1alpha1.Pack})...)
	errs = append(errs, checkRange(machines.Child("maxHotplugRatio"), c.Spec.VirtualMachine.MaxHotplugRatio,
		meshv1alpha1.MinHotplugRatio, meshv1alpha1.MaxHotplugRatio)...)
	errs = append(errs, checkOneOf(field.NewPath("spec", "featureLevel"), c.Spec.FeatureLevel,
		[]meshv1alpha1.FeatureLevelPolicy{meshv1alpha1.FeatureLevelManual, meshv1alpha1.FeatureLevelAutomatic})...)
	errs = append(errs, validateVoters(field.NewPath("spec", "voters"), c.Spec.Voters)...)
	return append(errs, validateEncryptedKinds(field.NewPath("spec", "encryption", "kinds"), meshv1alpha1.EncryptedKinds(c))...)
}

// validateEncryptedKinds refuses kinds that cannot be encrypted, and says why.
func validateEncryptedKinds(path *field.Path, named []string) field.ErrorList {
	var errs field.ErrorList
	for i, name := range named {
		switch at := path.Index(i); {
		case slices.Contains(named[:i], name):
			errs = append(errs, field.Duplicate(at, name))
		case name == secretKind().GVK.Kind:
			errs = append(errs, field.Invalid(at, name, "they are always encrypted: leave the kind out"))
		case name != configMapKind().GVK.Kind:
			errs = append(errs, field.Invalid(at, name, "must be ConfigMap: objects of other kinds have to be read by every host, and only voters hold the key"))
		}
	}
	return errs
}
