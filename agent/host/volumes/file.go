package volumes

import (
	"virtmesh/agent/host/domain"
	"virtmesh/storage/filedisk"
)

// fileDisk describes a disk in a file, with the capabilities of its file system. They
// are probed on the file itself each time: that costs only an open, and an
// administrator may have moved the directory to another file system.
func fileDisk(path, format string) domain.Disk {
	can := filedisk.Probe(path)
	return domain.Disk{
		Type: domain.DiskFile, Path: path, Format: format, DirectIO: can.DirectIO,
		LogicalBlockSize: can.BlockSize, PhysicalBlockSize: can.BlockSize,
	}
}
