package vmi

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// ClaimNames returns the PersistentVolumeClaims that the instance's volumes use, in the
// order of the volumes. The claim of a DataVolume has the DataVolume's name.
func ClaimNames(spec *kubevirtv1.VirtualMachineInstanceSpec) []string {
	var names []string
	for i := range spec.Volumes {
		if name, _ := claimOf(&spec.Volumes[i]); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// claimOf returns the claim that a volume uses, empty if it uses none, and the path
// of the field that names it, below the volume.
func claimOf(v *kubevirtv1.Volume) (name string, path []string) {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName, []string{"persistentVolumeClaim", "claimName"}
	case v.DataVolume != nil:
		return v.DataVolume.Name, []string{"dataVolume", "name"}
	case v.Ephemeral != nil && v.Ephemeral.PersistentVolumeClaim != nil:
		return v.Ephemeral.PersistentVolumeClaim.ClaimName, []string{"ephemeral", "persistentVolumeClaim", "claimName"}
	case v.MemoryDump != nil:
		return v.MemoryDump.ClaimName, []string{"memoryDump", "claimName"}
	}
	return "", nil
}

// validateClaims reports PersistentVolumeClaims that several volumes name: only one
// disk at a time may have a claim open.
func validateClaims(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("volumes")
	var errs field.ErrorList
	holders := map[string]string{}
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		claim, path := claimOf(v)
		if claim == "" {
			continue
		}
		if holder, ok := holders[claim]; ok {
			errs = append(errs, field.Invalid(at.Index(i).Child(path[0], path[1:]...), claim,
				fmt.Sprintf("volumes %s and %s use the same PersistentVolumeClaim, which can be attached once only", holder, v.Name)))
			continue
		}
		holders[claim] = v.Name
	}
	return errs
}
