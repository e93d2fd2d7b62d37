package schedule

import (
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule/place"
)

// policy is the policy in force: the mesh's settings as this host knows them now,
// and from the controller's configuration what is no setting of the mesh.
func (c *Controller) policy() place.Policy {
	config, _ := c.mesh.Get(objects.Key{Name: meshv1alpha1.Name})
	capacity := meshv1alpha1.Effective(config).Capacity
	policy := c.cfg.Policy
	policy.Strategy = place.Strategy(capacity.Strategy)
	policy.CPUAllocationRatio = *capacity.CPUAllocationRatio
	policy.MemoryOvercommitPercent = *capacity.MemoryOvercommitPercent
	return policy
}
