package agent

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/offer"
	"virtmesh/agent/stewards/schedule/place"
)

// Huge pages are counted in one unit all the way from what libvirt reports to the
// instance that is placed on them.
func TestHugePagesFromTheHostToThePlacement(t *testing.T) {
	capacity := offer.Allocatable(0, 0, hypervisor.Capabilities{CPUs: 8, MemoryBytes: 16 << 30, NUMANodes: []hypervisor.NUMANode{
		{Hugepages: map[uint64]int64{4: 3 << 20, 2048: 512}}, // one gibibyte
	}})
	snapshot := place.NewSnapshot()
	snapshot.SetHost(place.Host{Name: "h1", KVM: true, Allocatable: capacity})
	for _, test := range []struct {
		guest, page string
		fits        bool
	}{
		{"1Gi", "2Mi", true},
		{"1Gi", "2048Ki", true},
		{"1026Mi", "2Mi", false},
		{"1Gi", "1Gi", false},
	} {
		guest := resource.MustParse(test.guest)
		vmi := &kubevirtv1.VirtualMachineInstance{}
		vmi.UID = "u"
		vmi.Spec.Domain.Memory = &kubevirtv1.Memory{Guest: &guest, Hugepages: &kubevirtv1.Hugepages{PageSize: test.page}}
		request, err := place.NewRequest(vmi, place.DefaultPolicy())
		if err != nil {
			t.Fatal(err)
		}
		host, err := snapshot.Place(request)
		if (err == nil && host == "h1") != test.fits {
			t.Errorf("%s in pages of %s: placed on %q, %v", test.guest, test.page, host, err)
		}
	}
}
