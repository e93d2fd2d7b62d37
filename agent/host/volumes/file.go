package volumes

import (
	"context"

	"virtmesh/agent/host/domain"
	"virtmesh/storage"
	"virtmesh/storage/filedisk"
)

// fileDisk describes a disk in a file of the state directory, with the capabilities of its
// file system. They are probed on the file itself each time: that costs only an open, and
// an administrator may have moved the directory to another file system.
func fileDisk(path, format string) domain.Disk {
	return describeDisk(path, format, filedisk.Probe(path))
}

// diskProber is a pool that probes disks itself, because its file system may hang.
type diskProber interface {
	Disk(ctx context.Context, path string) (filedisk.Properties, error)
}

// volumeDisk describes the disk in a volume of a pool, as fileDisk does.
func volumeDisk(ctx context.Context, pool storage.Pool, volume storage.Volume) (domain.Disk, error) {
	prober, ok := pool.(diskProber)
	if !ok {
		return fileDisk(volume.Path, string(volume.Format)), nil
	}
	can, err := prober.Disk(ctx, volume.Path)
	if err != nil {
		return domain.Disk{}, err
	}
	return describeDisk(volume.Path, string(volume.Format), can), nil
}

func describeDisk(path, format string, can filedisk.Properties) domain.Disk {
	return domain.Disk{
		Type: domain.DiskFile, Path: path, Format: format, DirectIO: can.DirectIO,
		LogicalBlockSize: can.BlockSize, PhysicalBlockSize: can.BlockSize,
	}
}
