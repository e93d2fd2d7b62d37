package vmi

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// sources are volumes of every sort that has a name in it, once good and once with
// the fault that is told at the field, below the volume.
func TestVolumeSources(t *testing.T) {
	local := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	for name, tc := range map[string]struct {
		good, bad kubevirtv1.VolumeSource
		field     string
	}{
		"image": {kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "a", ImagePullPolicy: "Never", Path: "/disk/a"}},
			kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "a", ImagePullPolicy: "Sometimes"}}, "containerDisk.imagePullPolicy"},
		"image path": {kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "a", Path: "/disk/a/"}},
			kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "a", Path: "/"}}, "containerDisk.path"},
		"data volume": {kubevirtv1.VolumeSource{DataVolume: &kubevirtv1.DataVolumeSource{Name: "a"}},
			kubevirtv1.VolumeSource{DataVolume: &kubevirtv1.DataVolumeSource{}}, "dataVolume.name"},
		"ephemeral": {kubevirtv1.VolumeSource{Ephemeral: &kubevirtv1.EphemeralVolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "a"}}},
			kubevirtv1.VolumeSource{Ephemeral: &kubevirtv1.EphemeralVolumeSource{}}, "ephemeral.persistentVolumeClaim.claimName"},
		"config map": {kubevirtv1.VolumeSource{ConfigMap: &kubevirtv1.ConfigMapVolumeSource{LocalObjectReference: local("a")}},
			kubevirtv1.VolumeSource{ConfigMap: &kubevirtv1.ConfigMapVolumeSource{}}, "configMap.name"},
		"secret": {kubevirtv1.VolumeSource{Secret: &kubevirtv1.SecretVolumeSource{SecretName: "a"}},
			kubevirtv1.VolumeSource{Secret: &kubevirtv1.SecretVolumeSource{}}, "secret.secretName"},
		"service account": {kubevirtv1.VolumeSource{ServiceAccount: &kubevirtv1.ServiceAccountVolumeSource{ServiceAccountName: "a"}},
			kubevirtv1.VolumeSource{ServiceAccount: &kubevirtv1.ServiceAccountVolumeSource{}}, "serviceAccount.serviceAccountName"},
		"sysprep": {kubevirtv1.VolumeSource{Sysprep: &kubevirtv1.SysprepSource{Secret: &corev1.LocalObjectReference{Name: "a"}}},
			kubevirtv1.VolumeSource{Sysprep: &kubevirtv1.SysprepSource{}}, "sysprep"},
		"host disk": {kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{Path: "/a", Type: kubevirtv1.HostDiskExistsOrCreate, Capacity: resource.MustParse("1Gi")}},
			kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{Path: "/a", Type: kubevirtv1.HostDiskExists, Capacity: resource.MustParse("1Gi")}}, "hostDisk.capacity"},
		"host disk type": {kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{Path: "/a", Type: kubevirtv1.HostDiskExists}},
			kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{Path: "/a", Type: "Tape"}}, "hostDisk.type"},
		"config drive": {kubevirtv1.VolumeSource{CloudInitConfigDrive: &kubevirtv1.CloudInitConfigDriveSource{UserDataSecretRef: &corev1.LocalObjectReference{Name: "a"}}},
			kubevirtv1.VolumeSource{CloudInitConfigDrive: &kubevirtv1.CloudInitConfigDriveSource{NetworkDataBase64: "?"}}, "cloudInitConfigDrive.networkDataBase64"},
	} {
		t.Run(name, func(t *testing.T) {
			good, bad := instance(t), instance(t)
			good.Spec.Volumes[0].VolumeSource, bad.Spec.Volumes[0].VolumeSource = tc.good, tc.bad
			SetNewInstance(defaults(), good, time.Now())
			SetNewInstance(defaults(), bad, time.Now())
			if errs := ValidateInstance(defaults(), good); len(errs) > 0 {
				t.Errorf("refused: %v", errs.ToAggregate())
			}
			if errs := ValidateInstance(defaults(), bad); !reports(errs, "spec.volumes[0]."+tc.field) {
				t.Errorf("no error at %s, but %v", tc.field, errs.ToAggregate())
			}
		})
	}
}

func TestSomeVolumesAreThereOnce(t *testing.T) {
	vmi := instance(t)
	for _, name := range []string{"one", "two"} {
		vmi.Spec.Volumes = append(vmi.Spec.Volumes, kubevirtv1.Volume{Name: name, VolumeSource: kubevirtv1.VolumeSource{
			ServiceAccount: &kubevirtv1.ServiceAccountVolumeSource{ServiceAccountName: name}}})
	}
	SetNewInstance(defaults(), vmi, time.Now())
	if errs := ValidateInstance(defaults(), vmi); !reports(errs, "spec.volumes") {
		t.Errorf("two service accounts: %v", errs.ToAggregate())
	}
}

func TestClaimNames(t *testing.T) {
	vmi := instance(t)
	dump := kubevirtv1.Volume{Name: "dump", VolumeSource: kubevirtv1.VolumeSource{MemoryDump: &kubevirtv1.MemoryDumpVolumeSource{}}}
	dump.MemoryDump.ClaimName = "dump"
	vmi.Spec.Volumes = append(vmi.Spec.Volumes, dump,
		kubevirtv1.Volume{VolumeSource: kubevirtv1.VolumeSource{DataVolume: &kubevirtv1.DataVolumeSource{Name: "imported"}}},
		kubevirtv1.Volume{VolumeSource: kubevirtv1.VolumeSource{Ephemeral: &kubevirtv1.EphemeralVolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "base"}}}},
		kubevirtv1.Volume{VolumeSource: kubevirtv1.VolumeSource{Ephemeral: &kubevirtv1.EphemeralVolumeSource{}}})
	if got, want := ClaimNames(&vmi.Spec), []string{"data", "dump", "imported", "base"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestKernelBoot(t *testing.T) {
	for name, tc := range map[string]struct {
		boot  kubevirtv1.KernelBoot
		field string
	}{
		"good":            {kubevirtv1.KernelBoot{KernelArgs: "quiet", Container: &kubevirtv1.KernelBootContainer{Image: "a", KernelPath: "/boot/vmlinuz"}}, ""},
		"nothing":         {kubevirtv1.KernelBoot{}, ""},
		"arguments alone": {kubevirtv1.KernelBoot{KernelArgs: "quiet"}, "spec.domain.firmware.kernelBoot.kernelArgs"},
		"no image":        {kubevirtv1.KernelBoot{Container: &kubevirtv1.KernelBootContainer{InitrdPath: "/initrd"}}, "spec.domain.firmware.kernelBoot.container.image"},
		"no file":         {kubevirtv1.KernelBoot{Container: &kubevirtv1.KernelBootContainer{Image: "a"}}, "spec.domain.firmware.kernelBoot.container"},
		"relative kernel": {kubevirtv1.KernelBoot{Container: &kubevirtv1.KernelBootContainer{Image: "a", KernelPath: "vmlinuz"}}, "spec.domain.firmware.kernelBoot.container.kernelPath"},
		"initrd outside":  {kubevirtv1.KernelBoot{Container: &kubevirtv1.KernelBootContainer{Image: "a", InitrdPath: "/a/../../b"}}, "spec.domain.firmware.kernelBoot.container.initrdPath"},
	} {
		t.Run(name, func(t *testing.T) {
			vmi := instance(t)
			vmi.Spec.Domain.Firmware.KernelBoot = &tc.boot
			SetNewInstance(defaults(), vmi, time.Now())
			errs := ValidateInstance(defaults(), vmi)
			if tc.field == "" && len(errs) > 0 || tc.field != "" && !reports(errs, tc.field) {
				t.Errorf("want an error at %q, have %v", tc.field, errs.ToAggregate())
			}
		})
	}
}

func TestPullPolicies(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"registry/tiny": corev1.PullAlways, "registry/tiny:latest": corev1.PullAlways, "registry/tiny:1": corev1.PullIfNotPresent,
		"registry/tiny@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef": corev1.PullIfNotPresent,
	} {
		vmi := bare()
		vmi.Spec.Volumes[0].ContainerDisk.Image = image
		SetNewInstance(defaults(), vmi, early)
		if got := vmi.Spec.Volumes[0].ContainerDisk.ImagePullPolicy; got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}
