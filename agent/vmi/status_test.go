package vmi

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func TestQOSClass(t *testing.T) {
	list := func(pairs ...string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
		}
		return out
	}
	for name, c := range map[string]struct {
		requests, limits corev1.ResourceList
		dedicated        bool
		want             corev1.PodQOSClass
	}{
		"nothing said":        {nil, nil, false, corev1.PodQOSBurstable},
		"requests alone":      {list("cpu", "1", "memory", "1Gi"), nil, false, corev1.PodQOSBurstable},
		"limits alone":        {nil, list("cpu", "1", "memory", "1Gi"), false, corev1.PodQOSGuaranteed},
		"equal":               {list("cpu", "1", "memory", "1Gi"), list("cpu", "1000m", "memory", "1024Mi"), false, corev1.PodQOSGuaranteed},
		"CPU may grow":        {list("cpu", "1", "memory", "1Gi"), list("cpu", "2", "memory", "1Gi"), false, corev1.PodQOSBurstable},
		"memory is unlimited": {list("cpu", "1", "memory", "1Gi"), list("cpu", "1"), false, corev1.PodQOSBurstable},
		"a limit of zero":     {nil, list("cpu", "0", "memory", "1Gi"), false, corev1.PodQOSBurstable},
		"CPUs of its own":     {nil, nil, true, corev1.PodQOSGuaranteed},
	} {
		t.Run(name, func(t *testing.T) {
			vmi := bare()
			vmi.Spec.Domain.CPU = &kubevirtv1.CPU{DedicatedCPUPlacement: c.dedicated}
			vmi.Spec.Domain.Resources = kubevirtv1.ResourceRequirements{Requests: c.requests, Limits: c.limits}
			if got := QOSClass(vmi); got != c.want {
				t.Errorf("class %s, want %s", got, c.want)
			}
		})
	}
}

// claimed gives the instance a volume of a claim with this access mode.
func claimed(vmi *kubevirtv1.VirtualMachineInstance, mode corev1.PersistentVolumeAccessMode) {
	source := &kubevirtv1.PersistentVolumeClaimVolumeSource{}
	source.ClaimName = "data"
	vmi.Spec.Volumes = []kubevirtv1.Volume{{Name: "disk", VolumeSource: kubevirtv1.VolumeSource{PersistentVolumeClaim: source}}}
	vmi.Status.VolumeStatus = []kubevirtv1.VolumeStatus{{Name: "disk", PersistentVolumeClaimInfo: &kubevirtv1.PersistentVolumeClaimInfo{
		ClaimName: "data", AccessModes: []corev1.PersistentVolumeAccessMode{mode}}}}
}

func TestMigrationHindrance(t *testing.T) {
	type edit = func(*kubevirtv1.VirtualMachineInstance)
	devices := func(f func(d *kubevirtv1.Devices)) edit {
		return func(vmi *kubevirtv1.VirtualMachineInstance) { f(&vmi.Spec.Domain.Devices) }
	}
	bridge := kubevirtv1.Interface{Name: "net", InterfaceBindingMethod: kubevirtv1.InterfaceBindingMethod{Bridge: &kubevirtv1.InterfaceBridge{}}}
	for name, c := range map[string]struct {
		edit   edit
		reason string
		names  string
	}{
		"nothing":      {func(*kubevirtv1.VirtualMachineInstance) {}, ReasonMigrationNotAvailable, "not available"},
		"shared claim": {func(v *kubevirtv1.VirtualMachineInstance) { claimed(v, corev1.ReadWriteMany) }, ReasonMigrationNotAvailable, ""},
		"one's claim":  {func(v *kubevirtv1.VirtualMachineInstance) { claimed(v, corev1.ReadWriteOnce) }, "DisksNotLiveMigratable", "data"},
		"unknown claim": {func(v *kubevirtv1.VirtualMachineInstance) {
			claimed(v, corev1.ReadWriteMany)
			v.Status.VolumeStatus = nil
		}, "DisksNotLiveMigratable", "disk"},
		"disk of a host": {func(v *kubevirtv1.VirtualMachineInstance) {
			v.Spec.Volumes[0].VolumeSource = kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{}}
		}, "DisksNotLiveMigratable", "root"},
		"bridge to pods": {func(v *kubevirtv1.VirtualMachineInstance) {
			v.Spec.Networks = []kubevirtv1.Network{{Name: "net", NetworkSource: kubevirtv1.NetworkSource{Pod: &kubevirtv1.PodNetwork{}}}}
			v.Spec.Domain.Devices.Interfaces = []kubevirtv1.Interface{bridge}
		}, "InterfaceNotLiveMigratable", "net"},
		"other bridge": {func(v *kubevirtv1.VirtualMachineInstance) {
			v.Spec.Domain.Devices.Interfaces = []kubevirtv1.Interface{bridge}
		}, ReasonMigrationNotAvailable, ""},
		"host device": {devices(func(d *kubevirtv1.Devices) { d.HostDevices = make([]kubevirtv1.HostDevice, 1) }), "HostDeviceNotLiveMigratable", "devices"},
		"virtiofs":    {devices(func(d *kubevirtv1.Devices) { d.Filesystems = make([]kubevirtv1.Filesystem, 1) }), "VirtIOFSNotLiveMigratable", "directories"},
		"kept state":  {devices(func(d *kubevirtv1.Devices) { d.TPM = &kubevirtv1.TPMDevice{Persistent: new(true)} }), "DisksNotLiveMigratable", "TPM"},
		"SEV": {func(v *kubevirtv1.VirtualMachineInstance) {
			v.Spec.Domain.LaunchSecurity = &kubevirtv1.LaunchSecurity{SEV: &kubevirtv1.SEV{}}
		}, "SEVNotLiveMigratable", "key"},
		"reservation": {devices(func(d *kubevirtv1.Devices) {
			d.Disks = []kubevirtv1.Disk{{DiskDevice: kubevirtv1.DiskDevice{LUN: &kubevirtv1.LunTarget{Reservation: true}}}}
		}), "PersistentReservationNotLiveMigratable", "LUN"},
	} {
		t.Run(name, func(t *testing.T) {
			vmi := bare()
			c.edit(vmi)
			reason, message := MigrationHindrance(vmi)
			if reason != c.reason || !strings.Contains(message, c.names) {
				t.Errorf("%s: %s; want %s naming %s", reason, message, c.reason, c.names)
			}
		})
	}
}

func TestMigrationMethod(t *testing.T) {
	vmi := bare()
	if got := MigrationMethod(vmi); got != kubevirtv1.BlockMigration {
		t.Errorf("a container disk: %s", got)
	}
	if claimed(vmi, corev1.ReadWriteMany); MigrationMethod(vmi) != kubevirtv1.LiveMigration {
		t.Error("a shared claim would be copied")
	}
	if claimed(vmi, corev1.ReadWriteOnce); MigrationMethod(vmi) != kubevirtv1.BlockMigration {
		t.Error("a claim of one host would not be copied")
	}
}

// What is known of one volume says nothing of another.
func TestAccessIsThatOfTheVolumeItself(t *testing.T) {
	info := func(modes ...corev1.PersistentVolumeAccessMode) *kubevirtv1.PersistentVolumeClaimInfo {
		return &kubevirtv1.PersistentVolumeClaimInfo{AccessModes: modes}
	}
	for name, c := range map[string]struct {
		status []kubevirtv1.VolumeStatus
		want   kubevirtv1.VirtualMachineInstanceMigrationMethod
	}{
		"another is shared":      {[]kubevirtv1.VolumeStatus{{Name: "other", PersistentVolumeClaimInfo: info(corev1.ReadWriteMany)}, {Name: "disk", PersistentVolumeClaimInfo: info(corev1.ReadWriteOnce)}}, kubevirtv1.BlockMigration},
		"another is not":         {[]kubevirtv1.VolumeStatus{{Name: "other", PersistentVolumeClaimInfo: info(corev1.ReadWriteOnce)}, {Name: "disk", PersistentVolumeClaimInfo: info(corev1.ReadWriteOnce, corev1.ReadWriteMany)}}, kubevirtv1.LiveMigration},
		"nothing is known of it": {[]kubevirtv1.VolumeStatus{{Name: "disk"}, {Name: "other", PersistentVolumeClaimInfo: info(corev1.ReadWriteMany)}}, kubevirtv1.BlockMigration},
	} {
		vmi := bare()
		claimed(vmi, corev1.ReadWriteMany)
		vmi.Status.VolumeStatus = c.status
		if got := MigrationMethod(vmi); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestMissingAgentCommands(t *testing.T) {
	if got := MissingAgentCommands(agentCommands[:]); got != "" {
		t.Errorf("missing %s", got)
	}
	if got := MissingAgentCommands(agentCommands[2:]); got != "guest-ping, guest-get-time" {
		t.Errorf("missing %s", got)
	}
}
