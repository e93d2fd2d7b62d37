package claims

import (
	"reflect"
	"testing"

	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
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
	back, err := decodeEntry(raftstore.Record{Key: "k", Value: e.encodeText()})
	if err != nil || !reflect.DeepEqual(back, e) {
		t.Errorf("decoded as %+v (%v)", back, err)
	}
	for _, n := range []int64{0, 1} {
		small := Entry{Namespace: "ns", Name: "vm", Resources: machine.Resources{
			CPUMilli: n, MemoryBytes: n, EphemeralBytes: n, Hugepages: map[string]int64{"2Mi": n}, Devices: map[string]int64{"d": n},
		}}
		back, err := decodeEntry(raftstore.Record{Key: "k", Value: small.encodeText()})
		if err != nil || !reflect.DeepEqual(back, small) {
			t.Errorf("%+v is decoded as %+v (%v)", small, back, err)
		}
	}
	for _, bad := range []string{"", "x", "ns/vm cpu=x", "ns/vm cpu=-1", "ns/vm epoch", "ns/vm gpus=1", "ns/vm  cpu=1"} {
		if _, err := decodeEntry(raftstore.Record{Value: []byte(bad)}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// What decodes must encode to something that decodes to the same.
func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte("ns/vm epoch=7 cpu=100 memory=1 hugepages:2Mi=4 device:a/b=1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(raftstore.Record{Value: b})
		if err != nil {
			return
		}
		again, err := decodeEntry(raftstore.Record{Value: e.encodeText()})
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Errorf("%q: %+v became %+v (%v)", b, e, again, err)
		}
	})
}
