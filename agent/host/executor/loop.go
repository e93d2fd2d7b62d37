package executor

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// workers bounds how many instances are started, stopped and reported at once. No
// worker waits for an image or for a guest's agent, and some are left when starts hang.
const workers = MaxStarts + 4

// reconcileTimeout bounds one look at an instance. The slowest part is the start of a
// guest whose huge pages must be cleared first.
const reconcileTimeout = 10 * time.Minute

// Controller returns the control loop that calls the executor for each instance on
// this host, whenever the instance or its domain changes.
func (e *Executor) Controller(deps stewards.Deps) (*stewards.Controller, error) {
	c, err := stewards.New(deps, stewards.Steward{
		Name: "executor", Everywhere: true, Reconciler: e, Workers: workers, Timeout: reconcileTimeout,
		Inputs: []stewards.Input{
			stewards.WatchNamed(deps.Cache, "itself, if this host runs it", e.keysHere),
			{What: "domains of this host", Wakes: "the instance of the domain", Source: e},
		},
		Outputs: Outputs(),
	})
	if err != nil {
		return nil, fmt.Errorf("instance executor: %w", err)
	}
	return c, nil
}

// Outputs are what the executor writes, itself and when it prepares and detaches the
// volumes of an instance.
func Outputs() []stewards.Output {
	return append(VolumeOutputs(), stewards.WritesFields[*kubevirtv1.VirtualMachineInstance](
		"status", "metadata.annotations", "metadata.finalizers"))
}

// VolumeOutputs are what is written to provide volumes, by whichever loop of the host:
// the claims, and who holds their volumes.
func VolumeOutputs() []stewards.Output {
	return []stewards.Output{
		stewards.WritesFields[*corev1.PersistentVolumeClaim]("spec.volumeName", "status", "metadata.annotations", "metadata.finalizers"),
		stewards.WritesRecords("claims: instances and volumes", claims.Prefix),
		stewards.WritesEvents(),
	}
}

// keysHere returns the key of an instance that is on this host.
func (e *Executor) keysHere(vmi *kubevirtv1.VirtualMachineInstance) []objects.Key {
	if vmi.Status.NodeName != e.Host {
		return nil
	}
	return []objects.Key{objects.KeyOf(vmi)}
}
