package vm

import (
	"maps"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// newInstance returns the instance that the machine's template describes.
func newInstance(vm *kubevirtv1.VirtualMachine) *kubevirtv1.VirtualMachineInstance {
	template := vm.Spec.Template.DeepCopy()
	vmi := &kubevirtv1.VirtualMachineInstance{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       vm.Namespace,
			Name:            vm.Name,
			Labels:          template.ObjectMeta.Labels,
			Annotations:     maps.Clone(template.ObjectMeta.Annotations),
			OwnerReferences: []metav1.OwnerReference{ownerRef(vm)},
			Finalizers: []string{
				kubevirtv1.VirtualMachineInstanceFinalizer,
				kubevirtv1.VirtualMachineControllerFinalizer,
			},
		},
		Spec: template.Spec,
	}
	if vmi.Annotations == nil {
		vmi.Annotations = map[string]string{}
	}
	vmi.Annotations[kubevirtv1.VirtualMachineGenerationAnnotation] = strconv.FormatInt(vm.Generation, 10)
	if asksToStartPaused(vm) {
		paused := kubevirtv1.StartStrategyPaused
		vmi.Spec.StartStrategy = &paused
	}
	machine.SetIdentity(&vmi.Spec, vm.Name)
	return vmi
}

func ownerRef(vm *kubevirtv1.VirtualMachine) metav1.OwnerReference {
	return *metav1.NewControllerRef(vm, kubevirtv1.VirtualMachineGroupVersionKind)
}

// propagate copies to the instance what may change while it runs: the rules for
// its next placement, its eviction strategy, and the labels and annotations of
// the template. Labels and annotations that the template no longer contains
// stay until the instance ends, because others may have set them meanwhile.
func propagate(want, have *kubevirtv1.VirtualMachineInstance) {
	machine.CopyLiveFields(&want.Spec, &have.Spec)
	have.Labels, have.Annotations = merged(have.Labels, want.Labels), merged(have.Annotations, want.Annotations)
}

// merged returns a copy of have with the entries of more added.
func merged(have, more map[string]string) map[string]string {
	if len(more) == 0 {
		return have
	}
	out := maps.Clone(have)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, more)
	return out
}
