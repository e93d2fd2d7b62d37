package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"strconv"
	"time"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// annotationTemplate holds, on an instance, the digest of the template it was
// made from, without what may change while it runs.
const annotationTemplate = "virtmesh.io/template-digest"

// newInstance returns the instance that the machine's template describes.
func newInstance(vm *kubevirtv1.VirtualMachine, now time.Time) *kubevirtv1.VirtualMachineInstance {
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
	vmi.Annotations[annotationTemplate] = templateDigest(vm)
	if asksToStartPaused(vm) {
		paused := kubevirtv1.StartStrategyPaused
		vmi.Spec.StartStrategy = &paused
	}
	if vmi.Spec.Domain.Firmware == nil {
		vmi.Spec.Domain.Firmware = &kubevirtv1.Firmware{}
	}
	if vmi.Spec.Domain.Firmware.UUID == "" {
		vmi.Spec.Domain.Firmware.UUID = firmwareUUID(vm.UID)
	}
	machine.SetPhase(vmi, kubevirtv1.Pending, now)
	machine.SetCondition(vmi, machine.NewCondition(kubevirtv1.VirtualMachineInstanceReady, false,
		kubevirtv1.GuestNotRunningReason, "Guest VM is not reported as running"), now)
	return vmi
}

func ownerRef(vm *kubevirtv1.VirtualMachine) metav1.OwnerReference {
	return *metav1.NewControllerRef(vm, kubevirtv1.VirtualMachineGroupVersionKind)
}

// firmwareUUID is what the guest sees as its hardware's identity: the same
// over all instances of one machine, and different between machines.
func firmwareUUID(uid types.UID) types.UID {
	return types.UID(uuid.NewSHA1(uuid.NameSpaceOID, []byte("virtmesh.io/firmware/"+string(uid))).String())
}

// templateDigest identifies the part of the template that an instance takes up
// only at its start.
func templateDigest(vm *kubevirtv1.VirtualMachine) string {
	spec := vm.Spec.Template.Spec.DeepCopy()
	spec.NodeSelector, spec.Affinity, spec.Tolerations = nil, nil, nil
	spec.TopologySpreadConstraints, spec.EvictionStrategy = nil, nil
	b, err := json.Marshal(spec)
	if err != nil {
		// The spec was read from JSON.
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// propagate passes on what may change while the instance runs: where it may
// run next, and what an eviction does.
func propagate(want, have *kubevirtv1.VirtualMachineInstance) {
	have.Spec.NodeSelector = want.Spec.NodeSelector
	have.Spec.Affinity = want.Spec.Affinity
	have.Spec.Tolerations = want.Spec.Tolerations
	have.Spec.TopologySpreadConstraints = want.Spec.TopologySpreadConstraints
	have.Spec.EvictionStrategy = want.Spec.EvictionStrategy
}
