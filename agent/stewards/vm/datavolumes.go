package vm

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
)

// ensureDataVolumes creates the data volumes of spec.dataVolumeTemplates that
// are not there yet. They are made with the machine, whether it runs or not.
func (c *Controller) ensureDataVolumes(t *turn) {
	for i := range t.vm.Spec.DataVolumeTemplates {
		template := &t.vm.Spec.DataVolumeTemplates[i]
		if _, ok := c.dvs.Get(objects.Key{Namespace: t.vm.Namespace, Name: template.Name}); ok {
			continue
		}
		dv := newDataVolume(t.vm, template)
		kinds.SetNewDataVolume(dv, t.now)
		t.tx.Create(dv)
		c.cfg.Recorder.AddTo(&t.tx, t.old, corev1.EventTypeNormal, "DataVolumeCreated", "Created DataVolume "+dv.Name)
	}
}

func newDataVolume(vm *kubevirtv1.VirtualMachine, template *kubevirtv1.DataVolumeTemplateSpec) *cdiv1.DataVolume {
	labels := maps.Clone(template.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[kubevirtv1.CreatedByLabel] = string(vm.UID)
	return &cdiv1.DataVolume{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       vm.Namespace,
			Name:            template.Name,
			Labels:          labels,
			Annotations:     maps.Clone(template.Annotations),
			OwnerReferences: []metav1.OwnerReference{ownerRef(vm)},
		},
		Spec: *template.Spec.DeepCopy(),
	}
}

// dataVolumes calls fn for the data volume of each template; dv is nil if it
// does not exist.
func (c *Controller) dataVolumes(vm *kubevirtv1.VirtualMachine, fn func(dv *cdiv1.DataVolume)) {
	for i := range vm.Spec.DataVolumeTemplates {
		dv, _ := c.dvs.Get(objects.Key{Namespace: vm.Namespace, Name: vm.Spec.DataVolumeTemplates[i].Name})
		fn(dv)
	}
}

// dataVolumesReady reports whether an instance may be created: every data
// volume is filled, or waits for its first consumer, which is the instance.
func (c *Controller) dataVolumesReady(vm *kubevirtv1.VirtualMachine) bool {
	ready := true
	c.dataVolumes(vm, func(dv *cdiv1.DataVolume) {
		if dv == nil {
			ready = false
			return
		}
		switch dv.Status.Phase {
		case cdiv1.Succeeded, cdiv1.WaitForFirstConsumer, cdiv1.PendingPopulation:
		default:
			ready = false
		}
	})
	return ready
}

// volumeState sums up the data volumes for the printable status.
type volumeState struct {
	provisioning, failed, waiting bool
	// message says what the first of those that are not filled says of itself.
	message string
}

// dataVolumesCondition is the condition of a machine that has no instance because its
// data volumes are not filled; false if it has no reason to wait for them.
func dataVolumesCondition(state volumeState) (kubevirtv1.VirtualMachineCondition, bool) {
	return kubevirtv1.VirtualMachineCondition{
		Type: kubevirtv1.VirtualMachineConditionType(kubevirtv1.VirtualMachineInstanceDataVolumesReady), Status: corev1.ConditionFalse,
		Reason: kubevirtv1.VirtualMachineInstanceReasonNotAllDVsReady, Message: state.message,
	}, state.provisioning || state.failed
}

func (c *Controller) volumeState(vm *kubevirtv1.VirtualMachine) volumeState {
	var s volumeState
	c.dataVolumes(vm, func(dv *cdiv1.DataVolume) {
		if s.message == "" {
			s.message = unfilled(dv)
		}
		switch {
		case dv == nil:
			s.provisioning = true
		case dv.Status.Phase == cdiv1.Succeeded:
		case dv.Status.Phase == cdiv1.WaitForFirstConsumer, dv.Status.Phase == cdiv1.PendingPopulation:
			s.waiting = true
		case dv.Status.Phase == cdiv1.Failed, stuck(dv):
			s.failed = true
		default:
			s.provisioning = true
		}
	})
	return s
}

// unfilled says why a data volume is not filled; empty if it is, or does not exist yet.
func unfilled(dv *cdiv1.DataVolume) string {
	if dv == nil || dv.Status.Phase == cdiv1.Succeeded {
		return ""
	}
	message := fmt.Sprintf("DataVolume %s is not filled", dv.Name)
	for _, c := range dv.Status.Conditions {
		if c.Type == cdiv1.DataVolumeReady && c.Message != "" {
			return message + ": " + c.Message
		}
	}
	return message
}

// stuck reports whether a data volume's transfer keeps failing.
func stuck(dv *cdiv1.DataVolume) bool {
	for _, c := range dv.Status.Conditions {
		if c.Type == cdiv1.DataVolumeRunning && c.Status == corev1.ConditionFalse {
			return c.Reason == "Error" || c.Reason == "ImagePullFailed"
		}
	}
	return false
}
