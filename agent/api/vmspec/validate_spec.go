package vmspec

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func validateSpec(path *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	return nil
}

func validateEveryVolumeUsed(path *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	return nil
}
