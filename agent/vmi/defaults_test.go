package vmi

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func bare() *kubevirtv1.VirtualMachineInstance {
	vmi := &kubevirtv1.VirtualMachineInstance{}
	vmi.Name = "testvmi"
	vmi.Spec.Domain.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	vmi.Spec.Volumes = []kubevirtv1.Volume{{Name: "root", VolumeSource: kubevirtv1.VolumeSource{
		ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "registry/tiny"}}}}
	return vmi
}

func TestInstanceDefaults(t *testing.T) {
	vmi := bare()
	now := time.Now()
	SetNewInstance(defaults(), vmi, now)
	s := &vmi.Spec
	for what, ok := range map[string]bool{
		"architecture":                        s.Architecture == "amd64",
		"machine":                             s.Domain.Machine.Type == "q35",
		"topology":                            s.Domain.CPU.Sockets == 1 && s.Domain.CPU.Cores == 1 && s.Domain.CPU.Threads == 1,
		"cpu model":                           s.Domain.CPU.Model == "host-model",
		"guest memory":                        s.Domain.Memory.Guest.String() == "64Mi",
		"firmware uuid":                       s.Domain.Firmware.UUID == FirmwareUUID("testvmi"),
		"acpi":                                *s.Domain.Features.ACPI.Enabled,
		"pull policy":                         s.Volumes[0].ContainerDisk.ImagePullPolicy == corev1.PullAlways,
		"disk of volume":                      len(s.Domain.Devices.Disks) == 1 && s.Domain.Devices.Disks[0].Disk.Bus == kubevirtv1.DiskBusSATA,
		"network":                             len(s.Networks) == 1 && s.Networks[0].Pod != nil && s.Domain.Devices.Interfaces[0].Masquerade != nil,
		"not ready yet":                       Condition(vmi, kubevirtv1.VirtualMachineInstanceReady).Reason == kubevirtv1.GuestNotRunningReason,
		"runtime user":                        vmi.Status.RuntimeUser == UnprivilegedUser,
		"finalizer":                           vmi.Finalizers[0] == kubevirtv1.VirtualMachineInstanceFinalizer,
		"phase":                               vmi.Status.Phase == kubevirtv1.Pending && vmi.Status.PhaseTransitionTimestamps[0].PhaseTransitionTimestamp == storedTime(now),
		"memory status":                       vmi.Status.Memory.GuestAtBoot.String() == "64Mi",
		"topology status":                     vmi.Status.CurrentCPUTopology.Sockets == 1,
		"room for CPUs":                       s.Domain.CPU.MaxSockets == 4,
		"no room for memory below a gibibyte": s.Domain.Memory.MaxGuest == nil,
		"identity":                            s.Domain.Firmware.Serial == string(s.Domain.Firmware.UUID),
		"no grace period":                     s.TerminationGracePeriodSeconds == nil,
		"no eviction rule":                    s.EvictionStrategy == nil,
	} {
		if !ok {
			t.Errorf("%s is not as expected", what)
		}
	}
}

func TestDefaultsAreStable(t *testing.T) {
	once := bare()
	SetNewInstance(defaults(), once, time.Now())
	twice := once.DeepCopy()
	SetNewInstance(defaults(), twice, time.Now())
	if !equality.Semantic.DeepEqual(once, twice) {
		t.Error("defaults of defaults differ")
	}
}

func TestDefaultsKeepWhatIsGiven(t *testing.T) {
	vmi := instance(t)
	want := vmi.DeepCopy()
	SetNewInstance(defaults(), vmi, time.Now())
	if vmi.Spec.Domain.Machine.Type != want.Spec.Domain.Machine.Type || !equality.Semantic.DeepEqual(vmi.Spec.Networks, want.Spec.Networks) {
		t.Error("a default replaced what was given")
	}
	if cpu := vmi.Spec.Domain.CPU; cpu.Cores != 2 || cpu.Sockets != 1 {
		t.Errorf("topology %+v, want the 2 cores given in one socket", cpu)
	}
}

func TestSocketsFromResources(t *testing.T) {
	vmi := bare()
	vmi.Spec.Domain.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}
	defaults().SetInstance(vmi)
	if vmi.Spec.Domain.CPU.Sockets != 3 || vmi.Spec.Domain.Resources.Requests.Cpu().Value() != 3 {
		t.Errorf("limits of 3 CPUs gave %d sockets and a request of %s", vmi.Spec.Domain.CPU.Sockets, vmi.Spec.Domain.Resources.Requests.Cpu())
	}
}

func TestRoomToGrow(t *testing.T) {
	d := defaults()
	d.MaxHotplugRatio = 4
	vmi := bare()
	vmi.Spec.Domain.Memory = &kubevirtv1.Memory{Guest: quantity("1Gi")}
	d.SetInstance(vmi)
	if vmi.Spec.Domain.CPU.MaxSockets != 4 || vmi.Spec.Domain.Memory.MaxGuest.String() != "4Gi" {
		t.Errorf("room for %d sockets and %v, want 4 and 4Gi", vmi.Spec.Domain.CPU.MaxSockets, vmi.Spec.Domain.Memory.MaxGuest)
	}
}

// The UUID is what KubeVirt gives an instance of that name.
func TestFirmwareUUIDIsKubeVirts(t *testing.T) {
	if got, want := FirmwareUUID("testvmi"), "f8918e71-270a-598e-a2a4-1afac39e1394"; string(got) != want {
		t.Errorf("UUID %s, want %s", got, want)
	}
}

// Room to grow is made where it keeps no guest from starting.
func TestHotplugRoom(t *testing.T) {
	for name, tc := range map[string]struct {
		edit    func(*kubevirtv1.DomainSpec)
		ratio   uint32
		sockets uint32
		memory  string
	}{
		"four times": {func(*kubevirtv1.DomainSpec) {}, 4, 8, "8Gi"},
		"no more than asked": {func(d *kubevirtv1.DomainSpec) {
			d.CPU.MaxSockets = 3
			q := resource.MustParse("3Gi")
			d.Memory.MaxGuest = &q
		}, 4, 3, "3Gi"},
		"twice":              {func(*kubevirtv1.DomainSpec) {}, 2, 4, "4Gi"},
		"none":               {func(*kubevirtv1.DomainSpec) {}, 1, 0, ""},
		"cores count":        {func(d *kubevirtv1.DomainSpec) { d.CPU.Cores, d.CPU.Threads = 20, 2 }, 4, 6, "8Gi"},
		"as large as can be": {func(d *kubevirtv1.DomainSpec) { d.CPU.Sockets, d.CPU.Cores = 2, 127 }, 4, 2, "8Gi"},
		"dedicated CPUs":     {func(d *kubevirtv1.DomainSpec) { d.CPU.DedicatedCPUPlacement = true }, 4, 0, "8Gi"},
		"much memory":        {func(d *kubevirtv1.DomainSpec) { *d.Memory.Guest = resource.MustParse("200Gi") }, 4, 8, "512Gi"},
		"more than the room": {func(d *kubevirtv1.DomainSpec) { *d.Memory.Guest = resource.MustParse("1Ti") }, 4, 8, ""},
		"odd memory":         {func(d *kubevirtv1.DomainSpec) { *d.Memory.Guest = resource.MustParse("2147483649") }, 4, 8, ""},
		"huge pages":         {func(d *kubevirtv1.DomainSpec) { d.Memory.Hugepages = &kubevirtv1.Hugepages{PageSize: "2Mi"} }, 4, 8, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := defaults()
			d.MaxHotplugRatio = tc.ratio
			guest := resource.MustParse("2Gi")
			vmi := bare()
			vmi.Spec.Domain.CPU, vmi.Spec.Domain.Memory = &kubevirtv1.CPU{Sockets: 2}, &kubevirtv1.Memory{Guest: &guest}
			tc.edit(&vmi.Spec.Domain)
			SetNewInstance(d, vmi, early)
			if got := vmi.Spec.Domain.CPU.MaxSockets; got != tc.sockets {
				t.Errorf("at most %d sockets, want %d", got, tc.sockets)
			}
			if got := vmi.Spec.Domain.Memory.MaxGuest; (got == nil) != (tc.memory == "") || got != nil && got.Cmp(resource.MustParse(tc.memory)) != 0 {
				t.Errorf("at most %v of memory, want %q", got, tc.memory)
			}
			if errs := ValidateInstance(d, vmi); len(errs) > 0 && !vmi.Spec.Domain.CPU.DedicatedCPUPlacement {
				t.Errorf("refused: %v", errs.ToAggregate())
			}
		})
	}
}
