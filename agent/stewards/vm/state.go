package vm

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
)

// stateClaimLabel names the machine on its state claim, as in KubeVirt.
const stateClaimLabel = "persistent-state-for"

// stateClaimSize is what a state claim asks for. A claim must ask for something, and
// what TPM and firmware keep is smaller.
const stateClaimSize = "10Mi"

// ensureStateClaim creates the claim that says which host has what the machine's TPM and
// firmware keep, if the machine keeps something and the claim is not there yet. The claim
// stays until the machine is deleted, also when the machine keeps nothing any more.
func (c *Controller) ensureStateClaim(t *turn) {
	name := machine.StateClaim(t.vm.Name, &t.vm.Spec.Template.Spec)
	if name == "" {
		return
	}
	if _, ok := c.claims.Get(objects.Key{Namespace: t.vm.Namespace, Name: name}); ok {
		return
	}
	t.tx.Create(newStateClaim(t.vm, name))
	c.cfg.Recorder.AddTo(&t.tx, t.old, corev1.EventTypeNormal, "StateClaimCreated", "Created PersistentVolumeClaim "+name)
}

func newStateClaim(vm *kubevirtv1.VirtualMachine, name string) *corev1.PersistentVolumeClaim {
	mode := corev1.PersistentVolumeFilesystem
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       vm.Namespace,
			Name:            name,
			Labels:          map[string]string{stateClaimLabel: machine.HostLabel(vm.Name)},
			OwnerReferences: []metav1.OwnerReference{ownerRef(vm)},
		},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			VolumeMode:  &mode,
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(stateClaimSize)},
			},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
}
