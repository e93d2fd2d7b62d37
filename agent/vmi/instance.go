package vmi

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// SetNewInstance prepares a VirtualMachineInstance for its creation. It sets every
// default, the finalizer that keeps the object until its domain is gone, an
// unprivileged user, the phase Pending and the condition that it is not ready, both
// with the time now.
func SetNewInstance(d Defaults, vmi *kubevirtv1.VirtualMachineInstance, now time.Time) {
	d.SetInstance(vmi)
	addFinalizer(&vmi.ObjectMeta, kubevirtv1.VirtualMachineInstanceFinalizer)
	if vmi.Status.Phase != kubevirtv1.VmPhaseUnset {
		return
	}
	vmi.Status.RuntimeUser = UnprivilegedUser
	SetPhase(vmi, kubevirtv1.Pending, now)
	SetCondition(vmi, NotRunningYet(), now)
}

// NothingMigrates is what users are told of every migration.
const NothingMigrates = "this version does not migrate running machines: the migration fails at once, and the machine stays where it is"

// SetNewMigration adds the label by which migrations of an instance are found. It
// adds no finalizer: nothing carries migrations out yet, so nothing would remove it. So
// that nobody waits for it either, the migration has failed.
func SetNewMigration(m *kubevirtv1.VirtualMachineInstanceMigration) {
	m.Status.Phase = kubevirtv1.MigrationFailed
	m.Status.MigrationState = &kubevirtv1.VirtualMachineInstanceMigrationState{Failed: true, FailureReason: NothingMigrates}
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	m.Labels[kubevirtv1.MigrationSelectorLabel] = m.Spec.VMIName
}

func addFinalizer(m *metav1.ObjectMeta, name string) {
	if !slices.Contains(m.Finalizers, name) {
		m.Finalizers = append(m.Finalizers, name)
	}
}
