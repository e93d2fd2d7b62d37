package executor

import (
	"context"
	"errors"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
)

// lifeOf returns a new instance of the VirtualMachine name, placed on this host.
func (w *world) lifeOf(name string) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	vmi := scheduled(name)
	machine := &metav1.ObjectMeta{Name: name, UID: "0f7d8a1e-0000-4000-8000-0000000000a1"}
	vmi.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(machine, kubevirtv1.VirtualMachineGroupVersionKind)}
	return w.place(vmi)
}

// oneLife is a hypervisor that notices when a guest starts beside another domain of its
// machine.
type oneLife struct {
	hypervisor.Hypervisor
	t      *testing.T
	starts int
}

func (h *oneLife) Start(ctx context.Context, xml string, opts hypervisor.StartOptions) (hypervisor.Domain, error) {
	owner, _, _ := hypervisor.OwnerOf(xml)
	domains, err := h.List(ctx)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	for _, other := range domains {
		if other.Owner.Ref != owner.Ref {
			h.t.Errorf("%s of UID %s starts beside that of UID %s, which is %s", owner.Ref, owner.UID, other.Owner.UID, other.State)
		}
	}
	h.starts++
	return h.Hypervisor.Start(ctx, xml, opts)
}

// The instances of a VirtualMachine have one domain UUID, and the domain of the first
// is gone before the second starts, wherever an agent dies.
func TestTwoLivesOfAMachineDoNotMeet(t *testing.T) {
	for death := 0; ; death++ {
		w := newWorld(t)
		h := &oneLife{Hypervisor: w.hv, t: t}
		w.config.Hypervisor = h
		w.restart()
		first := w.lifeOf("web")
		w.reconcile(first)
		before, _ := w.domain(first)
		// Nobody told this host that the instance and its claim are gone.
		w.unclaim(first)
		w.forget(first)
		w.restart()
		second := w.lifeOf("web")
		taken := w.killBefore(death)
		w.drive(second)
		after, _ := w.domain(second)
		if after.State != hypervisor.StateRunning || before.UUID == "" || after.UUID != before.UUID {
			t.Errorf("killed before step %d: the domain of the second instance is %+v, that of the first was %+v", death, after, before)
		}
		if _, found := w.domain(first); found || h.starts != 2 {
			t.Errorf("killed before step %d: %d starts, the first instance's domain is there: %v", death, h.starts, found)
		}
		if *taken <= death {
			return
		}
	}
}

// A domain that cannot be removed holds up the machine's next start.
func TestALifeWaitsForTheEndOfTheOneBefore(t *testing.T) {
	for _, failing := range []string{"Destroy", "Undefine"} {
		w := newWorld(t)
		first := w.lifeOf("web")
		w.reconcile(first)
		w.unclaim(first)
		w.forget(first)
		w.restart()
		second := w.lifeOf("web")
		w.hv.Machine().Fail(failing, errors.New("the daemon is busy"))
		if _, err := w.try(second); err == nil {
			t.Errorf("%s fails, and there is no error", failing)
		}
		if _, found := w.domain(second); found {
			t.Errorf("%s fails, and the second instance has a domain", failing)
		}
		w.reconcile(second)
		if domain, _ := w.domain(second); domain.State != hypervisor.StateRunning {
			t.Errorf("after %s has failed once, the second instance is %s", failing, domain.State)
		}
	}
}

// defineAsBefore starts the instance's domain as an earlier version did, with the UID of
// the instance for its UUID.
func (w *world) defineAsBefore(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	claim, _ := w.claim(vmi)
	owner := hypervisor.Owner{Ref: refOf(vmi), Host: thisHost, Epoch: claim.Epoch}
	_, err := w.hv.Start(w.t.Context(), fmt.Sprintf(
		"<domain type='qemu'><name>%s</name><uuid>%s</uuid><metadata>%s</metadata><memory unit='MiB'>64</memory><vcpu>1</vcpu></domain>",
		owner.DomainName(), owner.UID, owner.Metadata()), hypervisor.StartOptions{})
	w.act(err)
}

// A guest that an earlier version started runs on under its UUID until it ends.
func TestAGuestOfAnEarlierVersionKeepsItsUUID(t *testing.T) {
	w := newWorld(t)
	vmi := w.lifeOf("web")
	w.defineAsBefore(vmi)
	w.adopt()
	w.reconcile(vmi)
	got, _ := w.domain(vmi)
	if got.State != hypervisor.StateRunning || got.UUID != string(vmi.UID) {
		t.Errorf("the domain is %+v, want it to run under %s", got, vmi.UID)
	}
	if stored := w.get(vmi); stored.Status.Phase != kubevirtv1.Running {
		t.Errorf("the instance is %s", stored.Status.Phase)
	}
	w.act(w.hv.Machine().PowerOff(refOf(vmi)))
	w.reconcile(vmi)
	w.expectEnded(vmi, kubevirtv1.Succeeded)
}

// A domain that an earlier version defined and did not get to start does not hold up the
// start.
func TestADomainOfAnEarlierVersionStartsUnderItsMachinesUUID(t *testing.T) {
	w := newWorld(t)
	vmi := w.lifeOf("web")
	w.defineAsBefore(vmi)
	w.hv.Machine().PowerLoss()
	w.adopt()
	w.reconcile(vmi)
	if got, _ := w.domain(vmi); got.State != hypervisor.StateRunning || got.UUID != domain.UUID(w.get(vmi)) {
		t.Errorf("the domain is %+v, want it to run under %s", got, domain.UUID(vmi))
	}
}

// keepingLife starts a new instance of the VirtualMachine name, whose TPM and firmware
// keepState their state if keeps is true.
func (w *world) keepingLife(name string, keeps bool) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	vmi := w.lifeOf(name)
	w.keepState(vmi, keeps)
	w.reconcile(vmi)
	return vmi
}

// keepState says whether TPM and firmware of the instance keep their state.
func (w *world) keepState(vmi *kubevirtv1.VirtualMachineInstance, keeps bool) {
	w.t.Helper()
	w.change(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) {
		no := false
		vmi.Spec.Domain.Firmware = &kubevirtv1.Firmware{Bootloader: &kubevirtv1.Bootloader{EFI: &kubevirtv1.EFI{SecureBoot: &no, Persistent: &keeps}}}
		vmi.Spec.Domain.Devices.TPM = &kubevirtv1.TPMDevice{Persistent: &keeps}
	})
}

// What TPM and firmware keep stays on the host however the instance ends, and is there
// when the next one starts.
func TestKeptStateOutlivesTheInstance(t *testing.T) {
	for name, end := range map[string]func(*world, *kubevirtv1.VirtualMachineInstance){
		"shut down": func(w *world, vmi *kubevirtv1.VirtualMachineInstance) {
			w.act(w.hv.Machine().PowerOff(refOf(vmi)))
			w.reconcile(vmi)
			w.expectEnded(vmi, kubevirtv1.Succeeded)
		},
		"the host loses power": func(w *world, vmi *kubevirtv1.VirtualMachineInstance) {
			w.hv.Machine().PowerLoss()
			w.restart()
			w.reconcile(vmi)
			w.expectEnded(vmi, kubevirtv1.Failed)
		},
		"fenced": func(w *world, vmi *kubevirtv1.VirtualMachineInstance) {
			w.move(vmi)
			w.reconcile(vmi)
		},
		"forgotten": func(w *world, vmi *kubevirtv1.VirtualMachineInstance) { w.unclaim(vmi) },
	} {
		w := newWorld(t)
		w.machine.EFI, w.machine.TPM = true, true
		w.restart()
		first := w.keepingLife("web", true)
		before, found := w.domain(first)
		if !found {
			t.Fatalf("%s: the guest did not start: %+v", name, w.get(first).Status.Conditions)
		}
		end(w, first)
		w.unclaim(first)
		w.forget(first)
		w.reconcile(first)
		if _, found := w.domain(first); found {
			t.Errorf("%s: the domain is still there", name)
		}
		if nvram, tpm := w.hv.Machine().HasFirmwareState(refOf(first).DomainName(), before.UUID); !nvram || !tpm {
			t.Errorf("%s: variables kept: %v, TPM kept: %v", name, nvram, tpm)
		}
		if after, _ := w.domain(w.keepingLife("web", true)); after.UUID != before.UUID || after.State != hypervisor.StateRunning {
			t.Errorf("%s: the next instance runs as %+v, want the uuid %s", name, after, before.UUID)
		}
	}
}

// Wherever an agent dies, it is recorded that the TPM of a guest that runs has started,
// and of no other guest.
func TestAStartedTPMIsRecorded(t *testing.T) {
	for death := 0; ; death++ {
		w := newWorld(t)
		w.machine.EFI, w.machine.TPM = true, true
		w.restart()
		w.keepingLife("other", false)
		vmi := w.lifeOf("web")
		w.keepState(vmi, true)
		taken := w.killBefore(death)
		w.drive(vmi)
		if len(w.firmware.started) != 1 || !w.firmware.started[domain.Machine(vmi)] {
			t.Errorf("killed before step %d: recorded are %v, want %s", death, w.firmware.started, domain.Machine(vmi))
		}
		if *taken <= death {
			return
		}
	}
}

// A record that cannot be written does not hide that the guest runs, and is tried again.
func TestTheRecordOfATPMIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	w.machine.EFI, w.machine.TPM = true, true
	w.restart()
	w.firmware.full = errors.New("no space left on device")
	vmi := w.keepingLife("web", true)
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Running {
		t.Errorf("the instance is %s", got.Status.Phase)
	}
	if again := w.reconcile(vmi).RequeueAfter; again == 0 || again > recordTPMInterval {
		t.Errorf("it is tried again after %v", again)
	}
	w.firmware.full = nil
	w.reconcile(vmi)
	if !w.firmware.started[domain.Machine(vmi)] {
		t.Error("it is not recorded")
	}
}

// A start that fails does not take what was kept along.
func TestKeptStateOutlivesAFailedStart(t *testing.T) {
	w := newWorld(t)
	w.machine.EFI, w.machine.TPM = true, true
	w.restart()
	h := &options{Hypervisor: w.hv}
	w.config.Hypervisor = h
	w.restart()
	w.keepingLife("web", true)
	if !h.start.KeepNVRAM || !h.start.KeepTPM {
		t.Errorf("a guest that keeps state is started with %+v", h.start)
	}
	w.keepingLife("other", false)
	if h.start.KeepNVRAM || h.start.KeepTPM {
		t.Errorf("a guest that keeps nothing is started with %+v", h.start)
	}
}

// options is a hypervisor that remembers how it was last asked to start a guest.
type options struct {
	hypervisor.Hypervisor
	start hypervisor.StartOptions
}

func (h *options) Start(ctx context.Context, xml string, opts hypervisor.StartOptions) (hypervisor.Domain, error) {
	h.start = opts
	return h.Hypervisor.Start(ctx, xml, opts)
}
