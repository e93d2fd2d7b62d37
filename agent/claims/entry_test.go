package claims

import (
	"testing"

	machine "virtmesh/agent/vmi"
)

func TestEntryText(t *testing.T) {
	e := Entry{Namespace: "ns", Name: "vm", Epoch: 7, Resources: machine.Resources{
		CPUMilli: 100, MemoryBytes: gib,
		EphemeralBytes: 4096, Hugepages: map[string]int64{"2Mi": 4 << 20, "1Gi": 8 << 30}, Devices: map[string]int64{"nvidia.com/T4": 1},
	}}
	want := "ns/vm epoch=7 cpu=100 memory=1073741824 ephemeral=4096 hugepages:1Gi=8589934592 hugepages:2Mi=4194304 device:nvidia.com/T4=1"
	if got := string(e.encodeText()); got != want {
		t.Errorf("encoded as %q, want %q", got, want)
	}
}
