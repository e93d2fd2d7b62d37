package schedule

import (
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule/place"
)

// policy returns the policy in force: the settings of the mesh as this host
// knows them now, and the controller's configuration for everything that is not
// a setting of the mesh.
func (c *Controller) policy() place.Policy {
	config, _ := c.mesh.Get(objects.Key{Name: meshv1alpha1.Name})
	capacity := meshv1alpha1.Effective(config).Capacity
	policy := c.cfg.Policy
	policy.Strategy = place.Strategy(capacity.Strategy)
	policy.CPUAllocationRatio = *capacity.CPUAllocationRatio
	policy.MemoryOvercommitPercent = *capacity.MemoryOvercommitPercent
	policy.ImageOverlayBytes = meshv1alpha1.ImageOverlay(config)
	return policy
}
