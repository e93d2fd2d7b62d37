package kinds

import (
	"strings"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/kinds/meshv1alpha1"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

func TestMeshConfig(t *testing.T) {
	k := kind(t, "MeshConfig")
	for name, c := range map[string]struct{ manifest, field string }{
		"nothing said":            {`{}`, ""},
		"everything said":         {`spec: {capacity: {cpuAllocationRatio: 1, memoryOvercommitPercent: 1000, strategy: pack}, virtualMachine: {maxHotplugRatio: 16}}`, ""},
		"no CPU":                  {`spec: {capacity: {cpuAllocationRatio: 0}}`, "spec.capacity.cpuAllocationRatio"},
		"too many CPUs":           {`spec: {capacity: {cpuAllocationRatio: 101}}`, "spec.capacity.cpuAllocationRatio"},
		"disks promised thrice":   {`spec: {capacity: {storageOvercommitPercent: 300}}`, ""},
		"overlays count":          {`spec: {capacity: {imageOverlay: 2Gi}}`, ""},
		"overlays count nothing":  {`spec: {capacity: {imageOverlay: "0"}}`, ""},
		"overlays without end":    {`spec: {capacity: {imageOverlay: 2Ti}}`, "spec.capacity.imageOverlay"},
		"overlays below nothing":  {`spec: {capacity: {imageOverlay: "-1"}}`, "spec.capacity.imageOverlay"},
		"too little of the disks": {`spec: {capacity: {storageOvercommitPercent: 9}}`, "spec.capacity.storageOvercommitPercent"},
		"too little memory":       {`spec: {capacity: {memoryOvercommitPercent: 9}}`, "spec.capacity.memoryOvercommitPercent"},
		"too much memory":         {`spec: {capacity: {memoryOvercommitPercent: 1001}}`, "spec.capacity.memoryOvercommitPercent"},
		"unknown strategy":        {`spec: {capacity: {strategy: random}}`, "spec.capacity.strategy"},
		"no memory for the guest": {`spec: {virtualMachine: {maxHotplugRatio: 0}}`, "spec.virtualMachine.maxHotplugRatio"},
		"levels by hand":          {`spec: {featureLevel: Manual}`, ""},
		"levels by themselves":    {`spec: {featureLevel: Automatic}`, ""},
		"levels by chance":        {`spec: {featureLevel: automatic}`, "spec.featureLevel"},
		"config maps in secret":   {`spec: {encryption: {kinds: [ConfigMap]}}`, ""},
		"nothing in secret":       {`spec: {encryption: {kinds: []}}`, ""},
		"secrets in secret":       {`spec: {encryption: {kinds: [Secret]}}`, "spec.encryption.kinds[0]"},
		"machines in secret":      {`spec: {encryption: {kinds: [ConfigMap, VirtualMachine]}}`, "spec.encryption.kinds[1]"},
		"a plural":                {`spec: {encryption: {kinds: [configmaps]}}`, "spec.encryption.kinds[0]"},
		"twice":                   {`spec: {encryption: {kinds: [ConfigMap, ConfigMap]}}`, "spec.encryption.kinds[1]"},
		"who may vote":            {`spec: {voters: {hosts: [a, b, c], exclude: [d]}}`, ""},
		"who may not vote":        {`spec: {voters: {exclude: [a]}}`, ""},
		"everybody may vote":      {`spec: {voters: {}}`, ""},
		"a voter without a name":  {`spec: {voters: {hosts: [a, ""]}}`, "spec.voters.hosts[1]"},
		"a name of no host":       {`spec: {voters: {exclude: [Host_1]}}`, "spec.voters.exclude[0]"},
		"a voter named twice":     {`spec: {voters: {hosts: [a, a]}}`, "spec.voters.hosts[1]"},
		"may and may not vote":    {`spec: {voters: {hosts: [a, b], exclude: [c, b]}}`, "spec.voters.exclude[1]"},
		"room without end":        {`spec: {virtualMachine: {maxHotplugRatio: 17}}`, "spec.virtualMachine.maxHotplugRatio"},
	} {
		t.Run(name, func(t *testing.T) {
			obj := object(t, k, c.manifest)
			k.Default(machine.DefaultDefaults(), obj)
			check(t, k.Validate(machine.DefaultDefaults(), obj), c.field)
			check(t, k.ValidateUpdate(machine.DefaultDefaults(), obj, object(t, k, `{}`)), c.field)
		})
	}
}

// What is stored says what is in force, also after a field was taken out.
func TestMeshConfigShowsDefaults(t *testing.T) {
	k := kind(t, "MeshConfig")
	config := object(t, k, `spec: {capacity: {strategy: pack}}`).(*meshv1alpha1.MeshConfig)
	k.Default(machine.DefaultDefaults(), config)
	if got, want := cells(k, config), "pack|10|100|Manual|4|<unknown>"; got != want {
		t.Errorf("columns %s, want %s", got, want)
	}
	edited := config.DeepCopy()
	edited.Spec.Capacity = meshv1alpha1.Capacity{}
	k.DefaultUpdate(machine.DefaultDefaults(), edited, config)
	if got, want := cells(k, edited), "balance|10|100|Manual|4|<unknown>"; got != want {
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
	if got := DefaultsUnder(nil, nil).MaxHotplugRatio; got != 4 {
		t.Errorf("without settings machines may grow to %d times", got)
	}
	seven := int64(7)
	config := &meshv1alpha1.MeshConfig{}
	config.Spec.VirtualMachine.MaxHotplugRatio = &seven
	if got := DefaultsUnder(config, nil).MaxHotplugRatio; got != 7 {
		t.Errorf("machines may grow to %d times, want 7", got)
	}
}

// Machines get room to grow by the mesh's settings, and by their default without
// them.
func TestMachinesGrowBySettings(t *testing.T) {
	config := &meshv1alpha1.MeshConfig{}
	config.Spec.VirtualMachine.MaxHotplugRatio = new(int64(2))
	for _, c := range []struct {
		config *meshv1alpha1.MeshConfig
		want   uint32
	}{{nil, 4}, {config, 2}} {
		k := kind(t, "VirtualMachineInstance")
		vmi := object(t, k, `{metadata: {name: a}, spec: {domain: {cpu: {sockets: 1}, memory: {guest: 2Gi}}}}`).(*kubevirtv1.VirtualMachineInstance)
		k.Default(DefaultsUnder(c.config, nil), vmi)
		if got := vmi.Spec.Domain.CPU.MaxSockets; got != c.want {
			t.Errorf("maxSockets %d, want %d", got, c.want)
		}
		if got, want := vmi.Spec.Domain.Memory.MaxGuest.Value(), int64(c.want)*2<<30; got != want {
			t.Errorf("maxGuest %d, want %d", got, want)
		}
	}
}

// The configuration can name the kinds that can be encrypted, and no others.
func TestKindsThatCanBeEncryptedCanBeNamed(t *testing.T) {
	for _, of := range All() {
		faults := validateEncryptedKinds(nil, []string{of.GVK.Kind})
		if accepted := len(faults) == 0; accepted != of.SealedIfNamed {
			t.Errorf("%s: accepted %t, can be encrypted if it is named %t", of.GVK.Kind, accepted, of.SealedIfNamed)
		}
	}
}

// Who lets fewer than three hosts vote is told what that costs.
func TestMeshConfigWarnsOfFewVoters(t *testing.T) {
	k := kind(t, "MeshConfig")
	for manifest, warned := range map[string]bool{
		`{}`: false, `spec: {voters: {exclude: [a]}}`: false, `spec: {voters: {hosts: [a, b, c]}}`: false,
		`spec: {voters: {hosts: [a]}}`: true, `spec: {voters: {hosts: [a, b]}}`: true,
	} {
		if got := k.Warnings(object(t, k, manifest)); (len(got) > 0) != warned {
			t.Errorf("%s: warned %q", manifest, got)
		}
	}
}

// A limit that leaves one voter in a mesh that could have three is warned of, whether it names
// hosts, leaves some out, or names hosts that are gone.
func TestFewVotersAreWarnedOf(t *testing.T) {
	for name, c := range map[string]struct {
		limit  raftstore.VoterLimit
		hosts  string
		warned bool
	}{
		"no limit":                     {raftstore.VoterLimit{}, "a b c", false},
		"one of three is left out":     {raftstore.VoterLimit{Exclude: []string{"c"}}, "a b c", true},
		"one of four is left out":      {raftstore.VoterLimit{Exclude: []string{"c"}}, "a b c d", false},
		"one that is named is gone":    {raftstore.VoterLimit{Nodes: []string{"a", "b", "x"}}, "a b c d", true},
		"the mesh has two hosts":       {raftstore.VoterLimit{Exclude: []string{"b"}}, "a b", false},
		"nobody may, so those go on":   {raftstore.VoterLimit{Nodes: []string{"x"}}, "a b c", false},
		"three are named and all here": {raftstore.VoterLimit{Nodes: []string{"a", "b", "c"}}, "a b c d", false},
	} {
		got := WarnOfFewVoters(c.limit, strings.Fields(c.hosts))
		if (got != "") != c.warned || c.warned && !strings.Contains(got, "one votes alone") {
			t.Errorf("%s: %q", name, got)
		}
	}
}
