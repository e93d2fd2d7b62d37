package vmi

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"
)

func TestDataVolumeTemplates(t *testing.T) {
	template := func(name string) kubevirtv1.DataVolumeTemplateSpec {
		return kubevirtv1.DataVolumeTemplateSpec{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: cdiv1.DataVolumeSpec{Storage: &cdiv1.StorageSpec{}}}
	}
	for name, tc := range map[string]struct {
		edit  func(*kubevirtv1.VirtualMachineSpec)
		field string
	}{
		"good":    {func(*kubevirtv1.VirtualMachineSpec) {}, ""},
		"no name": {func(s *kubevirtv1.VirtualMachineSpec) { s.DataVolumeTemplates[0].Name = "" }, "spec.dataVolumeTemplates[0].metadata.name"},
		"twice": {func(s *kubevirtv1.VirtualMachineSpec) {
			s.DataVolumeTemplates = append(s.DataVolumeTemplates, template("disk"))
		}, "spec.dataVolumeTemplates[1].metadata.name"},
		"unused": {func(s *kubevirtv1.VirtualMachineSpec) {
			s.DataVolumeTemplates = append(s.DataVolumeTemplates, template("other"))
		}, "spec.dataVolumeTemplates[1].metadata.name"},
		"no size": {func(s *kubevirtv1.VirtualMachineSpec) { s.DataVolumeTemplates[0].Spec.Storage = nil }, "spec.dataVolumeTemplates[0].spec"},
		"two sizes": {func(s *kubevirtv1.VirtualMachineSpec) {
			s.DataVolumeTemplates[0].Spec.PVC = &corev1.PersistentVolumeClaimSpec{}
		}, "spec.dataVolumeTemplates[0].spec"},
		"two sources": {func(s *kubevirtv1.VirtualMachineSpec) {
			s.DataVolumeTemplates[0].Spec.Source, s.DataVolumeTemplates[0].Spec.SourceRef = &cdiv1.DataVolumeSource{}, &cdiv1.DataVolumeSourceRef{}
		}, "spec.dataVolumeTemplates[0].spec"},
	} {
		t.Run(name, func(t *testing.T) {
			vm := machine(t)
			vm.Spec.Template.Spec.Volumes[2].VolumeSource = kubevirtv1.VolumeSource{DataVolume: &kubevirtv1.DataVolumeSource{Name: "disk"}}
			vm.Spec.DataVolumeTemplates = []kubevirtv1.DataVolumeTemplateSpec{template("disk")}
			tc.edit(&vm.Spec)
			errs := ValidateVirtualMachine(defaults(), vm)
			if tc.field == "" && len(errs) > 0 || tc.field != "" && !reports(errs, tc.field) {
				t.Errorf("want an error at %q, have %v", tc.field, errs.ToAggregate())
			}
		})
	}
}

// A machine that is being deleted can be changed whatever it holds: or it could
// never be deleted.
func TestDyingMachinesAreNotJudged(t *testing.T) {
	vm := machine(t)
	vm.Spec.RunStrategy = nil
	if errs := ValidateVirtualMachineUpdate(defaults(), vm, machine(t)); !reports(errs, "spec.runStrategy") {
		t.Errorf("a living one: %v", errs.ToAggregate())
	}
	now := metav1.Now()
	vm.DeletionTimestamp = &now
	if errs := ValidateVirtualMachineUpdate(defaults(), vm, machine(t)); len(errs) > 0 {
		t.Errorf("a dying one: %v", errs.ToAggregate())
	}
}

func TestWarningsAboutMachines(t *testing.T) {
	vm := machine(t)
	if got := VirtualMachineWarnings(vm); len(got) != 0 {
		t.Errorf("warned: %v", got)
	}
	yes := true
	vm.Spec.Running = &yes
	if got := VirtualMachineWarnings(vm); len(got) != 1 {
		t.Errorf("warned: %v", got)
	}
	vm.Spec.DataVolumeTemplates = make([]kubevirtv1.DataVolumeTemplateSpec, 2)
	if got := VirtualMachineWarnings(vm); len(got) != 2 || !strings.Contains(got[1], "spec.dataVolumeTemplates") {
		t.Errorf("warned: %v", got)
	}
}

// virtctl asks for whatever instance type can be inferred from a volume, and for
// none if none can. One that is asked for by name is not taken off.
func TestUninferredTypesAreDropped(t *testing.T) {
	ignore, reject := kubevirtv1.IgnoreInferFromVolumeFailure, kubevirtv1.RejectInferFromVolumeFailure
	for name, tc := range map[string]struct {
		name, from string
		policy     *kubevirtv1.InferFromVolumeFailurePolicy
		dropped    bool
	}{
		"if it can be":      {"", "root", &ignore, true},
		"by all means":      {"", "root", &reject, false},
		"without a policy":  {"", "root", nil, false},
		"by name":           {"small", "", &ignore, false},
		"by name or volume": {"small", "root", &ignore, false},
	} {
		spec := &kubevirtv1.VirtualMachineSpec{
			Instancetype: &kubevirtv1.InstancetypeMatcher{Name: tc.name, InferFromVolume: tc.from, InferFromVolumeFailurePolicy: tc.policy},
			Preference:   &kubevirtv1.PreferenceMatcher{Name: tc.name, InferFromVolume: tc.from, InferFromVolumeFailurePolicy: tc.policy},
		}
		DropUninferred(spec)
		if (spec.Instancetype == nil) != tc.dropped || (spec.Preference == nil) != tc.dropped {
			t.Errorf("%s: instance type %v, preference %v", name, spec.Instancetype, spec.Preference)
		}
	}
	DropUninferred(&kubevirtv1.VirtualMachineSpec{}) // has none
}

func TestChoicesOfTheMesh(t *testing.T) {
	d := defaults()
	d.MachineType, d.CPUModel, d.Interface = "pc-q35-7.2", "Haswell", kubevirtv1.BridgeInterface
	evict := kubevirtv1.EvictionStrategyLiveMigrate
	d.EvictionStrategy = &evict
	vmi := bare()
	vmi.Spec.Domain.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}
	SetNewInstance(d, vmi, time.Now())
	s := vmi.Spec
	if s.Domain.Machine.Type != "pc-q35-7.2" || s.Domain.CPU.Model != "Haswell" || s.Domain.Devices.Interfaces[0].Bridge == nil || *s.EvictionStrategy != evict {
		t.Errorf("spec %+v", s)
	}
	if got := s.Domain.Resources.Requests.Cpu().String(); got != "3" || s.Domain.CPU.Sockets != 3 {
		t.Errorf("a limit of three CPUs: request %s, sockets %d", got, s.Domain.CPU.Sockets)
	}
	*s.EvictionStrategy = kubevirtv1.EvictionStrategyNone
	if evict != kubevirtv1.EvictionStrategyLiveMigrate {
		t.Error("an instance shares the mesh's choice")
	}
	other := bare()
	other.Spec.Architecture = "arm64"
	SetNewInstance(d, other, time.Now())
	if got := other.Spec.Domain.Machine.Type; got != "virt" {
		t.Errorf("a guest of another architecture is a %s", got)
	}
}

func TestGuestsWithoutTheDefaultNetwork(t *testing.T) {
	no := false
	vmi := bare()
	vmi.Spec.Domain.Devices.AutoattachPodInterface = &no
	SetNewInstance(defaults(), vmi, time.Now())
	if len(vmi.Spec.Networks) != 0 || len(vmi.Spec.Domain.Devices.Interfaces) != 0 {
		t.Errorf("networks %v, interfaces %v", vmi.Spec.Networks, vmi.Spec.Domain.Devices.Interfaces)
	}
}
