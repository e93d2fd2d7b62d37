package schedule

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
)

// The mesh's settings are read anew for each decision, and an instance that waits
// for room is tried again when they change.
func TestSettingsOfTheMeshDecide(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 1400<<20)
		b.create("a")
		b.create("b")
		b.expectHost("a", "h1")
		b.expectWaiting("b", "memory")
		config := &meshv1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.Name}}
		config.Spec.Capacity.MemoryOvercommitPercent = new(int64(1000))
		b.commit(func(tx *objects.Tx) { tx.Create(config) })
		b.hear("h1", nil) // lets time pass
		b.expectHost("b", "h1")
	})
}

// What a machine writes over its image counts as the mesh's settings say.
func TestOverlaysAreCharged(t *testing.T) {
	withImage := func(vmi *kubevirtv1.VirtualMachineInstance) {
		vmi.Spec.Domain.Devices.Disks = []kubevirtv1.Disk{{Name: "image"}}
		vmi.Spec.Volumes = []kubevirtv1.Volume{{Name: "image", VolumeSource: kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "registry/image"}}}}
	}
	run(t, func(b *bench) {
		b.host("h1", 8<<30) // without room on its disk
		b.create("a", withImage)
		b.expectHost("a", "h1")
		if in, _ := b.claim("a"); in.Resources.EphemeralBytes != 0 {
			b.Errorf("charged %d bytes of the disk by default", in.Resources.EphemeralBytes)
		}
		config := &meshv1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.Name}}
		config.Spec.Capacity.ImageOverlay = resource.NewQuantity(2<<30, resource.BinarySI)
		b.commit(func(tx *objects.Tx) { tx.Create(config) })
		b.hear("h1", nil) // lets time pass
		b.create("b", withImage)
		b.expectWaiting("b", "ephemeral-storage")
	})
}
