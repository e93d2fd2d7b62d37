package kinds

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"kubevirt.io/api/instancetype"
	instancetypev1beta1 "kubevirt.io/api/instancetype/v1beta1"

	"virtmesh/agent/level"
	machine "virtmesh/agent/vmi"
)

func instancetypeKind() *Kind {
	type kind = instancetypev1beta1.VirtualMachineInstancetype
	k := kindOfInstancetype(func(obj runtime.Object) *instancetypev1beta1.VirtualMachineInstancetypeSpec { return &obj.(*kind).Spec })
	k.GVK = instancetypev1beta1.SchemeGroupVersion.WithKind("VirtualMachineInstancetype")
	k.Resource, k.Singular = instancetype.PluralResourceName, instancetype.SingularResourceName
	k.ShortNames, k.Categories = []string{"vminstancetype", "vminstancetypes", "vmf", "vmfs"}, everything
	k.Namespaced = true
	k.Object, k.List = &kind{}, &instancetypev1beta1.VirtualMachineInstancetypeList{}
	return k
}

func clusterInstancetypeKind() *Kind {
	type kind = instancetypev1beta1.VirtualMachineClusterInstancetype
	k := kindOfInstancetype(func(obj runtime.Object) *instancetypev1beta1.VirtualMachineInstancetypeSpec { return &obj.(*kind).Spec })
	k.GVK = instancetypev1beta1.SchemeGroupVersion.WithKind("VirtualMachineClusterInstancetype")
	k.Resource, k.Singular = instancetype.ClusterPluralResourceName, instancetype.ClusterSingularResourceName
	k.ShortNames = []string{"vmclusterinstancetype", "vmclusterinstancetypes", "vmcf", "vmcfs"}
	k.Object, k.List = &kind{}, &instancetypev1beta1.VirtualMachineClusterInstancetypeList{}
	return k
}

// kindOfInstancetype returns what the registrations of instance types have in common. specOf
// returns the spec of an object.
func kindOfInstancetype(specOf func(runtime.Object) *instancetypev1beta1.VirtualMachineInstancetypeSpec) *Kind {
	return &Kind{
		FeatureLevel: level.Access,
		Generation:   true,
		Support:      "accepted: it is validated and stored, and no machine can use it yet, which a warning says. A VirtualMachine that names one is refused",
		Writers:      Writers{Spec: users},
		Columns:      []Column{age},
		Warnings: func(obj runtime.Object) []string {
			warnings := []string{machine.InstancetypesAreNotApplied}
			if specOf(obj).LaunchSecurity != nil {
				warnings = append(warnings, "launchSecurity is deprecated and will be removed in a future release. Use preference instead.")
			}
			return warnings
		},
		Validate: func(_ machine.Defaults, obj runtime.Object) field.ErrorList {
			return validateInstancetype(specOf(obj))
		},
		ValidateUpdate: func(_ machine.Defaults, obj, _ runtime.Object) field.ErrorList {
			return validateInstancetype(specOf(obj))
		},
	}
}

// validateInstancetype follows KubeVirt's schema and its webhook. The schema requires that
// cpu.guest and memory.guest are there. Zero is what the Go type has for one that is not, and
// no guest can have it, so it is refused in the same way.
func validateInstancetype(spec *instancetypev1beta1.VirtualMachineInstancetypeSpec) field.ErrorList {
	path := field.NewPath("spec")
	memory := path.Child("memory")
	overcommit := memory.Child("overcommitPercent")
	var errs field.ErrorList
	if spec.CPU.Guest == 0 {
		errs = append(errs, field.Required(path.Child("cpu", "guest"), "an instance type gives its machines at least one CPU"))
	}
	switch guest := spec.Memory.Guest; guest.Sign() {
	case 0:
		errs = append(errs, field.Required(memory.Child("guest"), "an instance type gives its machines memory"))
	case -1:
		errs = append(errs, field.Invalid(memory.Child("guest"), guest.String(), "must be greater than 0"))
	}
	if p := spec.Memory.OvercommitPercent; p < 0 || p > 100 {
		errs = append(errs, field.Invalid(overcommit, p, fmt.Sprintf("%s '%d': must be in range between 0 and 100.", overcommit, p)))
	}
	if p := spec.Memory.OvercommitPercent; p != 0 && spec.Memory.Hugepages != nil {
		errs = append(errs, field.Invalid(overcommit, p, fmt.Sprintf("%s and %s should not be requested together.", overcommit, memory.Child("hugepages"))))
	}
	return errs
}
