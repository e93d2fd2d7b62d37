//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// The mark is put together in the guest, so that only cloud-init can print it.
const (
	userData = `#cloud-config
runcmd:
- [sh, -c, "echo mark=applied-$((40 + 2)) >/dev/ttyS0"]
`
	cloudInitMark = "mark=applied-42"
)

// A real Debian boots, applies its cloud-init user data and talks through its
// guest agent.
func TestDebianWithCloudInitAndGuestAgent(t *testing.T) {
	t.Parallel()
	image := strings.TrimSpace(mustLab(t, "image", "debian"))
	ns := namespace(t, "host1")
	a := connect(t, "host1")
	apply(t, "host1", machine(ns, "debian", func(vm *kubevirtv1.VirtualMachine) {
		spec := &vm.Spec.Template.Spec
		memory := resource.MustParse("768Mi")
		spec.Domain.Memory.Guest = &memory
		spec.Domain.CPU = &kubevirtv1.CPU{Cores: 2}
		spec.Volumes[0].ContainerDisk.Image = image
		spec.Domain.Devices.Disks = append(spec.Domain.Devices.Disks, kubevirtv1.Disk{Name: "seed",
			DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: kubevirtv1.DiskBusVirtio}}})
		spec.Volumes = append(spec.Volumes, kubevirtv1.Volume{Name: "seed", VolumeSource: kubevirtv1.VolumeSource{
			CloudInitNoCloud: &kubevirtv1.CloudInitNoCloudSource{UserData: userData}}})
	}))
	waitRunning(t, a, ns, "debian", 3*time.Minute)
	guest := openConsole(t, "host2", ns, "debian")
	eventually(t, 8*time.Minute, "the guest agent to tell the operating system", func(ctx context.Context) error {
		vmi, err := a.instance(ctx, ns, "debian")
		if err != nil {
			return err
		}
		for _, condition := range vmi.Status.Conditions {
			if condition.Type == kubevirtv1.VirtualMachineInstanceAgentConnected && condition.Status == corev1.ConditionTrue &&
				strings.Contains(vmi.Status.GuestOSInfo.PrettyName, "Debian") {
				return nil
			}
		}
		return fmt.Errorf("guest %+v, conditions %+v", vmi.Status.GuestOSInfo, vmi.Status.Conditions)
	})
	checkGuestStatus(t, a, ns, "debian")
	eventually(t, 6*time.Minute, "cloud-init to apply the user data", func(context.Context) error {
		if !strings.Contains(guest.text(), cloudInitMark) {
			return fmt.Errorf("the console ends with %q", tail(guest.text(), 400))
		}
		return nil
	})
}

// checkGuestStatus looks at what only a real hypervisor and a real agent tell: the
// disks' names, the balloon, the user, the agent's version and its commands.
func checkGuestStatus(t *testing.T, a api, namespace, name string) {
	t.Helper()
	vmi, err := a.instance(t.Context(), namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	s := vmi.Status
	if s.VolumeStatus[0].Target != "vda" || s.RuntimeUser == 0 || s.Memory.GuestCurrent.Value() != 768<<20 || s.Machine.Type == "q35" {
		t.Errorf("status %+v, memory %s", s, s.Memory.GuestCurrent)
	}
	path := fmt.Sprintf("/apis/subresources.kubevirt.io/v1/namespaces/%s/virtualmachineinstances/%s/guestosinfo", namespace, name)
	text, err := a.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var info kubevirtv1.VirtualMachineInstanceGuestAgentInfo
	if err := json.Unmarshal(text, &info); err != nil {
		t.Fatal(err)
	}
	if info.GAVersion == "" || len(info.SupportedCommands) == 0 || len(info.FSInfo.Filesystems) == 0 {
		t.Errorf("the agent tells %s", text)
	}
}
