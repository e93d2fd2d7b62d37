package gossip

import (
	"maps"
	"slices"
)

// Facts is what a member says about itself. The zero value is valid and says
// nothing. Facts handed out by this package are shared between callers and must
// not be modified; use Clone first.
type Facts struct {
	// MeshAddr is the host:port on which the member's agent answers.
	MeshAddr string
	// Zone is the failure domain of the member.
	Zone string
	// Version is the version of the member's agent.
	Version string
	// FeatureLevel is the newest protocol level the member understands.
	FeatureLevel int
	// Allocatable is what the member offers to guests in total.
	Allocatable Resources
	// Free is what is left of Allocatable.
	Free Resources
	// Pools are the member's storage pools by name.
	Pools map[string]Pool
	// Load is the member's load, 1 meaning that every CPU is busy.
	Load float64
	// KVM is true when hardware virtualisation was seen to work.
	KVM bool
	// CPUModels are the guest CPU models the member can run.
	CPUModels []string
	// Images are short digests of the images the member holds.
	Images []string
	// Labels are the labels of the member's node object.
	Labels map[string]string
	// Unschedulable is true when the member must get no new guests.
	Unschedulable bool
}

// Resources is an amount of everything a guest can consume.
type Resources struct {
	CPUMilli    int64
	MemoryBytes int64
	// Hugepages is bytes by page size, Devices counts devices by resource name.
	Hugepages map[string]int64
	Devices   map[string]int64
}

// Pool is the size of a storage pool in bytes.
type Pool struct {
	Capacity int64
	Free     int64
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

func (r Resources) clone() Resources {
	r.Hugepages = maps.Clone(r.Hugepages)
	r.Devices = maps.Clone(r.Devices)
	return r
}
