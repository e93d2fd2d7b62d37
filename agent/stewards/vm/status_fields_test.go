package vm

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
	"virtmesh/agent/vmi/vmitest"
)

// withVolumes gives the machine a disk that ends with its instances and one that is a
// claim.
func withVolumes(vm *kubevirtv1.VirtualMachine) {
	claim := &kubevirtv1.PersistentVolumeClaimVolumeSource{}
	claim.ClaimName = "data"
	vm.Spec.Template.Spec.Volumes = []kubevirtv1.Volume{
		{Name: "root", VolumeSource: kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "example/disk"}}},
		{Name: "data", VolumeSource: kubevirtv1.VolumeSource{PersistentVolumeClaim: claim}},
	}
}

// Every field of the status is filled in at some time of a machine's life, or the
// documentation says why it is not.
func TestEveryFieldOfTheStatusIsAccountedFor(t *testing.T) {
	run(t, func(b *bench) {
		var seen []any
		look := func() { s := b.vm().Status; seen = append(seen, &s) }
		b.create(kubevirtv1.RunStrategyAlways, withVolumes)
		look()
		b.phase(kubevirtv1.Failed)
		look()
		b.edit(func(vm *kubevirtv1.VirtualMachine) { *vm.Spec.RunStrategy = kubevirtv1.RunStrategyManual })
		b.ask(startReq(nil))
		b.phase(kubevirtv1.Running)
		look()
		uid := b.must().UID
		b.ask(stopReq(uid), startReq(map[string]string{"paused": "true"}))
		look()
		vmitest.ReadStatusTable(t, "../../../docs/status.md", "VirtualMachine").Check(t, seen...)
	})
}

func TestVolumesTellWhyTheyHaveNoSnapshots(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyHalted, withVolumes)
		got := b.vm().Status.VolumeSnapshotStatuses
		if len(got) != 2 || got[0].Name != "root" || got[1].Name != "data" || got[0].Enabled || got[1].Enabled ||
			!strings.Contains(got[0].Reason, "volumeSource type [root]") || !strings.Contains(got[1].Reason, "StorageClass [data]") {
			b.Errorf("%+v", got)
		}
		b.edit(func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.Spec.Volumes = nil })
		if got := b.vm().Status.VolumeSnapshotStatuses; len(got) != 0 {
			b.Errorf("without volumes: %+v", got)
		}
	})
}

// A guest that does not shut down in its grace period ends as Failed. Who stopped its
// machine does not get it back for that.
func TestAMachineThatWasStoppedAndFailedStaysStopped(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyRerunOnFailure)
		b.phase(kubevirtv1.Running)
		b.ask(stopReq(b.must().UID))
		if b.must().DeletionTimestamp == nil {
			b.Fatal("the instance is not being stopped")
		}
		b.phase(kubevirtv1.Failed)
		if vmi := b.vmi(); vmi != nil {
			b.Errorf("the machine was started again: %+v", vmi.Status)
		}
		b.expect(kubevirtv1.VirtualMachineStatusStopped)
		if vm := b.vm(); vm.Status.StartFailure != nil || len(vm.Status.StateChangeRequests) != 0 {
			b.Errorf("%+v", vm.Status)
		}
	})
}

// The strategy is recorded when it has taken effect, and not while its start waits.
func TestTheStrategyIsRecordedOnceItTookEffect(t *testing.T) {
	broken := func(vm *kubevirtv1.VirtualMachine) {
		vm.Spec.DataVolumeTemplates = []kubevirtv1.DataVolumeTemplateSpec{{}}
		vm.Spec.DataVolumeTemplates[0].Name = "filling"
	}
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyRerunOnFailure, broken)
		if got := b.vm().Status.RunStrategy; got != "" || b.vmi() != nil {
			b.Errorf("%q is recorded before the start", got)
		}
	})
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyRerunOnFailure)
		if got := b.vm().Status.RunStrategy; got != kubevirtv1.RunStrategyRerunOnFailure {
			b.Errorf("%q is recorded after the start", got)
		}
	})
}

// What the host tells of an instance is shown on its machine.
func TestConditionsOfTheInstanceAreTheMachines(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		told := kubevirtv1.VirtualMachineInstanceCondition{
			Type: kubevirtv1.VirtualMachineInstanceDataVolumesReady, Status: corev1.ConditionTrue, Reason: kubevirtv1.VirtualMachineInstanceReasonAllDVsReady,
		}
		b.phase(kubevirtv1.Running, func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Status.Conditions = append(vmi.Status.Conditions, told)
		})
		if c := condition(b.vm(), "DataVolumesReady"); c == nil || c.Status != corev1.ConditionTrue || c.Reason != told.Reason {
			b.Errorf("%+v", c)
		}
		old := b.must()
		next := old.DeepCopy()
		next.Status.Conditions = nil
		b.commit(func(tx *objects.Tx) { tx.Update(old, next) })
		if c := condition(b.vm(), "DataVolumesReady"); c != nil {
			b.Errorf("the instance has it no more: %+v", c)
		}
	})
}

// The room to grow that the mesh's settings gave a machine which runs is its own:
// other settings since then ask for no restart, and hold no change back.
func TestOtherRoomNeedsNoRestart(t *testing.T) {
	guest, room := resource.MustParse("1Gi"), resource.MustParse("16Gi")
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways, func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Template.Spec.Domain.Memory = &kubevirtv1.Memory{Guest: &guest}
		})
		b.phase(kubevirtv1.Running, func(vmi *kubevirtv1.VirtualMachineInstance) { // as under a ratio of 16
			vmi.Spec.Domain.CPU.MaxSockets, vmi.Spec.Domain.Memory.MaxGuest = 16, &room
		})
		b.edit(func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Template.Spec.NodeSelector = map[string]string{"zone": "a"}
		})
		if c := condition(b.vm(), kubevirtv1.VirtualMachineRestartRequired); c != nil || b.must().Spec.NodeSelector["zone"] != "a" {
			b.Errorf("another ratio: %+v, selector %v", c, b.must().Spec.NodeSelector)
		}
		if cpu, mem := b.must().Spec.Domain.CPU, b.must().Spec.Domain.Memory; cpu.MaxSockets != 16 || mem.MaxGuest.Cmp(room) != 0 {
			b.Errorf("the room of the running machine became %d sockets, %v", cpu.MaxSockets, mem.MaxGuest)
		}
		b.edit(func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.Spec.Domain.CPU = &kubevirtv1.CPU{MaxSockets: 8} })
		if c := condition(b.vm(), kubevirtv1.VirtualMachineRestartRequired); c == nil {
			b.Error("room that the template names needs no restart")
		}
	})
}

// Nobody knows what a guest does whose host does not answer.
func TestAMachineOfADeadHostIsUnknown(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		b.phase(kubevirtv1.Running)
		b.expect(kubevirtv1.VirtualMachineStatusRunning)
		b.phase(kubevirtv1.Running, func(vmi *kubevirtv1.VirtualMachineInstance) { machine.MarkOutOfReach(vmi, "host h2", time.Now()) })
		b.expect(kubevirtv1.VirtualMachineStatusUnknown)
		if vm := b.vm(); vm.Status.Ready || !strings.Contains(condition(vm, kubevirtv1.VirtualMachineReady).Message, "host h2") {
			b.Errorf("%+v", vm.Status)
		}
		b.ask(stopReq(b.must().UID))
		b.expect(kubevirtv1.VirtualMachineStatusStopping)
	})
}
