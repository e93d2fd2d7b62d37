//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// withKeptState gives a machine EFI firmware and a TPM that keep their state. The guest's
// image starts by BIOS only, which does not matter: the emulator runs.
func withKeptState(vm *kubevirtv1.VirtualMachine) {
	no, yes := false, true
	domain := &vm.Spec.Template.Spec.Domain
	domain.Firmware = &kubevirtv1.Firmware{Bootloader: &kubevirtv1.Bootloader{EFI: &kubevirtv1.EFI{SecureBoot: &no, Persistent: &yes}}}
	domain.Devices.TPM = &kubevirtv1.TPMDevice{Persistent: &yes}
}

// What a machine's TPM and firmware keep is there when it starts again, and goes with the
// machine.
func TestKeptStateGoesWithItsMachineOnly(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "host1")
	a := connect(t, "host1")
	apply(t, "host1", machine(ns, "sealed", withKeptState))
	first := waitRunning(t, a, ns, "sealed", 3*time.Minute)
	host := first.Status.NodeName
	uuid := strings.TrimSpace(inside(t, host, "virsh", "domuuid", ns+"_sealed"))
	tpm, variables := keptFiles(t, host, "swtpm/"+uuid), keptFiles(t, host, "variables.fd")
	if len(tpm) != 1 || len(variables) != 1 {
		t.Fatalf("the state of the TPM is at %v, the variables are at %v", tpm, variables)
	}
	mark := filepath.Join(tpm[0], "mark")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	if _, err := virtmesh(t, "host2", "", "vm", "restart", "sealed", "-n", ns); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Minute, "a new instance", func(ctx context.Context) error {
		second, err := a.instance(ctx, ns, "sealed")
		if err != nil {
			return err
		}
		if second.UID == first.UID || second.Status.Phase != kubevirtv1.Running {
			return fmt.Errorf("uid %s phase %s", second.UID, second.Status.Phase)
		}
		if second.Status.NodeName != host {
			t.Fatalf("the state is on %s, the machine started on %s", host, second.Status.NodeName)
		}
		return nil
	})
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the TPM's state is not the one of before: %v", err)
	}
	claim, err := a.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "persistent-state-for-sealed", metav1.GetOptions{})
	if err != nil || claim.Status.Phase != corev1.ClaimBound {
		t.Errorf("the claim is %+v, %v", claim.Status, err)
	}

	if _, err := virtmesh(t, "host2", "", "delete", "vm", "sealed", "-n", ns); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, "the end of the claim", func(ctx context.Context) error {
		_, err := a.CoreV1().PersistentVolumeClaims(ns).Get(ctx, "persistent-state-for-sealed", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	if left := append(keptFiles(t, host, "swtpm/"+uuid), keptFiles(t, host, "variables.fd")...); len(left) > 0 {
		t.Errorf("left on %s: %v", host, left)
	}
}

// A machine waits for the host that has what its TPM keeps, and says so. A host that is
// down when the machine is deleted removes it when it is back.
func TestKeptStateWaitsForItsHost(t *testing.T) {
	const home, claim = "host3", "persistent-state-for-homed"
	waitWhole(t)
	ns := namespace(t, "host1")
	a := connect(t, "host1")
	command := func(args ...string) {
		t.Helper()
		if _, err := virtmesh(t, "host1", "", args...); err != nil {
			t.Fatal(err)
		}
	}
	command("node", "cordon", "host1", "host2")
	t.Cleanup(func() {
		if _, err := program(context.Background(), nil, "--kubeconfig", kubeconfig("host1"), "node", "uncordon", "host1", "host2"); err != nil {
			t.Error(err)
		}
	})
	apply(t, "host1", machine(ns, "homed", withKeptState))
	waitRunning(t, a, ns, "homed", 3*time.Minute)
	command("node", "uncordon", "host1", "host2")
	stop := func() {
		t.Helper()
		command("vm", "stop", "homed", "-n", ns)
		waitStatus(t, a, ns, "homed", kubevirtv1.VirtualMachineStatusStopped)
		mustLab(t, "kill", home)
	}

	stop()
	command("vm", "start", "homed", "-n", ns)
	eventually(t, 2*time.Minute, "the reason why it does not start", func(ctx context.Context) error {
		vmi, err := a.instance(ctx, ns, "homed")
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(vmi.Status.Conditions, func(c kubevirtv1.VirtualMachineInstanceCondition) bool {
			return c.Status == corev1.ConditionFalse && strings.Contains(c.Message, claim)
		}) {
			return fmt.Errorf("conditions %+v", vmi.Status.Conditions)
		}
		return nil
	})
	mustLab(t, "start", home)
	if vmi := waitRunning(t, a, ns, "homed", 3*time.Minute); vmi.Status.NodeName != home {
		t.Errorf("it runs on %s", vmi.Status.NodeName)
	}

	stop()
	command("delete", "vm", "homed", "-n", ns)
	eventually(t, time.Minute, "the deletion of the claim to begin", func(ctx context.Context) error {
		claim, err := a.CoreV1().PersistentVolumeClaims(ns).Get(ctx, claim, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			t.Fatalf("the claim is gone before its host is back: %v", err)
		}
		if err != nil {
			return err
		}
		if claim.DeletionTimestamp == nil {
			return errors.New("it is not being deleted")
		}
		return nil
	})
	if len(keptFiles(t, home, "variables.fd")) != 1 {
		t.Error("a host that is down has lost the variables")
	}
	mustLab(t, "start", home)
	eventually(t, 3*time.Minute, "the end of the claim", func(ctx context.Context) error {
		_, err := a.CoreV1().PersistentVolumeClaims(ns).Get(ctx, claim, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	if left := append(keptFiles(t, home, "variables.fd"), keptFiles(t, home, "tpm2-00.permall")...); len(left) > 0 {
		t.Errorf("left on %s: %v", home, left)
	}
	waitWhole(t)
}

// keptFiles returns the paths in the host's directory that end in suffix.
func keptFiles(t *testing.T, host, suffix string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(filepath.Join(labDir, "hosts", host), func(path string, _ os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && strings.HasSuffix(path, "/"+suffix) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
