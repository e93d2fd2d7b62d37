package claims

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	machine "virtmesh/agent/vmi"
)

// Entry is the claim of an instance on one host.
//
// It is the only record that is not JSON: for every claim on a host, every replica
// reads all entries of the host, and decoding JSON would limit the write rate of the
// mesh. Its text consists of words separated by single spaces:
//
//	<namespace>/<name> epoch=<n> cpu=<milli> memory=<bytes> [ephemeral=<bytes>] [hugepages:<size>=<bytes>] [device:<name>=<n>]
type Entry struct {
	Namespace string
	Name      string
	Epoch     uint64
	Resources machine.Resources
}

// encodeText returns the text of the entry. The rules read it.
func (e Entry) encodeText() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s epoch=%d cpu=%d memory=%d", e.Namespace, e.Name, e.Epoch, e.Resources.CPUMilli, e.Resources.MemoryBytes)
	if n := e.Resources.EphemeralBytes; n != 0 {
		fmt.Fprintf(&b, " ephemeral=%d", n)
	}
	for _, size := range slices.Sorted(maps.Keys(e.Resources.Hugepages)) {
		fmt.Fprintf(&b, " hugepages:%s=%d", size, e.Resources.Hugepages[size])
	}
	for _, name := range slices.Sorted(maps.Keys(e.Resources.Devices)) {
		fmt.Fprintf(&b, " device:%s=%d", name, e.Resources.Devices[name])
	}
	return []byte(b.String())
}
