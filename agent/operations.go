package agent

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/membership"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/operation"
)

// acts returns the types of operation that this host can carry out.
func (a *Agent) acts() operation.Acts {
	return operation.Acts{
		meshv1alpha1.RemoveHost: {
			Plan: func(op *operation.Object) []operation.Step {
				return planned(a.member.RemovalSteps(op, a.view.store, a.host.Bury, a.tellEnd))
			},
			Left: func(ctx context.Context, op *operation.Object) (string, error) {
				return a.member.LeftOfRemoval(ctx, op, a.view.store)
			},
			Outputs: removalOutputs(),
		},
		meshv1alpha1.RotateGossipKey: {
			Plan: func(op *operation.Object) []operation.Step {
				return planned(a.member.GossipRotationSteps(op, a.view.store))
			},
			Outputs: []stewards.Output{stewards.WritesRecords("keys of gossip", identity.KeyGossip)},
		},
		meshv1alpha1.RotateCA: {
			Plan: func(op *operation.Object) []operation.Step {
				return planned(a.member.RotateCASteps(op, a.view.store))
			},
			Outputs: []stewards.Output{stewards.WritesRecords("the mesh's CA", identity.KeyCA)},
		},
	}
}

// planned returns the plan that consists of some steps.
func planned(steps []membership.Step) []operation.Step {
	plan := make([]operation.Step, 0, len(steps))
	for _, s := range steps {
		plan = append(plan, operation.Step{Name: s.Name, Do: lasting(s), Note: s.Note})
	}
	return plan
}

// removalOutputs are what the removal of a host writes.
func removalOutputs() []stewards.Output {
	return []stewards.Output{
		stewards.WritesFields[*kubevirtv1.VirtualMachineInstance]("status", "metadata.finalizers"),
		stewards.WritesFields[*corev1.PersistentVolumeClaim]("metadata.finalizers"),
		stewards.Writes[*corev1.Node](stewards.Delete),
		stewards.WritesFields[*corev1.Node]("metadata"),
		stewards.WritesRecords("claims on the host", claims.Prefix),
		stewards.WritesRecords("subnets of hosts", membership.SubnetPrefix),
		stewards.WritesRecords("keys of gossip", identity.KeyGossip),
		stewards.WritesRecords("join tokens", identity.TokensPrefix),
		stewards.WritesRecords("the mesh's CA", identity.KeyCA),
	}
}

// lasting marks errors that another attempt would return again as permanent, so
// that they end the operation.
func lasting(s membership.Step) func(context.Context, func(done, total int64)) error {
	return func(ctx context.Context, report func(done, total int64)) error {
		err := s.Do(ctx, report)
		if objects.LostRace(err) {
			return err
		}
		if errors.Is(err, fault.Conflict) || errors.Is(err, fault.NotFound) {
			return operation.Permanent(err)
		}
		return err
	}
}

// tellEnd writes an event about an instance that ends because its host is
// removed.
func (a *Agent) tellEnd(vmi *kubevirtv1.VirtualMachineInstance, reason, message string) {
	a.view.recorder.Event(vmi, corev1.EventTypeWarning, reason, message)
}
