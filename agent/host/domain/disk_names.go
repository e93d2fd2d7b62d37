package domain

import (
	v1 "kubevirt.io/api/core/v1"
)

// deviceNames assigns the target names vda, vdb ..., sda, sdb .... A disk that has a
// target name in the status keeps it, so that plugging or unplugging a disk does not
// rename the others.
type deviceNames struct {
	kept map[string]string
	used map[string]bool
}

func newDeviceNames(status []v1.VolumeStatus) *deviceNames {
	n := &deviceNames{kept: map[string]string{}, used: map[string]bool{}}
	for _, s := range status {
		if s.Target != "" && !n.used[s.Target] {
			n.kept[s.Name] = s.Target
			n.used[s.Target] = true
		}
	}
	return n
}

// next returns the target name of the disk called name on bus.
func (n *deviceNames) next(name string, bus v1.DiskBus) string {
	prefix := "sd"
	if bus == v1.DiskBusVirtio {
		prefix = "vd"
	}
	if kept := n.kept[name]; len(kept) > len(prefix) && kept[:len(prefix)] == prefix {
		return kept
	}
	for i := 0; ; i++ {
		candidate := prefix + letters(i)
		if !n.used[candidate] {
			n.used[candidate] = true
			return candidate
		}
	}
}

// letters counts a, b ... z, aa, ab ..., as the kernel names disks.
func letters(i int) string {
	const alphabet = 26
	s := ""
	for ; i >= 0; i = i/alphabet - 1 {
		s = string(rune('a'+i%alphabet)) + s
	}
	return s
}
