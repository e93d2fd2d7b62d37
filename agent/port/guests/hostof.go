package guests

import (
	"context"
	"fmt"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/objects"
)

// HostOf returns the function that finds the host of an instance, according to this
// host's informer.
func HostOf(instances *objects.Informer[*kubevirtv1.VirtualMachineInstance]) func(ctx context.Context, namespace, name string) (string, error) {
	return func(_ context.Context, namespace, name string) (string, error) {
		vmi, ok := instances.Get(objects.Key{Namespace: namespace, Name: name})
		if !ok {
			return "", fmt.Errorf("instance %s/%s: %w", namespace, name, fault.NotFound)
		}
		if vmi.Status.NodeName == "" {
			return "", fmt.Errorf("%w: %s/%s has not been placed yet", fault.NotRunning, namespace, name)
		}
		return vmi.Status.NodeName, nil
	}
}
