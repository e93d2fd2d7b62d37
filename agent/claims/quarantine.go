package claims

import (
	"context"
	"slices"
	"strings"

	"virtmesh/agent/objects"
	"virtmesh/agent/skew"
	"virtmesh/raftstore"
)

// A recovery and a restore continue from a copy of the mesh's state, and the hosts may
// have gone on without it: a host may run an instance that the copy does not know, or
// that it shows elsewhere. So every host that the copy records is in quarantine until it
// has the recovered state and runs nothing that it has no claim on, or until it was
// removed. Meanwhile no other host starts an instance of a machine that existed before.

// Quarantine is a host that may run instances that the mesh does not know of.
type Quarantine struct {
	Host string `json:"-"`
	// Began is the revision at which the recovered state began: what was created at or
	// before it may run on the host.
	Began uint64 `json:"began"`

	// Revision is the revision of the stored record, zero if it is not stored.
	Revision uint64 `json:"-"`
}

func quarantineKey(host string) string { return quarantinePrefix + host }

func decodeQuarantine(rec raftstore.Record) (Quarantine, error) {
	q, err := decodeValue[Quarantine](rec)
	q.Host, q.Revision = strings.TrimPrefix(rec.Key, quarantinePrefix), rec.ModRevision
	return q, err
}

// BeginTimeline returns the first writes of a mesh that was recovered, for
// raftstore.Founding: they put the hosts into quarantine, and raise the floor, so that
// every later epoch is above those that the lost part of the mesh may have given out.
// Epochs count the placements of a name, so none of them is near a revision at which a
// recovered state begins.
func BeginTimeline(state raftstore.View, began uint64, hosts []string) []raftstore.Op {
	var ops []raftstore.Op
	state.Ascend(quarantinePrefix, func(rec raftstore.Record) bool {
		ops = append(ops, raftstore.Op{Key: rec.Key, Delete: true})
		return true
	})
	for _, host := range hosts {
		ops = append(ops, raftstore.Op{Key: quarantineKey(host), Value: encodeValue(Quarantine{Began: began})})
	}
	return append(ops, raftstore.Op{Key: floorKey, Value: raisedFloor(state, began)})
}

// raisedFloor returns the record of a floor at epoch. A present record that cannot be read
// is replaced.
func raisedFloor(state raftstore.View, epoch uint64) []byte {
	present, _ := state.Get(floorKey)
	raised := Floor{Epoch: epoch}
	value, err := skew.Rewrite(present.Value, raised)
	if err != nil {
		return encodeValue(raised)
	}
	return value
}

// ListQuarantine lists the hosts in quarantine, in the order of their names.
func ListQuarantine(ctx context.Context, s objects.Store, opts raftstore.ReadOptions) ([]Quarantine, error) {
	var list []Quarantine
	_, err := objects.ListRecords(ctx, s, quarantinePrefix, opts, func(rec raftstore.Record) error {
		q, err := decodeQuarantine(rec)
		list = append(list, q)
		return err
	})
	return list, err
}

// EndQuarantine takes a host out of quarantine: it runs nothing that it has no claim on,
// or it was removed from the mesh.
func EndQuarantine(tx *objects.Tx, q Quarantine) {
	tx.Require(quarantineKey(q.Host), q.Revision)
	tx.Remove(quarantineKey(q.Host))
}

// Quarantine returns the hosts in quarantine, in the order of their names.
func (c *Cache) Quarantine() []Quarantine {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]Quarantine, 0, len(c.quarantine))
	for _, q := range c.quarantine {
		list = append(list, q)
	}
	slices.SortFunc(list, func(a, b Quarantine) int { return strings.Compare(a.Host, b.Host) })
	return list
}
