package domain

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	v1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
)

// keeping returns an instance of a VirtualMachine whose EFI firmware, and TPM if tpm is
// true, keep their state.
func keeping(t *testing.T, uid types.UID, tpm bool) *v1.VirtualMachineInstance {
	t.Helper()
	vmi, no, yes := load(t, "minimal"), false, true
	owned := instanceOf(vmi.Namespace, vmi.Name, uid, machineUID)
	vmi.UID, vmi.OwnerReferences = uid, owned.OwnerReferences
	vmi.Spec.Domain.Firmware = &v1.Firmware{Bootloader: &v1.Bootloader{EFI: &v1.EFI{SecureBoot: &no, Persistent: &yes}}}
	vmi.Spec.Domain.Devices.TPM = &v1.TPMDevice{Persistent: &tpm}
	return vmi
}

// life starts the instance, marks with a file the folder of its TPM's state, and ends
// the instance.
func (h *bootHost) life(t *testing.T, ctx context.Context, vmi *v1.VirtualMachineInstance, variables string) (markedBefore bool) {
	t.Helper()
	d, _, err := Convert(Input{VMI: vmi, Host: "host1", Epoch: 1, Machine: h.info, Paths: Paths{Variables: variables}})
	if err != nil {
		t.Fatal(err)
	}
	xml, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	started, err := h.driver.Start(ctx, xml, hypervisor.StartOptions{KeepNVRAM: true, KeepTPM: true})
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(h.dir, "l", "lib", "swtpm", started.UUID, "mark")
	_, err = os.Stat(mark)
	markedBefore = err == nil
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatalf("the TPM has no state where libvirt keeps it: %v", err)
	}
	// What the host does at the end of an instance.
	got, err := h.driver.Get(ctx, Ref(vmi))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.driver.Destroy(ctx, Ref(vmi)); err != nil {
		t.Fatal(err)
	}
	if err := h.driver.Undefine(ctx, Ref(vmi), hypervisor.UndefineOptions{KeepNVRAM: got.Owner.KeepNVRAM, KeepTPM: got.Owner.KeepTPM}); err != nil {
		t.Fatal(err)
	}
	return markedBefore
}

// TestKeptStateOutlivesAnInstance: the next instance of a machine finds what TPM and
// firmware have kept, also after one whose TPM did not keep its state.
func TestKeptStateOutlivesAnInstance(t *testing.T) {
	h := newBootHost(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	variables := filepath.Join(h.dir, "variables.fd")
	for i, c := range []struct {
		keeps, finds bool
	}{{true, false}, {true, true}, {false, false}, {false, false}, {true, true}} {
		vmi := keeping(t, types.UID("0f7d8a1e-0000-4000-8000-0000000000e"+string(rune('0'+i))), c.keeps)
		before, _ := os.ReadFile(variables)
		if found := h.life(t, ctx, vmi, variables); found != c.finds {
			t.Errorf("instance %d, whose TPM keeps its state: %v, finds what an earlier one kept: %v", i, c.keeps, found)
		}
		after, err := os.ReadFile(variables)
		if err != nil || len(after) == 0 || i > 0 && len(before) != len(after) {
			t.Errorf("instance %d: its firmware had variables of %d bytes, and has %d: %v", i, len(before), len(after), err)
		}
	}
}

// Without a place for its variables a machine that keeps them must not start: it would
// lose them.
func TestVariablesNeedAPlace(t *testing.T) {
	in := prepared
	in.VMI, in.Machine = keeping(t, instanceUID, true), kvmHost
	if _, _, err := Convert(in); err == nil || !strings.Contains(err.Error(), "spec.domain.firmware.bootloader.efi.persistent") {
		t.Errorf("without a place: %v", err)
	}
	in.Paths.Variables = "/keep/variables.fd"
	d, _, err := Convert(in)
	if err != nil {
		t.Fatal(err)
	}
	if d.UUID != TPMUUID(Machine(in.VMI)) || d.OS.NVRam == nil || d.OS.NVRam.NVRam != in.Paths.Variables ||
		d.Devices.TPMs[0].Backend.Emulator.PersistentState != "yes" || !strings.Contains(d.Metadata.XML, "keep") {
		t.Errorf("UUID %s, variables %+v, TPM %+v, metadata %s", d.UUID, d.OS.NVRam, d.Devices.TPMs[0].Backend.Emulator, d.Metadata.XML)
	}
}
