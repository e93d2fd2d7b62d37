package claims

import (
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
)

// replaceInstance stores the claim of an instance, or removes it if now is nil, and
// returns the one before. The caller holds c.mu.
func (c *Cache) replaceInstance(uid types.UID, now *Instance) (old *Instance) {
	if old = lookup(c.instances, uid); old != nil {
		for _, host := range old.Hosts() {
			c.onHost.Remove(host, uid)
		}
	}
	if now == nil {
		delete(c.instances, uid)
		return old
	}
	c.instances[uid] = *now
	for _, host := range now.Hosts() {
		c.onHost.Add(host, uid)
	}
	return old
}

// replaceVolume stores the claim on a volume, or removes it if now is nil. The caller
// holds c.mu.
func (c *Cache) replaceVolume(key objects.Key, now *Volume) {
	for _, uid := range c.volumes[key].Holders {
		c.held.Remove(uid, key)
	}
	if now == nil {
		delete(c.volumes, key)
		return
	}
	c.volumes[key] = *now
	for _, uid := range now.Holders {
		c.held.Add(uid, key)
	}
}
