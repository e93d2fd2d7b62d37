package guests

import (
	"context"
	"fmt"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/objects"
)

// HostOf returns the function that finds the host of an instance. The claim says which
// host that is, never the status, and both come from this host's copy of the state.
func HostOf(instances *objects.Informer[*kubevirtv1.VirtualMachineInstance], held *claims.Cache) func(ctx context.Context, namespace, name string) (string, error) {
	return func(_ context.Context, namespace, name string) (string, error) {
		vmi, ok := instances.Get(objects.Key{Namespace: namespace, Name: name})
		if !ok {
			return "", fmt.Errorf("instance %s/%s: %w", namespace, name, fault.NotFound)
		}
		claim, claimed := held.Instance(vmi.UID)
		switch {
		case claimed:
			return claim.Host, nil
		case vmi.IsFinal():
			return "", fmt.Errorf("%w: %s/%s has ended", fault.NotRunning, namespace, name)
		}
		return "", fmt.Errorf("%w: %s/%s has not been placed yet", fault.NotRunning, namespace, name)
	}
}
