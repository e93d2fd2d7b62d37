package vmi

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// reservedLabels are labels of instances that only the mesh may set.
var reservedLabels = []string{
	kubevirtv1.CreatedByLabel,
	kubevirtv1.MigrationJobLabel,
	kubevirtv1.NodeNameLabel,
	kubevirtv1.MigrationTargetNodeNameLabel,
	kubevirtv1.NodeSchedulable,
	kubevirtv1.InstallStrategyLabel,
}

var runStrategies = []kubevirtv1.VirtualMachineRunStrategy{
	kubevirtv1.RunStrategyHalted,
	kubevirtv1.RunStrategyManual,
	kubevirtv1.RunStrategyAlways,
	kubevirtv1.RunStrategyRerunOnFailure,
	kubevirtv1.RunStrategyOnce,
}

// InstancetypesAreNotApplied is what users are told of every instance type and preference, and
// of a machine that names one.
const InstancetypesAreNotApplied = "no machine can use instance types and preferences in this version"

// ValidateVirtualMachine checks a new VirtualMachine. Its template is checked with the
// defaults that its instances will get.
func ValidateVirtualMachine(d Defaults, vm *kubevirtv1.VirtualMachine) field.ErrorList {
	path := field.NewPath("spec")
	if vm.Spec.Template == nil {
		return field.ErrorList{field.Required(path.Child("template"), "missing virtual machine template")}
	}
	errs := append(validateName(vm.Name), validateRunStrategy(path, &vm.Spec)...)
	if vm.Spec.Instancetype != nil {
		errs = append(errs, field.Forbidden(path.Child("instancetype"), InstancetypesAreNotApplied+": give CPU and memory in the template"))
	}
	if vm.Spec.Preference != nil {
		errs = append(errs, field.Forbidden(path.Child("preference"), InstancetypesAreNotApplied+": give the devices in the template"))
	}
	template := path.Child("template")
	errs = append(errs, validateReservedLabels(template.Child("metadata", "labels"), vm.Spec.Template.ObjectMeta.Labels)...)
	errs = append(errs, validateTemplates(path.Child("dataVolumeTemplates"), &vm.Spec)...)
	spec := vm.Spec.Template.Spec.DeepCopy()
	d.setSpec(spec)
	return append(errs, validateSpec(template.Child("spec"), spec)...)
}

// ValidateVirtualMachineUpdate checks a changed VirtualMachine. A VirtualMachine that
// is being deleted is not checked: its finalizers must be removable whatever its spec
// says.
func ValidateVirtualMachineUpdate(d Defaults, vm, _ *kubevirtv1.VirtualMachine) field.ErrorList {
	if vm.DeletionTimestamp != nil {
		return nil
	}
	return ValidateVirtualMachine(d, vm)
}

// VirtualMachineWarnings returns warnings about deprecated fields, and those that keep
// the machine from ever starting.
func VirtualMachineWarnings(vm *kubevirtv1.VirtualMachine) []string {
	var warnings []string
	if vm.Spec.Running != nil {
		warnings = append(warnings, "spec.running is deprecated, please use spec.runStrategy instead.")
	}
	if len(vm.Spec.DataVolumeTemplates) > 0 {
		warnings = append(warnings, "spec.dataVolumeTemplates: the DataVolumes are created, but nothing fills them in this version, so the machine does not start.")
	}
	return warnings
}

func validateRunStrategy(path *field.Path, spec *kubevirtv1.VirtualMachineSpec) field.ErrorList {
	switch {
	case spec.Running != nil && spec.RunStrategy != nil:
		return field.ErrorList{field.Invalid(path.Child("running"), *spec.Running,
			"Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please use RunStrategy instead")}
	case spec.Running == nil && spec.RunStrategy == nil:
		return field.ErrorList{field.Required(path.Child("runStrategy"), "RunStrategy must be specified")}
	case spec.RunStrategy != nil:
		return oneOf(path.Child("runStrategy"), *spec.RunStrategy, runStrategies)
	}
	return nil
}

func validateReservedLabels(path *field.Path, labels map[string]string) field.ErrorList {
	var errs field.ErrorList
	for _, l := range reservedLabels {
		if _, ok := labels[l]; ok {
			errs = append(errs, field.Forbidden(path.Key(l), "the label is reserved: the mesh sets it on instances"))
		}
	}
	return errs
}

// validateTemplates checks that each data volume template has a name of its own
// and that a volume of the machine uses it.
func validateTemplates(path *field.Path, spec *kubevirtv1.VirtualMachineSpec) field.ErrorList {
	used := map[string]bool{}
	for _, v := range spec.Template.Spec.Volumes {
		if v.DataVolume != nil {
			used[v.DataVolume.Name] = true
		}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, t := range spec.DataVolumeTemplates {
		at := path.Index(i)
		switch {
		case t.Name == "":
			errs = append(errs, field.Required(at.Child("metadata", "name"), "'name' field must not be empty"))
			continue
		case seen[t.Name]:
			errs = append(errs, field.Duplicate(at.Child("metadata", "name"), t.Name))
		case !used[t.Name]:
			errs = append(errs, field.Invalid(at.Child("metadata", "name"), t.Name, "no volume of spec.template.spec.volumes refers to the data volume"))
		}
		seen[t.Name] = true
		if t.Spec.PVC == nil && t.Spec.Storage == nil {
			errs = append(errs, field.Required(at.Child("spec"), "either pvc or storage must be set"))
		}
		if t.Spec.PVC != nil && t.Spec.Storage != nil {
			errs = append(errs, field.Invalid(at.Child("spec"), "pvc and storage", "pvc and storage are mutually exclusive"))
		}
		if t.Spec.Source != nil && t.Spec.SourceRef != nil {
			errs = append(errs, field.Invalid(at.Child("spec"), "source and sourceRef", "source and sourceRef are mutually exclusive"))
		}
	}
	return errs
}

// ValidateInstance checks a new VirtualMachineInstance.
func ValidateInstance(_ Defaults, vmi *kubevirtv1.VirtualMachineInstance) field.ErrorList {
	path := field.NewPath("spec")
	errs := append(validateName(vmi.Name), validateSpec(path, &vmi.Spec)...)
	errs = append(errs, validateReservedLabels(field.NewPath("metadata", "labels"), vmi.Labels)...)
	errs = append(errs, validateEveryVolumeUsed(path, &vmi.Spec)...)
	errs = append(errs, validateKeptState(path, &vmi.Spec)...)
	if _, known := machineTypes[vmi.Spec.Architecture]; !known {
		errs = append(errs, field.NotSupported(path.Child("architecture"), vmi.Spec.Architecture, architectures))
	}
	return errs
}

var architectures = []string{"amd64", "arm64", "s390x"}

// ValidateInstanceUpdate checks a changed VirtualMachineInstance. Clients change
// a running instance through its VirtualMachine or its subresources only.
func ValidateInstanceUpdate(vmi, old *kubevirtv1.VirtualMachineInstance) field.ErrorList {
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(vmi.Spec, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), "update of VMI object is restricted"))
	}
	for _, l := range reservedLabels {
		value, has := vmi.Labels[l]
		was, had := old.Labels[l]
		if value != was || has != had {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "labels").Key(l),
				"modification of the following reserved kubevirt.io/ labels on a VMI object is prohibited"))
		}
	}
	return errs
}

// ValidateMigration checks a new migration. Whether its instance exists and can
// migrate is reported by the migration's status.
func ValidateMigration(m *kubevirtv1.VirtualMachineInstanceMigration) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if m.Spec.VMIName == "" {
		errs = append(errs, field.Required(path.Child("vmiName"), "vmiName is missing"))
	}
	if m.Spec.SendTo != nil || m.Spec.Receive != nil {
		errs = append(errs, field.Forbidden(path, "migration between meshes is not supported: sendTo and receive must be empty"))
	}
	if m.Spec.Priority != nil {
		errs = append(errs, field.Forbidden(path.Child("priority"), "only the mesh itself sets the priority"))
	}
	return errs
}

// ValidateMigrationUpdate checks a changed migration.
func ValidateMigrationUpdate(m, old *kubevirtv1.VirtualMachineInstanceMigration) field.ErrorList {
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(m.Spec, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), "update of Migration object's spec is restricted"))
	}
	was, had := old.Labels[kubevirtv1.MigrationSelectorLabel]
	if is, has := m.Labels[kubevirtv1.MigrationSelectorLabel]; had && (!has || is != was) && !old.IsFinal() {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "labels").Key(kubevirtv1.MigrationSelectorLabel),
			"selector label can't be modified on an in-flight migration"))
	}
	return errs
}

// oneOf reports a value that is not one of known.
func oneOf[T ~string](path *field.Path, value T, known []T) field.ErrorList {
	for _, k := range known {
		if value == k {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, value, known)}
}

// messages turns the messages of a name check into errors of the field.
func messages(path *field.Path, value string, msgs []string) field.ErrorList {
	if len(msgs) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, strings.Join(msgs, ", "))}
}
