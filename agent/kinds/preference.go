package kinds

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"kubevirt.io/api/instancetype"
	instancetypev1beta1 "kubevirt.io/api/instancetype/v1beta1"

	"virtmesh/agent/level"
	machine "virtmesh/agent/vmi"
)

func preferenceKind() *Kind {
	type kind = instancetypev1beta1.VirtualMachinePreference
	k := kindOfPreference(func(obj runtime.Object) *instancetypev1beta1.VirtualMachinePreferenceSpec { return &obj.(*kind).Spec })
	k.GVK = instancetypev1beta1.SchemeGroupVersion.WithKind("VirtualMachinePreference")
	k.Resource, k.Singular = instancetype.PluralPreferenceResourceName, instancetype.SingularPreferenceResourceName
	k.ShortNames, k.Categories = []string{"vmpref", "vmprefs", "vmp", "vmps"}, everything
	k.Namespaced = true
	k.Object, k.List = &kind{}, &instancetypev1beta1.VirtualMachinePreferenceList{}
	return k
}

func clusterPreferenceKind() *Kind {
	type kind = instancetypev1beta1.VirtualMachineClusterPreference
	k := kindOfPreference(func(obj runtime.Object) *instancetypev1beta1.VirtualMachinePreferenceSpec { return &obj.(*kind).Spec })
	k.GVK = instancetypev1beta1.SchemeGroupVersion.WithKind("VirtualMachineClusterPreference")
	k.Resource, k.Singular = instancetype.ClusterPluralPreferenceResourceName, instancetype.ClusterSingularPreferenceResourceName
	k.ShortNames = []string{"vmcp", "vmcps"}
	k.Object, k.List = &kind{}, &instancetypev1beta1.VirtualMachineClusterPreferenceList{}
	return k
}

// kindOfPreference returns what the registrations of preferences have in common. specOf
// returns the spec of an object.
func kindOfPreference(specOf func(runtime.Object) *instancetypev1beta1.VirtualMachinePreferenceSpec) *Kind {
	return &Kind{
		FeatureLevel: level.Access,
		Generation:   true,
		Support:      "accepted: it is validated and stored, and no machine can use it yet, which a warning says. A VirtualMachine that names one is refused",
		Writers:      Writers{Spec: users},
		Columns:      []Column{age},
		Warnings: func(obj runtime.Object) []string {
			return append([]string{machine.InstancetypesAreNotApplied}, warnOfTopology(specOf(obj).CPU)...)
		},
		Validate: func(_ machine.Defaults, obj runtime.Object) field.ErrorList {
			return validatePreference(specOf(obj))
		},
		ValidateUpdate: func(_ machine.Defaults, obj, _ runtime.Object) field.ErrorList {
			return validatePreference(specOf(obj))
		},
	}
}

// topology is a value of preferredCPUTopology, with the name that it had at first, which
// KubeVirt still takes.
type topology struct {
	name, deprecated instancetypev1beta1.PreferredCPUTopology
}

func topologies() []topology {
	return []topology{
		{instancetypev1beta1.Sockets, instancetypev1beta1.DeprecatedPreferSockets},
		{instancetypev1beta1.Cores, instancetypev1beta1.DeprecatedPreferCores},
		{instancetypev1beta1.Threads, instancetypev1beta1.DeprecatedPreferThreads},
		{instancetypev1beta1.Spread, instancetypev1beta1.DeprecatedPreferSpread},
		{instancetypev1beta1.Any, instancetypev1beta1.DeprecatedPreferAny},
	}
}

func warnOfTopology(cpu *instancetypev1beta1.CPUPreferences) []string {
	if cpu == nil || cpu.PreferredCPUTopology == nil {
		return nil
	}
	for _, t := range topologies() {
		if *cpu.PreferredCPUTopology == t.deprecated {
			return []string{fmt.Sprintf("PreferredCPUTopology %s is deprecated for removal in a future release, please use %s instead", t.deprecated, t.name)}
		}
	}
	return nil
}

// validatePreference follows KubeVirt's webhook: the topology must be known, and CPUs can be
// spread only in ways that there are.
func validatePreference(spec *instancetypev1beta1.VirtualMachinePreferenceSpec) field.ErrorList {
	if spec.CPU == nil || spec.CPU.PreferredCPUTopology == nil {
		return nil
	}
	path, wanted := field.NewPath("spec", "cpu"), *spec.CPU.PreferredCPUTopology
	at := slices.IndexFunc(topologies(), func(t topology) bool { return wanted == t.name || wanted == t.deprecated })
	if at < 0 {
		return field.ErrorList{field.Invalid(path.Child("preferredCPUTopology"), wanted, fmt.Sprintf("unknown preferredCPUTopology %s", wanted))}
	}
	if topologies()[at].name != instancetypev1beta1.Spread {
		return nil
	}
	return validateSpread(path.Child("spreadOptions"), spec)
}

// validateSpread checks how CPUs are spread. The ratio is 2 unless spreadOptions or the older
// preferSpreadSocketToCoreRatio has one; spreadOptions counts more.
func validateSpread(path *field.Path, spec *instancetypev1beta1.VirtualMachinePreferenceSpec) field.ErrorList {
	across, ratio := instancetypev1beta1.SpreadAcrossSocketsCores, uint32(2)
	if r := spec.PreferSpreadSocketToCoreRatio; r != 0 {
		ratio = r
	}
	if o := spec.CPU.SpreadOptions; o != nil {
		if o.Across != nil {
			across = *o.Across
		}
		if o.Ratio != nil {
			ratio = *o.Ratio
		}
	}
	switch across {
	case instancetypev1beta1.SpreadAcrossSocketsCores, instancetypev1beta1.SpreadAcrossSocketsCoresThreads:
		return nil
	case instancetypev1beta1.SpreadAcrossCoresThreads:
		if ratio != 2 {
			return field.ErrorList{field.Invalid(path.Child("ratio"), ratio, "only a ratio of 2 (1 core 2 threads) is allowed when spreading vCPUs over cores and threads")}
		}
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("across"), across, fmt.Sprintf("across %s is not supported", across))}
}
