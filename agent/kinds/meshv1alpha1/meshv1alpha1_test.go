package meshv1alpha1

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestEffective(t *testing.T) {
	for name, c := range map[string]struct {
		config                 *MeshConfig
		ratio, percent, growth int64
		strategy               Strategy
	}{
		"no object":     {nil, 10, 100, 4, Balance},
		"empty object":  {&MeshConfig{}, 10, 100, 4, Balance},
		"part of it":    {&MeshConfig{Spec: MeshConfigSpec{Capacity: Capacity{MemoryOvercommitPercent: new(int64(150))}}}, 10, 150, 4, Balance},
		"all of it":     {&MeshConfig{Spec: MeshConfigSpec{Capacity: Capacity{new(int64(1)), new(int64(10)), Pack}, VirtualMachine: VirtualMachine{new(int64(1))}}}, 1, 10, 1, Pack},
		"what is wrong": {&MeshConfig{Spec: MeshConfigSpec{Capacity: Capacity{CPUAllocationRatio: new(int64(0))}}}, 0, 100, 4, Balance},
	} {
		t.Run(name, func(t *testing.T) {
			got := Effective(c.config)
			if r := *got.Capacity.CPUAllocationRatio; r != c.ratio {
				t.Errorf("cpuAllocationRatio %d, want %d", r, c.ratio)
			}
			if p := *got.Capacity.MemoryOvercommitPercent; p != c.percent {
				t.Errorf("memoryOvercommitPercent %d, want %d", p, c.percent)
			}
			if g := *got.VirtualMachine.MaxHotplugRatio; g != c.growth {
				t.Errorf("maxHotplugRatio %d, want %d", g, c.growth)
			}
			if got.Capacity.Strategy != c.strategy {
				t.Errorf("strategy %q, want %q", got.Capacity.Strategy, c.strategy)
			}
		})
	}
}

// Objects of caches are shared: what a reader does to its copy must not show in
// them.
func TestCopiesShareNothing(t *testing.T) {
	config := &MeshConfig{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
		Spec: MeshConfigSpec{
			Capacity:       Capacity{CPUAllocationRatio: new(int64(2)), MemoryOvercommitPercent: new(int64(120))},
			VirtualMachine: VirtualMachine{MaxHotplugRatio: new(int64(3))},
		},
		Status: MeshConfigStatus{Conditions: []metav1.Condition{{Type: "A"}}},
	}
	spec := Effective(config)
	list := (&MeshConfigList{Items: []MeshConfig{*config}}).DeepCopyObject().(*MeshConfigList)
	for _, edited := range []*MeshConfig{config.DeepCopy(), &list.Items[0], {Spec: spec}} {
		*edited.Spec.Capacity.CPUAllocationRatio = 99
		*edited.Spec.Capacity.MemoryOvercommitPercent = 99
		*edited.Spec.VirtualMachine.MaxHotplugRatio = 99
		if edited.Labels != nil {
			edited.Labels["a"], edited.Status.Conditions[0].Type = "c", "B"
		}
	}
	if *config.Spec.Capacity.CPUAllocationRatio != 2 || *config.Spec.Capacity.MemoryOvercommitPercent != 120 ||
		*config.Spec.VirtualMachine.MaxHotplugRatio != 3 || config.Labels["a"] != "b" || config.Status.Conditions[0].Type != "A" {
		t.Errorf("the object changed with its copies: %+v", config)
	}
	var none *MeshConfig
	if none.DeepCopy() != nil {
		t.Error("a copy of nothing is something")
	}
}
