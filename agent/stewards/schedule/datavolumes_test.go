package schedule

import (
	"slices"
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

// What held an instance back before, and does so no longer, is not told any more:
// users would look for it.
func TestOnlyWhatHoldsAnInstanceBackNowIsTold(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 2*gib)
		b.create("full", func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Spec.Volumes = []kubevirtv1.Volume{{Name: "disk", VolumeSource: kubevirtv1.VolumeSource{DataVolume: &kubevirtv1.DataVolumeSource{Name: "data"}}}}
			vmi.Spec.NodeSelector = map[string]string{"no": "such"}
		})
		told := func(what string, want ...kubevirtv1.VirtualMachineInstanceConditionType) {
			b.Helper()
			var have []kubevirtv1.VirtualMachineInstanceConditionType
			for _, c := range b.vmi("full").Status.Conditions {
				have = append(have, c.Type)
			}
			if !slices.Equal(have, want) {
				b.Errorf("%s: conditions %v, want %v", what, have, want)
			}
		}
		b.expectWaiting("full", "PVC ns/data does not exist")
		told("no claim", kubevirtv1.VirtualMachineInstanceSynchronized)
		dv := &cdiv1.DataVolume{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"}}
		b.commit(func(tx *objects.Tx) { tx.Create(dv) })
		time.Sleep(time.Second)
		told("being filled", kubevirtv1.VirtualMachineInstanceSynchronized, kubevirtv1.VirtualMachineInstanceDataVolumesReady)
		filled := dv.DeepCopy()
		filled.Status.Phase = cdiv1.Succeeded
		b.commit(func(tx *objects.Tx) { tx.Update(dv, filled) })
		time.Sleep(time.Second)
		told("filled, and the claim is gone", kubevirtv1.VirtualMachineInstanceSynchronized)
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"}}
		b.commit(func(tx *objects.Tx) { tx.Create(claim) })
		time.Sleep(time.Second)
		told("no host", podScheduled)
		b.commit(func(tx *objects.Tx) { tx.Delete(claim, objects.DeleteOptions{}) })
		time.Sleep(time.Second)
		told("the claim is gone again", kubevirtv1.VirtualMachineInstanceSynchronized)
		before := b.store.Commits()
		time.Sleep(3 * time.Hour)
		if n := b.store.Commits() - before; n != 0 {
			b.Errorf("%d transactions while waiting", n)
		}
	})
}
