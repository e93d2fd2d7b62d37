package place

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/gossip"
)

// Volume is a volume that is to be made in a pool of the host.
type Volume struct {
	// Claim and UID are those of its PersistentVolumeClaim.
	Claim string
	UID   types.UID
	Pool  string
	Bytes int64
}

// Disk is a file system of a host.
type Disk struct {
	// State says that what ends with instances is there.
	State bool
	// Pools are the pools there.
	Pools []string
	// Left is what may be promised there, less what is promised to volumes.
	Left int64
}

// MakeVolume adds a volume that is to be made on the host. Repeating it has no further effect.
func (r *Request) MakeVolume(v Volume) {
	if slices.Contains(r.Volumes, v) {
		return
	}
	if r.Pools == nil {
		r.Pools = map[string]int64{}
	}
	r.Volumes = append(r.Volumes, v)
	r.Pools[v.Pool] += v.Bytes
}

// TakesDisk reports whether the request takes room on disk.
func (r *Request) TakesDisk() bool { return r.Resources.EphemeralBytes > 0 || len(r.Pools) > 0 }

// lacksRoom returns why the disks of the host have no room for the request, "" if they have,
// or if the host does not tell.
func (r *Request) lacksRoom(h *hostState) string {
	if !r.TakesDisk() {
		return ""
	}
	if reason := r.lacksPromise(h); reason != "" || len(h.Pools) == 0 {
		return reason
	}
	if room, told := h.Pools[gossip.StateDisk]; told && room < r.Resources.EphemeralBytes {
		return "had too little room on disk for what ends with the instance"
	}
	for _, pool := range slices.Sorted(maps.Keys(r.Pools)) {
		room, usable := h.Pools[pool]
		switch {
		case !usable:
			return "could not use pool " + pool
		case room < r.Pools[pool]:
			return "had too little room in pool " + pool
		}
	}
	return ""
}

// lacksPromise returns why the rule of pools would refuse the request on the host.
func (r *Request) lacksPromise(h *hostState) string {
	for i := range h.Disks {
		d := &h.Disks[i]
		need, left := int64(0), d.Left
		for _, pool := range d.Pools {
			need += r.Pools[pool]
		}
		if d.State {
			need, left = need+r.Resources.EphemeralBytes, left-h.used.EphemeralBytes
		}
		switch {
		case need == 0 || need <= left:
		case len(d.Pools) == 0:
			return "had promised its disk to others"
		default:
			return "had promised the disk of pool " + strings.Join(d.Pools, " and ") + " to others"
		}
	}
	return ""
}
