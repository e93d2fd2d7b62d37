package volumes

import (
	"virtmesh/agent/domainxml"
	"virtmesh/storage/filedisk"
)

// fileDisk describes a disk in a file, with what the file system below it can
// do. That is found out on the file itself each time: it costs an open, and an
// administrator may move a directory to another file system.
func fileDisk(path, format string) domainxml.Disk {
	can := filedisk.Probe(path)
	return domainxml.Disk{
		Type: domainxml.DiskFile, Path: path, Format: format, DirectIO: can.DirectIO,
		LogicalBlockSize: can.BlockSize, PhysicalBlockSize: can.BlockSize,
	}
}
