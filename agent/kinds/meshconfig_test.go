package kinds

import (
	"testing"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/vmi"
)

func TestMeshConfig(t *testing.T) {
	k := kind(t, "MeshConfig")
	for name, c := range map[string]struct{ manifest, field string }{
		"nothing said":            {`{}`, ""},
		"everything said":         {`spec: {capacity: {cpuAllocationRatio: 1, memoryOvercommitPercent: 1000, strategy: pack}, virtualMachine: {maxHotplugRatio: 16}}`, ""},
		"no CPU":                  {`spec: {capacity: {cpuAllocationRatio: 0}}`, "spec.capacity.cpuAllocationRatio"},
		"too many CPUs":           {`spec: {capacity: {cpuAllocationRatio: 101}}`, "spec.capacity.cpuAllocationRatio"},
		"too little memory":       {`spec: {capacity: {memoryOvercommitPercent: 9}}`, "spec.capacity.memoryOvercommitPercent"},
		"too much memory":         {`spec: {capacity: {memoryOvercommitPercent: 1001}}`, "spec.capacity.memoryOvercommitPercent"},
		"unknown strategy":        {`spec: {capacity: {strategy: random}}`, "spec.capacity.strategy"},
		"no memory for the guest": {`spec: {virtualMachine: {maxHotplugRatio: 0}}`, "spec.virtualMachine.maxHotplugRatio"},
		"room without end":        {`spec: {virtualMachine: {maxHotplugRatio: 17}}`, "spec.virtualMachine.maxHotplugRatio"},
	} {
		t.Run(name, func(t *testing.T) {
			obj := object(t, k, c.manifest)
			k.Default(vmi.DefaultDefaults(), obj)
			check(t, k.Validate(vmi.DefaultDefaults(), obj), c.field)
			check(t, k.ValidateUpdate(vmi.DefaultDefaults(), obj, object(t, k, `{}`)), c.field)
		})
	}
}

// What is stored says what is in force, also after a field was taken out.
func TestMeshConfigShowsDefaults(t *testing.T) {
	k := kind(t, "MeshConfig")
	config := object(t, k, `spec: {capacity: {strategy: pack}}`).(*meshv1alpha1.MeshConfig)
	k.Default(vmi.DefaultDefaults(), config)
	if got, want := cells(k, config), "pack|10|100|4|<unknown>"; got != want {
		t.Errorf("columns %s, want %s", got, want)
	}
	edited := config.DeepCopy()
	edited.Spec.Capacity = meshv1alpha1.Capacity{}
	k.DefaultUpdate(vmi.DefaultDefaults(), edited, config)
	if got, want := cells(k, edited), "balance|10|100|4|<unknown>"; got != want {
		t.Errorf("columns %s after an update, want %s", got, want)
	}
}

func TestMeshConfigIsOne(t *testing.T) {
	k := kind(t, "MeshConfig")
	if faults := k.ValidateName("mesh", false); len(faults) != 0 {
		t.Errorf("mesh: %v", faults)
	}
	if faults := k.ValidateName("other", false); len(faults) == 0 {
		t.Error("another name is let through")
	}
}

func TestMeshConfigFillsInMachines(t *testing.T) {
	if got := DefaultsUnder(nil).MaxHotplugRatio; got != 4 {
		t.Errorf("without settings machines may grow to %d times", got)
	}
	seven := int64(7)
	config := &meshv1alpha1.MeshConfig{}
	config.Spec.VirtualMachine.MaxHotplugRatio = &seven
	if got := DefaultsUnder(config).MaxHotplugRatio; got != 7 {
		t.Errorf("machines may grow to %d times, want 7", got)
	}
}
