package vmi

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func TestResourcesAreEqualInAllParts(t *testing.T) {
	full := func() Resources {
		return Resources{CPUMilli: 1, MemoryBytes: 2, EphemeralBytes: 3, Hugepages: map[string]int64{"2Mi": 4}, Devices: map[string]int64{"d": 5}}
	}
	if !full().Equal(full()) {
		t.Error("equal amounts differ")
	}
	for name, change := range map[string]func(*Resources){
		"CPU":        func(r *Resources) { r.CPUMilli++ },
		"memory":     func(r *Resources) { r.MemoryBytes++ },
		"disk":       func(r *Resources) { r.EphemeralBytes++ },
		"huge pages": func(r *Resources) { r.Hugepages["2Mi"]++ },
		"devices":    func(r *Resources) { r.Devices["d"]++ },
	} {
		changed := full()
		change(&changed)
		if changed.Equal(full()) || full().Equal(changed) {
			t.Errorf("other %s, and equal", name)
		}
	}
}

// A volume that names nothing is told the field that it lacks.
func TestVolumesNameTheirSource(t *testing.T) {
	for want, source := range map[string]kubevirtv1.VolumeSource{
		"containerDisk.image":                       {ContainerDisk: &kubevirtv1.ContainerDiskSource{}},
		"persistentVolumeClaim.claimName":           {PersistentVolumeClaim: &kubevirtv1.PersistentVolumeClaimVolumeSource{}},
		"dataVolume.name":                           {DataVolume: &kubevirtv1.DataVolumeSource{}},
		"ephemeral.persistentVolumeClaim.claimName": {Ephemeral: &kubevirtv1.EphemeralVolumeSource{}},
		"emptyDisk.capacity":                        {EmptyDisk: &kubevirtv1.EmptyDiskSource{}},
		"configMap.name":                            {ConfigMap: &kubevirtv1.ConfigMapVolumeSource{}},
		"secret.secretName":                         {Secret: &kubevirtv1.SecretVolumeSource{}},
		"serviceAccount.serviceAccountName":         {ServiceAccount: &kubevirtv1.ServiceAccountVolumeSource{}},
		"sysprep":                                   {Sysprep: &kubevirtv1.SysprepSource{}},
		"hostDisk.path":                             {HostDisk: &kubevirtv1.HostDisk{Type: kubevirtv1.HostDiskExists}},
	} {
		t.Run(want, func(t *testing.T) {
			errs := validateSource(field.NewPath("v"), &kubevirtv1.Volume{Name: "v", VolumeSource: source})
			if !slices.ContainsFunc(errs, func(e *field.Error) bool { return e.Field == "v."+want }) {
				t.Errorf("got %v", errs)
			}
		})
	}
}
