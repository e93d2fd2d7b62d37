package vmi

import (
	"maps"
	"slices"
)

// Resources is an amount of what hosts have and instances need.
type Resources struct {
	// CPUMilli is processor time in thousandths of a CPU.
	CPUMilli int64 `json:"cpuMilli,omitempty"`
	// MemoryBytes is memory in ordinary pages.
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	// EphemeralBytes is space on the host's own file system for data that is removed
	// when its instance ends.
	EphemeralBytes int64 `json:"ephemeralBytes,omitempty"`
	// Hugepages is memory in huge pages, in bytes by PageName.
	Hugepages map[string]int64 `json:"hugepages,omitempty"`
	// Devices counts the host's devices by their resource name.
	Devices map[string]int64 `json:"devices,omitempty"`
}

// Add returns r plus o. Neither is changed.
func (r Resources) Add(o Resources) Resources { return r.combine(o, 1) }

// Sub returns r minus o. Neither is changed.
func (r Resources) Sub(o Resources) Resources { return r.combine(o, -1) }

func (r Resources) combine(o Resources, sign int64) Resources {
	return Resources{
		CPUMilli:       r.CPUMilli + sign*o.CPUMilli,
		MemoryBytes:    r.MemoryBytes + sign*o.MemoryBytes,
		EphemeralBytes: r.EphemeralBytes + sign*o.EphemeralBytes,
		Hugepages:      combineMaps(r.Hugepages, o.Hugepages, sign),
		Devices:        combineMaps(r.Devices, o.Devices, sign),
	}
}

// combineMaps shares a's map when b adds nothing: most instances have neither
// hugepages nor devices, and sums are made often.
func combineMaps(a, b map[string]int64, sign int64) map[string]int64 {
	if len(b) == 0 {
		return a
	}
	out := maps.Clone(a)
	if out == nil {
		out = make(map[string]int64, len(b))
	}
	for k, v := range b {
		if out[k] += sign * v; out[k] == 0 {
			delete(out, k)
		}
	}
	return out
}

// Lacking returns the names of the resources of which want exceeds r, as the
// scheduler of Kubernetes names them, in a fixed order; nil if want fits.
func (r Resources) Lacking(want Resources) []string {
	var out []string
	if want.CPUMilli > r.CPUMilli {
		out = append(out, "cpu")
	}
	if want.MemoryBytes > r.MemoryBytes {
		out = append(out, "memory")
	}
	if want.EphemeralBytes > r.EphemeralBytes {
		out = append(out, "ephemeral-storage")
	}
	if len(want.Hugepages) > 0 {
		for _, size := range slices.Sorted(maps.Keys(want.Hugepages)) {
			if want.Hugepages[size] > r.Hugepages[size] {
				out = append(out, "hugepages-"+size)
			}
		}
	}
	if len(want.Devices) > 0 {
		for _, name := range slices.Sorted(maps.Keys(want.Devices)) {
			if want.Devices[name] > r.Devices[name] {
				out = append(out, name)
			}
		}
	}
	return out
}

// Fits reports whether want is at most r. It does the same as Lacking without
// allocating the names, for placement, which looks at every host.
func (r Resources) Fits(want *Resources) bool {
	if want.CPUMilli > r.CPUMilli || want.MemoryBytes > r.MemoryBytes || want.EphemeralBytes > r.EphemeralBytes {
		return false
	}
	for size, n := range want.Hugepages {
		if n > r.Hugepages[size] {
			return false
		}
	}
	for name, n := range want.Devices {
		if n > r.Devices[name] {
			return false
		}
	}
	return true
}

// Equal reports whether r and o are the same amount.
func (r Resources) Equal(o Resources) bool {
	return r.CPUMilli == o.CPUMilli && r.MemoryBytes == o.MemoryBytes && r.EphemeralBytes == o.EphemeralBytes &&
		maps.Equal(r.Hugepages, o.Hugepages) && maps.Equal(r.Devices, o.Devices)
}
