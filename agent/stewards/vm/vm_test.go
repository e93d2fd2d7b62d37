package vm

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
)

// fate is what becomes of an instance that has ended.
type fate string

const (
	kept, removed, replaced fate = "kept", "removed", "replaced"
)

// The table of run strategies: what happens when the instance ends. It is
// KubeVirt's.
func TestRunStrategies(t *testing.T) {
	for _, tc := range []struct {
		strategy           kubevirtv1.VirtualMachineRunStrategy
		starts             bool
		succeeded, failed  fate
		afterOK, afterFail kubevirtv1.VirtualMachinePrintableStatus
	}{
		{kubevirtv1.RunStrategyAlways, true, replaced, replaced, kubevirtv1.VirtualMachineStatusStarting, kubevirtv1.VirtualMachineStatusStarting},
		{kubevirtv1.RunStrategyRerunOnFailure, true, removed, replaced, kubevirtv1.VirtualMachineStatusStopped, kubevirtv1.VirtualMachineStatusStarting},
		{kubevirtv1.RunStrategyOnce, true, kept, kept, kubevirtv1.VirtualMachineStatusStopped, kubevirtv1.VirtualMachineStatusStopped},
		{kubevirtv1.RunStrategyManual, false, kept, kept, kubevirtv1.VirtualMachineStatusStopped, kubevirtv1.VirtualMachineStatusStopped},
	} {
		for phase, want := range map[kubevirtv1.VirtualMachineInstancePhase]fate{kubevirtv1.Succeeded: tc.succeeded, kubevirtv1.Failed: tc.failed} {
			t.Run(string(tc.strategy)+"/"+string(phase), func(t *testing.T) {
				run(t, func(b *bench) {
					b.create(tc.strategy)
					if !tc.starts {
						b.expect(kubevirtv1.VirtualMachineStatusStopped)
						if b.vmi() != nil {
							b.Fatal("started without a request")
						}
						b.ask(startReq(nil))
					}
					first := b.must().UID
					b.phase(kubevirtv1.Running)
					b.phase(phase)
					time.Sleep(time.Minute)
					got := kept
					if vmi := b.vmi(); vmi == nil {
						got = removed
					} else if vmi.UID != first {
						got = replaced
					}
					if got != want || b.vm().Status.Created != (got != removed) {
						b.Errorf("%s, want %s; created %v", got, want, b.vm().Status.Created)
					}
					status := tc.afterOK
					if phase == kubevirtv1.Failed {
						status = tc.afterFail
					}
					b.expect(status)
					if n := len(b.vm().Status.StateChangeRequests); n != 0 {
						b.Errorf("%d requests left", n)
					}
				})
			})
		}
	}
}

func TestHaltedMeansNoInstance(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		b.phase(kubevirtv1.Running)
		b.edit(func(vm *kubevirtv1.VirtualMachine) {
			halted := kubevirtv1.RunStrategyHalted
			vm.Spec.RunStrategy = &halted
		})
		b.expect(kubevirtv1.VirtualMachineStatusStopping)
		if b.must().DeletionTimestamp == nil {
			b.Fatal("the instance is not being deleted")
		}
		b.phase(kubevirtv1.Succeeded)
		if b.vmi() != nil {
			b.Error("the instance is still there")
		}
		b.expect(kubevirtv1.VirtualMachineStatusStopped)
		if c := condition(b.vm(), kubevirtv1.VirtualMachineReady); c.Reason != "VMINotExists" {
			b.Errorf("Ready: %+v", c)
		}
		time.Sleep(time.Hour)
		if b.vmi() != nil {
			b.Error("it came back")
		}
	})
}

func TestSpecRunning(t *testing.T) {
	run(t, func(b *bench) {
		b.create("", func(vm *kubevirtv1.VirtualMachine) {
			running := true
			vm.Spec.RunStrategy, vm.Spec.Running = nil, &running
		})
		b.must()
		b.phase(kubevirtv1.Running)
		b.edit(func(vm *kubevirtv1.VirtualMachine) { *vm.Spec.Running = false })
		b.phase(kubevirtv1.Succeeded)
		b.expect(kubevirtv1.VirtualMachineStatusStopped)
	})
}

func TestStartPausedOfAHaltedMachine(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyHalted)
		b.expect(kubevirtv1.VirtualMachineStatusStopped)
		b.ask(startReq(map[string]string{kubevirtv1.StartRequestDataPausedKey: kubevirtv1.StartRequestDataPausedTrue}))
		if vmi := b.must(); !vmi.ShouldStartPaused() {
			b.Error("not started paused")
		}
		if got := *b.vm().Spec.RunStrategy; got != kubevirtv1.RunStrategyAlways {
			b.Errorf("run strategy %s, want Always", got)
		}
		b.phase(kubevirtv1.Running, func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Status.Conditions = append(vmi.Status.Conditions, kubevirtv1.VirtualMachineInstanceCondition{Type: kubevirtv1.VirtualMachineInstancePaused, Status: corev1.ConditionTrue, Reason: "PausedByUser"})
		})
		b.expect(kubevirtv1.VirtualMachineStatusPaused)
		if c := condition(b.vm(), kubevirtv1.VirtualMachinePaused); c == nil || c.Reason != "PausedByUser" {
			b.Errorf("Paused: %+v", c)
		}
		b.phase(kubevirtv1.Running)
		if c := condition(b.vm(), kubevirtv1.VirtualMachinePaused); c != nil {
			b.Errorf("Paused stays: %+v", c)
		}
	})
}

// A restart is a stop of this instance and a start.
func TestRestartRequest(t *testing.T) {
	for _, strategy := range []kubevirtv1.VirtualMachineRunStrategy{kubevirtv1.RunStrategyAlways, kubevirtv1.RunStrategyRerunOnFailure, kubevirtv1.RunStrategyManual} {
		t.Run(string(strategy), func(t *testing.T) {
			run(t, func(b *bench) {
				b.create(strategy)
				if b.vmi() == nil {
					b.ask(startReq(nil))
				}
				b.phase(kubevirtv1.Running)
				first := b.must().UID
				b.ask(stopReq(first), startReq(nil))
				b.expect(kubevirtv1.VirtualMachineStatusStopping)
				b.phase(kubevirtv1.Succeeded)
				if b.must().UID == first {
					b.Fatal("the instance was not replaced")
				}
				b.phase(kubevirtv1.Running)
				b.expect(kubevirtv1.VirtualMachineStatusRunning)
				if reqs := b.vm().Status.StateChangeRequests; len(reqs) != 0 {
					b.Errorf("requests left: %v", reqs)
				}
			})
		})
	}
}

func TestARequestForAnotherInstanceIsDropped(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		b.phase(kubevirtv1.Running)
		b.ask(stopReq("some-other"))
		if b.must().DeletionTimestamp != nil || len(b.vm().Status.StateChangeRequests) != 0 {
			b.Error("a stale stop request was acted on or kept")
		}
	})
}

// A start that was asked for because the instance had ended must not be taken
// for done by a steward that still sees it running.
func TestAnOldViewOfTheInstanceDropsNoRequest(t *testing.T) {
	for name, request := range map[string]kubevirtv1.VirtualMachineStateChangeRequest{"start": startReq(nil), "stop": stopReq("next")} {
		s := objectstest.New(claims.Rules()...)
		commit := func(build func(tx *objects.Tx)) error {
			var tx objects.Tx
			build(&tx)
			_, err := tx.Commit(t.Context(), s)
			return err
		}
		vm := newMachine(kubevirtv1.RunStrategyManual)
		vm.Status.StateChangeRequests = []kubevirtv1.VirtualMachineStateChangeRequest{request}
		seen := newInstance(vm)
		seen.Status.Phase = kubevirtv1.Running
		if err := commit(func(tx *objects.Tx) { tx.Create(vm); tx.Create(seen) }); err != nil {
			t.Fatal(err)
		}
		ended := seen.DeepCopy()
		ended.Status.Phase = kubevirtv1.Succeeded
		if err := commit(func(tx *objects.Tx) { tx.Update(seen, ended) }); err != nil {
			t.Fatal(err)
		}
		turn := &turn{old: vm, vm: vm.DeepCopy(), was: seen, vmi: seen, now: time.Now()}
		dropDoneRequests(turn)
		if len(turn.vm.Status.StateChangeRequests) != 0 {
			t.Fatalf("%s: the case is not met", name)
		}
		turn.tx.Update(turn.old, turn.vm)
		if _, err := turn.tx.Commit(t.Context(), s); !apierrors.IsConflict(err) {
			t.Errorf("%s: dropped for an instance that is not so any more: %v", name, err)
		}
	}
}

func TestDataVolumesComeFirst(t *testing.T) {
	dvKey := objects.Key{Namespace: "ns", Name: "root"}
	withTemplate := func(vm *kubevirtv1.VirtualMachine) {
		vm.Spec.DataVolumeTemplates = []kubevirtv1.DataVolumeTemplateSpec{{ObjectMeta: metav1.ObjectMeta{Name: "root"}}}
	}
	run(t, func(b *bench) {
		set := func(phase cdiv1.DataVolumePhase) {
			b.Helper()
			old := find[*cdiv1.DataVolume](b, dvKey)
			next := old.DeepCopy()
			next.Status.Phase = phase
			b.commit(func(tx *objects.Tx) { tx.UpdateStatus(old, next) })
		}
		b.create(kubevirtv1.RunStrategyAlways, withTemplate)
		dv := find[*cdiv1.DataVolume](b, dvKey)
		if dv == nil || !metav1.IsControlledBy(dv, b.vm()) || b.vmi() != nil {
			b.Fatalf("data volume %v, instance %v", dv, b.vmi())
		}
		b.expect(kubevirtv1.VirtualMachineStatusProvisioning)
		// Nothing fills it, and whoever waits for the machine learns that.
		if c := condition(b.vm(), "DataVolumesReady"); c == nil || c.Status != corev1.ConditionFalse || !strings.Contains(c.Message, "DataVolume "+dv.Name+" is not filled: nothing fills") {
			b.Errorf("the machine waits, and says %+v", c)
		}
		set(cdiv1.ImportInProgress)
		b.expect(kubevirtv1.VirtualMachineStatusProvisioning)
		set(cdiv1.Failed)
		b.expect(kubevirtv1.VirtualMachineStatusDataVolumeError)
		set(cdiv1.Succeeded)
		b.must()
		b.expect(kubevirtv1.VirtualMachineStatusStarting)
		if c := condition(b.vm(), "DataVolumesReady"); c != nil {
			b.Errorf("the volume is filled, and the machine says %+v", c)
		}
	})
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyHalted, withTemplate)
		if find[*cdiv1.DataVolume](b, dvKey) == nil {
			b.Error("a halted machine's volumes are not made")
		}
	})
}

func TestBlockedInstances(t *testing.T) {
	for want, c := range map[kubevirtv1.VirtualMachinePrintableStatus]kubevirtv1.VirtualMachineInstanceCondition{
		kubevirtv1.VirtualMachineStatusUnschedulable: {Type: podScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 hosts are available"},
		kubevirtv1.VirtualMachineStatusPvcNotFound:   {Type: kubevirtv1.VirtualMachineInstanceSynchronized, Status: corev1.ConditionFalse, Reason: reasonPVCNotFound},
		kubevirtv1.VirtualMachineStatusErrImagePull:  {Type: kubevirtv1.VirtualMachineInstanceSynchronized, Status: corev1.ConditionFalse, Reason: reasonErrImagePull, Message: "no such image"},
	} {
		run(t, func(b *bench) {
			b.create(kubevirtv1.RunStrategyAlways)
			b.phase(kubevirtv1.Scheduling, func(vmi *kubevirtv1.VirtualMachineInstance) {
				vmi.Status.Conditions = append(vmi.Status.Conditions, c)
			})
			b.expect(want)
			if got := condition(b.vm(), kubevirtv1.VirtualMachineConditionType(c.Type)); got == nil || got.Reason != c.Reason || got.Message != c.Message {
				b.Errorf("%s is not copied: %+v", c.Type, got)
			}
		})
	}
}

func TestPrepareCompletesOrFails(t *testing.T) {
	const missing = "instance type big is missing"
	var found atomic.Bool
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		if c := condition(b.vm(), kubevirtv1.VirtualMachineFailure); c == nil || !strings.Contains(c.Message, missing) || b.vmi() != nil {
			b.Errorf("Failure: %+v", c)
		}
		found.Store(true)
		time.Sleep(time.Hour)
		if vmi := b.must(); vmi.Spec.Hostname != "prepared" {
			b.Errorf("hostname %q", vmi.Spec.Hostname)
		}
		if c := condition(b.vm(), kubevirtv1.VirtualMachineFailure); c != nil {
			b.Errorf("Failure stays: %+v", c)
		}
	}, func(cfg *Config) {
		cfg.Prepare = []Prepare{func(_ context.Context, _ *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance) error {
			vmi.Spec.Hostname = "prepared"
			if !found.Load() {
				return errors.New(missing)
			}
			return nil
		}}
	})
}

// When nothing changes, nothing is written: status must not chase itself.
func TestQuietWhenNothingChanges(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		b.phase(kubevirtv1.Running)
		before := b.store.Commits()
		time.Sleep(5 * time.Hour)
		if n := b.store.Commits() - before; n != 0 {
			b.Errorf("%d transactions in 5 idle hours", n)
		}
	})
}
