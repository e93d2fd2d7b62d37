package vm

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

func TestFailingStartsAreBackedOff(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		for i, wait := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			last := b.must().UID
			b.phase(kubevirtv1.Failed)
			f := b.vm().Status.StartFailure
			if f == nil || f.ConsecutiveFailCount != i+1 || f.LastFailedVMIUID != last {
				b.Fatalf("failure %d: %+v", i+1, f)
			}
			b.expect(kubevirtv1.VirtualMachineStatusCrashLoopBackOff)
			time.Sleep(wait*time.Second - 2*time.Second)
			if b.vmi() != nil {
				b.Fatalf("failure %d: started again before %s", i+1, wait*time.Second)
			}
			time.Sleep(3 * time.Second)
			if b.must().UID == last {
				b.Fatalf("failure %d: not started again", i+1)
			}
			b.expect(kubevirtv1.VirtualMachineStatusStarting)
		}
		b.phase(kubevirtv1.Running)
		b.expect(kubevirtv1.VirtualMachineStatusRunning)
		time.Sleep(6 * time.Minute)
		if f := b.vm().Status.StartFailure; f != nil {
			b.Errorf("after a success: %+v", f)
		}
		// One that has run for long is replaced at once.
		b.phase(kubevirtv1.Failed)
		if b.must().IsFinal() {
			b.Error("not replaced")
		}
	})
}

// A guest that ends soon after each start is a loop, whether it fails or powers off. One
// that its user stops, or that ran for long, is none.
func TestGuestsThatEndSoonAreBackedOff(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		for i, wait := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			last := b.must().UID
			b.phase(kubevirtv1.Running)
			time.Sleep(20 * time.Second)
			b.phase([]kubevirtv1.VirtualMachineInstancePhase{kubevirtv1.Succeeded, kubevirtv1.Failed}[i%2])
			if f := b.vm().Status.StartFailure; f == nil || f.ConsecutiveFailCount != i+1 || f.LastFailedVMIUID != last {
				b.Fatalf("end %d: %+v", i+1, f)
			}
			b.expect(kubevirtv1.VirtualMachineStatusCrashLoopBackOff)
			time.Sleep(wait*time.Second - 2*time.Second)
			if b.vmi() != nil {
				b.Fatalf("end %d: started again before %s", i+1, wait*time.Second)
			}
			time.Sleep(3 * time.Second)
		}
		b.phase(kubevirtv1.Running)
		time.Sleep(6 * time.Minute)
		last := b.must().UID
		b.phase(kubevirtv1.Succeeded)
		if b.must().UID == last || b.vm().Status.StartFailure != nil {
			b.Errorf("after a long run: %+v", b.vm().Status.StartFailure)
		}
		b.phase(kubevirtv1.Running)
		last = b.must().UID
		b.ask(stopReq(last), startReq(nil))
		b.phase(kubevirtv1.Succeeded)
		if b.must().UID == last || b.vm().Status.StartFailure != nil {
			b.Errorf("after a restart by its user: %+v", b.vm().Status.StartFailure)
		}
	})
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyRerunOnFailure)
		b.phase(kubevirtv1.Running)
		b.phase(kubevirtv1.Succeeded)
		b.expect(kubevirtv1.VirtualMachineStatusStopped)
	})
}

// The loss of a host is no failure of the machine: it starts elsewhere at once.
func TestLossOfAHostIsNoCrash(t *testing.T) {
	for _, ran := range []bool{false, true} {
		run(t, func(b *bench) {
			b.create(kubevirtv1.RunStrategyAlways)
			if ran {
				b.phase(kubevirtv1.Running)
				time.Sleep(20 * time.Second)
			}
			last := b.must().UID
			b.phase(kubevirtv1.Failed, func(vmi *kubevirtv1.VirtualMachineInstance) { machine.EndWithHost(vmi, time.Now()) })
			if b.must().UID == last || b.vm().Status.StartFailure != nil {
				b.Errorf("ran %v: not replaced at once, %+v", ran, b.vm().Status.StartFailure)
			}
		})
	}
}

// A steward whose clock was a day ahead does not keep a machine from starting for a day.
func TestAClockThatJumpedDelaysNoStartForLong(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways)
		b.phase(kubevirtv1.Failed)
		b.edit(func(vm *kubevirtv1.VirtualMachine) {
			late := metav1.NewTime(time.Now().Add(24 * time.Hour).Truncate(time.Second))
			vm.Status.StartFailure.RetryAfterTimestamp = &late
		})
		time.Sleep(time.Minute)
		if b.vmi() != nil {
			b.Fatal("started without a pause")
		}
		time.Sleep(5 * time.Minute)
		if b.vmi() == nil {
			b.Errorf("not started after the longest pause: %+v", b.vm().Status.StartFailure)
		}
	})
}
