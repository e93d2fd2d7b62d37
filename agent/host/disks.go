package host

import (
	"virtmesh/agent/claims"
	"virtmesh/agent/host/reserve"
	"virtmesh/agent/host/room"
	"virtmesh/gossip"
	"virtmesh/storage"
)

// disks are the file systems of this host on which guests have disks.
type disks struct {
	state *reserve.Reserve
	pools *poolSet
	// keep is how many bytes new disks leave free on each.
	keep int64
}

// check returns why there is no room for new disks that take ephemeral bytes until their
// instance ends and others in pools. The pools are as they answered last.
func (d disks) check(ephemeral int64, volumes map[string]int64) error {
	if err := d.state.Check(); err != nil {
		return err
	}
	state, err := d.state.Space()
	if err != nil {
		return err
	}
	return room.Check(room.Group(state, d.pools.Space()), d.keep, ephemeral, volumes)
}

// space returns the room as the mesh is told of it, see gossip.Facts.
func (d disks) space() map[string]storage.Space {
	told := d.pools.Space()
	if state, err := d.state.Space(); err == nil {
		told[gossip.StateDisk] = state
	}
	for name, space := range told {
		space.Free = space.Room(d.keep)
		told[name] = space
	}
	return told
}

// claimable returns how much may be promised on each file system, if that is percent of what
// guests can have there; nil until every pool has answered once. Pools that are shared with
// other hosts are no part of it: what others promise there is not known here.
func (d disks) claimable(percent int64) []claims.Disk {
	state, err := d.state.Space()
	if err != nil {
		return nil
	}
	own, known := d.pools.ownSpace()
	if !known {
		return nil
	}
	return room.Claimable(room.Group(state, own), d.keep, percent)
}
