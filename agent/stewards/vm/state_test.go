package vm

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
)

var stateClaimKey = objects.Key{Namespace: "ns", Name: "persistent-state-for-web"}

func (b *bench) stateClaim() *corev1.PersistentVolumeClaim {
	return find[*corev1.PersistentVolumeClaim](b, stateClaimKey)
}

func keepTPM(keeps bool) func(*kubevirtv1.VirtualMachine) {
	return func(vm *kubevirtv1.VirtualMachine) {
		vm.Spec.Template.Spec.Domain.Devices.TPM = &kubevirtv1.TPMDevice{Persistent: &keeps}
	}
}

// A machine whose TPM keeps its state has a claim for the state, which goes with the
// machine and not before.
func TestStateClaim(t *testing.T) {
	run(t, func(b *bench) {
		b.create(kubevirtv1.RunStrategyAlways, keepTPM(false))
		if got := b.stateClaim(); got != nil {
			b.Errorf("a machine that keeps nothing has the claim %+v", got)
		}
		b.edit(keepTPM(true))
		got := b.stateClaim()
		if got == nil || !metav1.IsControlledBy(got, b.vm()) || got.Status.Phase != corev1.ClaimPending {
			b.Fatalf("the claim is %+v", got)
		}
		b.edit(keepTPM(false))
		if b.stateClaim() == nil {
			b.Error("the claim goes when the machine keeps nothing any more")
		}
		b.edit(keepTPM(true))
		before := b.store.Commits()
		b.edit(func(vm *kubevirtv1.VirtualMachine) { vm.Labels = map[string]string{"a": "b"} })
		if b.stateClaim().UID != got.UID || b.store.Commits()-before > 2 {
			b.Errorf("the claim is %+v, after %d writes", b.stateClaim(), b.store.Commits()-before)
		}
		b.commit(func(tx *objects.Tx) { tx.Delete(b.stateClaim(), objects.DeleteOptions{}) })
		if again := b.stateClaim(); again == nil || again.UID == got.UID {
			b.Errorf("a claim that was deleted is not made again: %+v", again)
		}
	})
}
