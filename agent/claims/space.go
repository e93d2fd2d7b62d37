package claims

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims/rulesv3"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

const spacePrefix = Prefix + "space/"

// Disk is a file system of a host with disks of guests.
type Disk struct {
	// State says that the host's own state is there, and with it what ends with instances.
	State bool `json:"state,omitempty"`
	// Pools are the pools there, sorted, without those that are shared with other hosts.
	Pools []string `json:"pools,omitempty"`
	// Bytes is how much may be promised there.
	Bytes int64 `json:"bytes"`
}

// equal reports whether both are the same.
func (d Disk) equal(o Disk) bool {
	return d.State == o.State && d.Bytes == o.Bytes && slices.Equal(d.Pools, o.Pools)
}

// SameDisks reports whether two hosts' file systems are the same.
func SameDisks(a, b []Disk) bool { return slices.EqualFunc(a, b, Disk.equal) }

// CountsPool reports whether the host has published the file system of a pool. If not, the
// pool is shared with other hosts, or not there, and nothing is counted in it.
func (c Capacity) CountsPool(pool string) bool {
	return slices.ContainsFunc(c.Disks, func(d Disk) bool { return slices.Contains(d.Pools, pool) })
}

// Space is the room that a volume takes in a pool of a host, from the decision to make it
// there until it is deleted.
type Space struct {
	Host string `json:"host"`
	// Namespace and Claim name the PersistentVolumeClaim of the volume.
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// UID is the claim's, as another may get its name.
	UID   types.UID `json:"uid,omitempty"`
	Pool  string    `json:"pool"`
	Bytes int64     `json:"bytes"`
	// For is the instance that was placed on the host to use the volume, until the volume
	// is made: if the instance ends before, the room is free again.
	For types.UID `json:"for,omitempty"`

	// Revision is the revision of the stored record, zero if there is none.
	Revision uint64 `json:"-"`
}

// Key names the claim.
func (s Space) Key() objects.Key { return objects.Key{Namespace: s.Namespace, Name: s.Claim} }

func spaceKey(host string, claim objects.Key) string {
	return spacePrefix + host + "/" + claim.Namespace + "/" + claim.Name
}

// CountsPools reports whether a mesh at a feature level counts what is promised in pools.
func CountsPools(mesh uint32) bool { return mesh >= level.Apart }

// TakeSpace claims room for a volume, which the host must have. The mesh must count pools.
func TakeSpace(tx *objects.Tx, s Space) {
	NoteSpace(tx, s)
	tx.Demand(rulesv3.CallPoolCapacity(s.Host, false, s.Pool))
}

// NoteSpace records the room of a volume that is there, whether the host has too much of them
// or not: from then on no other volume is promised the same room.
func NoteSpace(tx *objects.Tx, s Space) {
	key := spaceKey(s.Host, s.Key())
	tx.Require(key, s.Revision)
	objects.PutValue(tx, key, s)
}

// FreeSpace gives back the room of a volume. It does nothing if s is not stored.
func FreeSpace(tx *objects.Tx, s Space) {
	if s.Revision == 0 {
		return
	}
	key := spaceKey(s.Host, s.Key())
	tx.Require(key, s.Revision)
	tx.Remove(key)
}

// freedAtOnce is how many volumes one transaction forgets, far below raftstore.MaxTxnOps.
const freedAtOnce = 256

// FreeSpacesOn gives back what volumes take on a host that was removed from the mesh. It may
// have done so for some when it returns an error.
func FreeSpacesOn(ctx context.Context, s objects.Store, host string) error {
	var keys []string
	_, err := objects.ListRecords(ctx, s, spacePrefix+host+"/", raftstore.ReadOptions{}, func(rec raftstore.Record) error {
		keys = append(keys, rec.Key)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the volumes on %s: %w", host, err)
	}
	for some := range slices.Chunk(keys, freedAtOnce) {
		var tx objects.Tx
		for _, key := range some {
			tx.Remove(key)
		}
		if _, err := tx.Commit(ctx, s); err != nil {
			return fmt.Errorf("forget volumes on %s: %w", host, err)
		}
	}
	return nil
}

// GetSpace reads the room that the volume of a claim takes on a host. If it takes none, the
// Revision of the result is zero.
func GetSpace(ctx context.Context, s objects.Store, host string, claim objects.Key, opts raftstore.ReadOptions) (Space, error) {
	rec, ok, err := getRecord(ctx, s, spaceKey(host, claim), opts)
	if !ok || err != nil {
		return Space{Host: host, Namespace: claim.Namespace, Claim: claim.Name}, err
	}
	v, err := decodeValue[Space](rec)
	v.Revision = rec.ModRevision
	return v, err
}

// promised is the room that volumes take, by host and claim.
type promised map[string]map[objects.Key]Space

// splitSpace returns host and claim of a store key below spacePrefix.
func splitSpace(storeKey string) (host string, claim objects.Key) {
	host, rest, _ := strings.Cut(strings.TrimPrefix(storeKey, spacePrefix), "/")
	return host, splitKey(rest, "")
}

// setSpace stores the room of a volume, or removes it if now is nil.
func (p promised) setSpace(host string, claim objects.Key, now *Space) {
	if now == nil {
		delete(p[host], claim)
		return
	}
	if p[host] == nil {
		p[host] = map[objects.Key]Space{}
	}
	p[host][claim] = *now
}

// Space returns the room that the volume of a claim takes on a host; ok is false if none.
func (c *Cache) Space(host string, claim objects.Key) (s Space, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s, ok = c.promised[host][claim]
	return s, ok
}

// SpaceOn returns what volumes take on a host, by pool.
func (c *Cache) SpaceOn(host string) map[string]int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(c.promised[host]) == 0 {
		return nil
	}
	taken := map[string]int64{}
	for _, s := range c.promised[host] {
		taken[s.Pool] += s.Bytes
	}
	return taken
}

// SpacesOn returns the volumes that take room on a host, in no order.
func (c *Cache) SpacesOn(host string) []Space {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Collect(maps.Values(c.promised[host]))
}

// diffSpaces returns an event for each host on which volumes take other room than before.
func diffSpaces(old, now promised) []Event {
	return diff(old, now, maps.Equal, func(host string, _, _ *map[objects.Key]Space) Event {
		return Event{Space: &host}
	})
}
