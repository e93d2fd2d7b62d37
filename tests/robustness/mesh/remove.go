package mesh

import (
	"context"
	"fmt"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/kinds/meshv1alpha1"
)

// Remove removes a host from the mesh, as an administrator does at another one. It
// returns the error of the first step that fails, such as the one for a host that lives.
func (m *Mesh) Remove(ctx context.Context, name string) error {
	for _, a := range m.members() {
		if a.host.Name != name {
			return a.remove(ctx, m.hosts[name])
		}
	}
	return fmt.Errorf("remove %s: %w", name, errNobody)
}

// remove removes another host.
func (a *agent) remove(ctx context.Context, other *Host) error {
	h := a.host
	op := &meshv1alpha1.Operation{Spec: meshv1alpha1.OperationSpec{Type: meshv1alpha1.RemoveHost, Target: other.Name, Machine: other.node.ID,
		KeepKeys: true}} // gossip is not encrypted here
	bury := func(context.Context, string) error { return nil } // no volume outlives its instance here
	tell := func(vmi *kubevirtv1.VirtualMachineInstance, reason, message string) {
		h.mesh.History.note(h.Name, "%s ends: %s", vmi.Name, message)
	}
	for _, step := range a.asMember().RemovalSteps(op, a.writer("removal"), bury, tell) {
		if err := step.Do(ctx, func(int64, int64) {}); err != nil {
			return fmt.Errorf("remove %s: %s: %w", other.Name, step.Name, err)
		}
	}
	other.removed = true
	h.mesh.History.note(h.Name, "has removed %s", other.Name)
	return nil
}
