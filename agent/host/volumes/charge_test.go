package volumes

import (
	"math"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
	"virtmesh/storage"
)

// Instances are charged for an empty disk what making it takes. The two packages
// that say so do not know each other.
func TestEmptyDisksAreChargedAsTheyAreMade(t *testing.T) {
	for _, size := range []int64{1, 4095, 4096, 4097, 100_000_000, 1 << 30, 1<<30 + 1, 1 << 50} {
		spec := &kubevirtv1.VirtualMachineInstanceSpec{Volumes: []kubevirtv1.Volume{{VolumeSource: kubevirtv1.VolumeSource{
			EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: *resource.NewQuantity(size, resource.BinarySI)},
		}}}}
		if charged, made := machine.EphemeralBytes(spec), storage.AlignSize(size); charged != made {
			t.Errorf("%d bytes: charged %d, made %d", size, charged, made)
		}
	}
}

// No size is rounded to less than nothing.
func TestTheLargestSizesStaySizes(t *testing.T) {
	for _, size := range []int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 - 4094, math.MaxInt64 - 4095, math.MaxInt64 - 4096} {
		if got := storage.AlignSize(size); got < math.MaxInt64-2*storage.SizeAlignment || got%storage.SizeAlignment != 0 {
			t.Errorf("%d is rounded to %d", size, got)
		}
	}
}
