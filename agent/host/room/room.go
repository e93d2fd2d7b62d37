// Package room knows the file systems on which a host keeps the disks of guests, and how much
// new disks may take there. Pools may share a file system with each other and with the host's
// own state; what is promised to one is then gone for the others. It is pure.
package room

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"virtmesh/agent/claims"
	"virtmesh/storage"
)

// Disk is a file system with disks of guests.
type Disk struct {
	// State says that the host's own state is there, and with it the disks that end with
	// their instance.
	State bool
	// Pools are the pools of volumes there, by name, sorted.
	Pools []string
	// Space is its size, and what is free.
	Space storage.Space
}

// Group returns the file systems of a host: that of its state, and those of its pools.
func Group(state storage.Space, pools map[string]storage.Space) []Disk {
	disks := []Disk{{State: true, Space: state}}
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		i := slices.IndexFunc(disks, func(d Disk) bool { return d.Space.Device == pools[name].Device })
		if i < 0 {
			i, disks = len(disks), append(disks, Disk{Space: pools[name]})
		}
		disks[i].Pools = append(disks[i].Pools, name)
	}
	return disks
}

// Check returns storage.ErrNoSpace unless the disks have room for ephemeral bytes that end with
// their instance and for the bytes of volumes, by pool, beside the reserve.
func Check(disks []Disk, reserve, ephemeral int64, pools map[string]int64) error {
	usable := map[string]bool{}
	for _, d := range disks {
		need := int64(0)
		if d.State {
			need = ephemeral
		}
		for _, name := range d.Pools {
			usable[name] = true
			need += pools[name]
		}
		if room := d.Space.Room(reserve); need > room {
			return fmt.Errorf("%w: %d MiB are needed %s, and new disks may take %d MiB there", storage.ErrNoSpace, need>>20, d.where(), room>>20)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		if !usable[name] {
			return fmt.Errorf("the host cannot use pool %s", name)
		}
	}
	return nil
}

// where names the file system for people.
func (d Disk) where() string {
	if len(d.Pools) == 0 {
		return "on the disk of the host's state"
	}
	return "on the disk of pool " + strings.Join(d.Pools, " and ")
}

// Claimable returns how much may be promised on each of the disks: percent of what is there
// beside the reserve, and of the disk of the host's state beside the tenth that is the host's.
func Claimable(disks []Disk, reserve, percent int64) []claims.Disk {
	claimable := []claims.Disk{}
	for _, d := range disks {
		keep := d.Space.Reserve(reserve)
		if d.State {
			keep = d.Space.Capacity / 10
		}
		claimable = append(claimable, claims.Disk{State: d.State, Pools: d.Pools, Bytes: (d.Space.Capacity - keep) / 100 * percent})
	}
	return claimable
}
