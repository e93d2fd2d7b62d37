package volumes

import (
	"virtmesh/agent/host/domain"
	"virtmesh/storage/filedisk"
)

// fileDisk describes a disk in a file, with what the file system below it can
// do. That is found out on the file itself each time: it costs an open, and an
// administrator may move a directory to another file system.
func fileDisk(path, format string) domain.Disk {
	can := filedisk.Probe(path)
	return domain.Disk{
		Type: domain.DiskFile, Path: path, Format: format, DirectIO: can.DirectIO,
		LogicalBlockSize: can.BlockSize, PhysicalBlockSize: can.BlockSize,
	}
}
