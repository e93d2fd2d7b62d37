package vmi

import (
	"encoding/json"
	"testing"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// FuzzSpec feeds whatever decodes to the defaults and checks: they must not panic,
// and what is let through must be let through again with its defaults.
func FuzzSpec(f *testing.F) {
	good, err := yaml.YAMLToJSON([]byte(goodInstance))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"spec":{"domain":{"cpu":{"cores":65536,"threads":65536},"memory":{"hugepages":{"pageSize":"0"}}}}}`))
	f.Add([]byte(`{"spec":{"domain":{"devices":{"disks":[{"blockSize":{"custom":{}}}]},"features":{"hyperv":{"spinlocks":{}}}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		vmi := &kubevirtv1.VirtualMachineInstance{}
		if json.Unmarshal(data, vmi) != nil {
			return
		}
		d := defaults()
		d.MaxHotplugRatio = 4
		vm := &kubevirtv1.VirtualMachine{}
		vm.Spec.Template = &kubevirtv1.VirtualMachineInstanceTemplateSpec{Spec: *vmi.Spec.DeepCopy()}
		ValidateVirtualMachine(d, vm)
		SetNewInstance(d, vmi, time.Time{})
		if len(ValidateInstance(d, vmi)) > 0 {
			return
		}
		again := vmi.DeepCopy()
		SetNewInstance(d, again, time.Time{})
		if errs := ValidateInstance(d, again); len(errs) > 0 {
			t.Errorf("good at first, then: %v", errs.ToAggregate())
		}
	})
}
