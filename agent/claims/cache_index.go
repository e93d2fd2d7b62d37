package claims

import (
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
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

// setQuarantine stores a record of quarantine. The caller holds c.mu.
func (c *Cache) setQuarantine(rec raftstore.Record) (ev Event, ok bool, err error) {
	v, err := decodeQuarantine(rec)
	if err != nil {
		return Event{}, false, err
	}
	c.quarantine[v.Host] = v
	return Event{Quarantine: &v.Host}, true, nil
}

// setSpace stores the record of a volume's room. The caller holds c.mu.
func (c *Cache) setSpace(rec raftstore.Record) (ev Event, ok bool, err error) {
	v, err := decodeValue[Space](rec)
	if err != nil {
		return Event{}, false, err
	}
	v.Revision = rec.ModRevision
	c.promised.setSpace(v.Host, v.Key(), &v)
	return Event{Space: &v.Host}, true, nil
}
