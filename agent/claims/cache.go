package claims

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/multimap"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Cache holds all claims, as the local replica has them.
type Cache struct {
	log *slog.Logger

	mu         sync.RWMutex
	instances  map[types.UID]Instance
	onHost     multimap.Map[string, types.UID]      // instances by Host and Target
	held       multimap.Map[types.UID, objects.Key] // volumes by holder
	epochs     map[objects.Key]Epoch
	floor      Floor
	guards     map[string]uint64
	revision   uint64 // of the last list or change
	capacities map[string]Capacity
	volumes    map[objects.Key]Volume
	migrations map[types.UID]Migration
	quarantine map[string]Quarantine
	promised   promised
	handlers   map[int]func(Event)
	nextID     int
	synced     chan struct{}
	isSynced   bool
	delivery   sync.Mutex // orders the calls of handlers
}

// Event reports a change of claims. At most one of the pointers is set; New is nil for
// a deletion.
type Event struct {
	Instance  *InstanceChange
	Capacity  *CapacityChange
	Volume    *objects.Key
	Migration *types.UID
	Guard     *GuardChange
	// Quarantine is a host that went into quarantine or left it.
	Quarantine *string
	// Space is a host on which volumes take other room than before.
	Space *string
	// Revision, if not zero, says that the handler has received every change up to it.
	Revision uint64
}

// GuardChange is the new revision of a namespace's guard; zero if the guard was
// deleted.
type GuardChange struct {
	Namespace string
	Revision  uint64
}

// InstanceChange is a claim of an instance that was added, changed or removed.
type InstanceChange struct{ Old, New *Instance }

// CapacityChange is a capacity that was added, changed or removed.
type CapacityChange struct{ Old, New *Capacity }

// NewCache returns a cache of claims that is kept up to date by c.
func NewCache(c *objects.Cache, log *slog.Logger) *Cache {
	cache := &Cache{log: log, handlers: map[int]func(Event){}, synced: make(chan struct{})}
	cache.clear()
	c.Records(Prefix, cache)
	return cache
}

func (c *Cache) clear() {
	c.instances = map[types.UID]Instance{}
	c.onHost, c.held = multimap.Map[string, types.UID]{}, multimap.Map[types.UID, objects.Key]{}
	c.epochs, c.floor = map[objects.Key]Epoch{}, Floor{}
	c.capacities = map[string]Capacity{}
	c.volumes = map[objects.Key]Volume{}
	c.migrations = map[types.UID]Migration{}
	c.guards = map[string]uint64{}
	c.quarantine = map[string]Quarantine{}
	c.promised = promised{}
}

// WaitForSync waits until the cache has been filled once.
func (c *Cache) WaitForSync(ctx context.Context) error {
	select {
	case <-c.synced:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Instance returns the claim of an instance.
func (c *Cache) Instance(uid types.UID) (Instance, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	in, ok := c.instances[uid]
	return in, ok
}

// Instances returns all claims of instances, in no order.
func (c *Cache) Instances() []Instance {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Collect(maps.Values(c.instances))
}

// OnHost returns the claims that name the host as Host or as Target.
func (c *Cache) OnHost(host string) []Instance {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []Instance
	for uid := range c.onHost.Values(host) {
		out = append(out, c.instances[uid])
	}
	return out
}

// Epoch returns the last epoch under a name; Revision is zero if there is no record.
func (c *Cache) Epoch(key objects.Key) Epoch {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.epochs[key]
	e.floor = c.floor
	return e
}

// Epochs returns the last epochs of all names.
func (c *Cache) Epochs() map[objects.Key]Epoch {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return maps.Clone(c.epochs)
}

// Floor returns the epoch that every new epoch is above.
func (c *Cache) Floor() Floor {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.floor
}

// Guards returns the revisions of all guards, by namespace.
func (c *Cache) Guards() map[string]uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return maps.Clone(c.guards)
}

// Capacity returns the capacity of a host.
func (c *Cache) Capacity(host string) (Capacity, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	capacity, ok := c.capacities[host]
	return capacity, ok
}

// Volume returns the claim on a volume; it has no holders if there is none.
func (c *Cache) Volume(key objects.Key) Volume {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if v, ok := c.volumes[key]; ok {
		return v
	}
	return Volume{Namespace: key.Namespace, Claim: key.Name}
}

// VolumesOf returns the claims on volumes that the instance holds.
func (c *Cache) VolumesOf(uid types.UID) []Volume {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []Volume
	for key := range c.held.Values(uid) {
		out = append(out, c.volumes[key])
	}
	return out
}

// Migration returns the slot of a migration.
func (c *Cache) Migration(uid types.UID) (Migration, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	m, ok := c.migrations[uid]
	return m, ok
}

// Migrations returns the slots of all running migrations, in no order.
func (c *Cache) Migrations() []Migration {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Collect(maps.Values(c.migrations))
}

// AddHandler calls fn for every capacity, every claim of an instance, every guard, every
// host in quarantine and every host with volumes that exists now, and then for every change, one call at a time, until cancel is
// called. fn must return quickly and must not call AddHandler or cancel.
func (c *Cache) AddHandler(fn func(Event)) (cancel func()) {
	c.delivery.Lock()
	defer c.delivery.Unlock()
	c.mu.Lock()
	id := c.nextID
	c.nextID++
	c.handlers[id] = fn
	events := diffCapacities(nil, c.capacities)
	events = append(events, diffInstances(nil, c.instances)...)
	events = append(events, diffGuards(nil, c.guards)...)
	events = append(events, diffQuarantine(nil, c.quarantine)...)
	events = append(events, diffSpaces(nil, c.promised)...)
	events = append(events, Event{Revision: c.revision})
	c.mu.Unlock()
	for _, ev := range events {
		fn(ev)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.handlers, id)
	}
}

// Reset implements objects.Sink.
func (c *Cache) Reset(recs []raftstore.Record, revision uint64) {
	c.delivery.Lock()
	defer c.delivery.Unlock()
	c.mu.Lock()
	oldInstances, oldCapacities, oldGuards, oldQuarantine, oldPromised := c.instances, c.capacities, c.guards, c.quarantine, c.promised
	c.clear()
	c.revision = revision
	for _, rec := range recs {
		c.setRecord(rec)
	}
	events := diffInstances(oldInstances, c.instances)
	events = append(events, diffCapacities(oldCapacities, c.capacities)...)
	// Report guards after the claims that they may concern.
	events = append(events, diffGuards(oldGuards, c.guards)...)
	events = append(events, diffQuarantine(oldQuarantine, c.quarantine)...)
	events = append(events, diffSpaces(oldPromised, c.promised)...)
	events = append(events, Event{Revision: revision})
	c.mu.Unlock()
	c.deliverEvents(events...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isSynced {
		c.isSynced = true
		close(c.synced)
	}
}

// Apply implements objects.Sink.
func (c *Cache) Apply(ev raftstore.Event) {
	c.delivery.Lock()
	defer c.delivery.Unlock()
	c.mu.Lock()
	var out Event
	var ok bool
	if ev.Type == raftstore.Put {
		out, ok = c.setRecord(ev.Record)
	} else {
		out, ok = c.unsetRecord(ev.Record.Key)
	}
	if !ok {
		out = Event{}
	}
	c.revision = max(c.revision, ev.Revision)
	out.Revision = c.revision
	c.mu.Unlock()
	c.deliverEvents(out)
}

// setRecord stores one record. The caller holds c.mu. A record that cannot be decoded
// is logged and skipped: this release writes no such record.
func (c *Cache) setRecord(rec raftstore.Record) (ev Event, ok bool) {
	var err error
	rec = rec.Expand()
	switch {
	case strings.HasPrefix(rec.Key, instancePrefix):
		var v Instance
		if v, err = decodeValue[Instance](rec); err == nil {
			v.Revision, ok = rec.ModRevision, true
			ev.Instance = &InstanceChange{Old: c.replaceInstance(v.UID, &v), New: &v}
		}
	case strings.HasPrefix(rec.Key, epochPrefix):
		var v Epoch
		if v, err = decodeValue[Epoch](rec); err == nil {
			v.Revision = rec.ModRevision
			c.epochs[splitKey(rec.Key, epochPrefix)] = v
		}
	case rec.Key == floorKey:
		var v Floor
		if v, err = decodeValue[Floor](rec); err == nil {
			v.Revision = rec.ModRevision
			c.floor = v
		}
	case strings.HasPrefix(rec.Key, capacityPrefix):
		var v Capacity
		if v, err = decodeValue[Capacity](rec); err == nil {
			v.Revision = rec.ModRevision
			ev.Capacity = &CapacityChange{Old: lookup(c.capacities, v.Host), New: &v}
			c.capacities[v.Host], ok = v, true
		}
	case strings.HasPrefix(rec.Key, volumePrefix):
		var v Volume
		if v, err = decodeValue[Volume](rec); err == nil {
			v.Revision = rec.ModRevision
			key := splitKey(rec.Key, volumePrefix)
			c.replaceVolume(key, &v)
			ev.Volume, ok = &key, true
		}
	case strings.HasPrefix(rec.Key, migrationPrefix):
		var v Migration
		if v, err = decodeValue[Migration](rec); err == nil {
			v.Revision = rec.ModRevision
			c.migrations[v.UID], ev.Migration, ok = v, &v.UID, true
		}
	case strings.HasPrefix(rec.Key, quarantinePrefix):
		ev, ok, err = c.setQuarantine(rec)
	case strings.HasPrefix(rec.Key, spacePrefix):
		ev, ok, err = c.setSpace(rec)
	case strings.HasPrefix(rec.Key, guardPrefix):
		ns := strings.TrimPrefix(rec.Key, guardPrefix)
		c.guards[ns], ok = rec.ModRevision, true
		ev.Guard = &GuardChange{ns, rec.ModRevision}
	}
	if err != nil {
		c.log.Error("skipping a claim that cannot be decoded", "key", rec.Key, "err", err)
	}
	return ev, ok
}

// unsetRecord removes one record. The caller holds c.mu.
func (c *Cache) unsetRecord(storeKey string) (ev Event, ok bool) {
	switch {
	case strings.HasPrefix(storeKey, instancePrefix):
		uid := types.UID(strings.TrimPrefix(storeKey, instancePrefix))
		ev.Instance = &InstanceChange{Old: c.replaceInstance(uid, nil)}
		return ev, ev.Instance.Old != nil
	case strings.HasPrefix(storeKey, epochPrefix):
		delete(c.epochs, splitKey(storeKey, epochPrefix))
	case strings.HasPrefix(storeKey, capacityPrefix):
		host := strings.TrimPrefix(storeKey, capacityPrefix)
		ev.Capacity = &CapacityChange{Old: lookup(c.capacities, host)}
		delete(c.capacities, host)
		return ev, ev.Capacity.Old != nil
	case strings.HasPrefix(storeKey, volumePrefix):
		key := splitKey(storeKey, volumePrefix)
		c.replaceVolume(key, nil)
		return Event{Volume: &key}, true
	case strings.HasPrefix(storeKey, migrationPrefix):
		uid := types.UID(strings.TrimPrefix(storeKey, migrationPrefix))
		delete(c.migrations, uid)
		return Event{Migration: &uid}, true
	case strings.HasPrefix(storeKey, quarantinePrefix):
		host := strings.TrimPrefix(storeKey, quarantinePrefix)
		delete(c.quarantine, host)
		return Event{Quarantine: &host}, true
	case strings.HasPrefix(storeKey, spacePrefix):
		host, claim := splitSpace(storeKey)
		c.promised.setSpace(host, claim, nil)
		return Event{Space: &host}, true
	case strings.HasPrefix(storeKey, guardPrefix):
		ns := strings.TrimPrefix(storeKey, guardPrefix)
		delete(c.guards, ns)
		return Event{Guard: &GuardChange{Namespace: ns}}, true
	}
	return ev, false
}

func lookup[K comparable, V any](m map[K]V, key K) *V {
	if v, ok := m[key]; ok {
		return &v
	}
	return nil
}

func splitKey(storeKey, prefix string) objects.Key {
	ns, name, _ := strings.Cut(strings.TrimPrefix(storeKey, prefix), "/")
	return objects.Key{Namespace: ns, Name: name}
}
