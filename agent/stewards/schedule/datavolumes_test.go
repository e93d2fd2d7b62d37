package schedule

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
)

// An instance says so while one of its data volumes is being filled, and no longer when
// it has its place.
func TestDataVolumesBeingFilledAreTold(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 8*gib)
		filling := &cdiv1.DataVolume{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"}, Status: cdiv1.DataVolumeStatus{Phase: cdiv1.ImportInProgress}}
		b.commit(func(tx *objects.Tx) { tx.Create(filling) })
		b.create("a", func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Spec.Volumes = []kubevirtv1.Volume{{Name: "disk", VolumeSource: kubevirtv1.VolumeSource{DataVolume: &kubevirtv1.DataVolumeSource{Name: "data"}}}}
		})
		b.expectWaiting("a", "DataVolume data is being filled")
		c := machine.Condition(b.vmi("a"), kubevirtv1.VirtualMachineInstanceDataVolumesReady)
		if c == nil || c.Status != corev1.ConditionFalse || c.Reason != kubevirtv1.VirtualMachineInstanceReasonNotAllDVsReady {
			b.Errorf("condition %+v", c)
		}
		b.commit(func(tx *objects.Tx) {
			filled := filling.DeepCopy()
			filled.Status.Phase = cdiv1.Succeeded
			tx.Update(filling, filled)
			tx.Create(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"}})
		})
		time.Sleep(time.Minute)
		b.expectHost("a", "h1")
		if c := machine.Condition(b.vmi("a"), kubevirtv1.VirtualMachineInstanceDataVolumesReady); c != nil {
			b.Errorf("placed: %+v", c)
		}
	})
}
