package gossip

import (
	"maps"
	"slices"
)

// Facts is what a member announces about itself. The zero value is valid and says
// nothing. Facts returned by this package are shared between callers and must not be
// modified; modify a Clone.
type Facts struct {
	// MeshAddr is the host:port on which the member's agent answers.
	MeshAddr string
	// Zone is the failure domain of the member.
	Zone string
	// Version is the version of the member's agent.
	Version string
	// LowestFeatureLevel and FeatureLevel are the lowest and the highest feature level of
	// the mesh that the member's version knows.
	LowestFeatureLevel int
	FeatureLevel       int
	// Allocatable is the total amount that the member offers to guests.
	Allocatable Resources
	// Free is the part of Allocatable that is not taken.
	Free Resources
	// Pools are the member's storage pools by name that can be used, and as StateDisk the
	// file system of its own state.
	Pools map[string]Pool
	// Load is the member's load, 1 meaning that every CPU is busy.
	Load float64
	// KVM is true if hardware virtualisation has been tested and works.
	KVM bool
	// CPUModels are the guest CPU models the member can run.
	CPUModels []string
	// Images are short digests of the disk images that the member has stored.
	Images []string
	// Labels are the labels of the member's node object.
	Labels map[string]string
	// Unschedulable is true if no new guests may be placed on the member.
	Unschedulable bool
	// Idle is true if the member runs, and cannot take any decision.
	Idle bool
	// Keys is the Fingerprint of the keys that the member has. The package fills it in.
	Keys string
	// Trust names the set of CAs that the member trusts, and SignedBy the CA that signed its
	// certificate. What they are is the caller's matter.
	Trust, SignedBy string
}

// Resources is an amount of each resource that a guest can consume.
type Resources struct {
	CPUMilli    int64
	MemoryBytes int64
	// Hugepages holds bytes by page size, Devices the number of devices by resource
	// name.
	Hugepages map[string]int64
	Devices   map[string]int64
}

// StateDisk is the key in Facts.Pools of the file system of the member's own state, which
// has also the disks that end with their guest. No pool has this name.
const StateDisk = ""

// Pool is the size of a storage pool in bytes.
type Pool struct {
	Capacity int64
	// Free is what new disks may take: what is free, less what the member keeps free.
	Free int64
}

// Clone returns a deep copy.
func (f Facts) Clone() Facts {
	f.Allocatable = f.Allocatable.clone()
	f.Free = f.Free.clone()
	f.Pools = maps.Clone(f.Pools)
	f.CPUModels = slices.Clone(f.CPUModels)
	f.Images = slices.Clone(f.Images)
	f.Labels = maps.Clone(f.Labels)
	return f
}

// fit leaves out what makes f too large to gossip, the least useful first. Without the
// names of images a guest may start on a host that must pull its image. Labels are in
// the member's node object as well.
func (f *Facts) fit() {
	for len(encodeSection(sectionHost, f)) > maxSection {
		switch {
		case len(f.Images) > 1:
			f.Images = f.Images[:len(f.Images)/2]
		case len(f.Images) > 0:
			f.Images = nil
		case len(f.Labels) > 0:
			f.Labels = nil
		default:
			return
		}
	}
}

func (r Resources) clone() Resources {
	r.Hugepages = maps.Clone(r.Hugepages)
	r.Devices = maps.Clone(r.Devices)
	return r
}
