package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"virtmesh/storage"
	"virtmesh/storage/durable"
	"virtmesh/storage/qemuimg"
	"virtmesh/storage/sparse"
)

// Create implements storage.Pool. Preallocate applies to raw volumes only; qcow2
// files grow when they are written to.
func (p *Pool) Create(ctx context.Context, spec storage.VolumeSpec) (storage.Volume, error) {
	end, err := p.beginOperation(ctx)
	if err != nil {
		return storage.Volume{}, err
	}
	defer end()
	if err := spec.Validate(); err != nil {
		return storage.Volume{}, err
	}
	if spec.Format == "" {
		spec.Format = p.cfg.DefaultFormat
	}
	if _, err := os.Lstat(p.volumeDir(spec.Name)); err == nil {
		return storage.Volume{}, fmt.Errorf("create volume %s: %w", spec.Name, storage.ErrExists)
	}
	if err := p.createVolume(ctx, spec); err != nil {
		return storage.Volume{}, fmt.Errorf("create volume %s: %w", spec.Name, classify(err))
	}
	return p.readVolume(spec.Name)
}

func (p *Pool) createVolume(ctx context.Context, spec storage.VolumeSpec) error {
	// A new volume is blank or takes what is checked later, and its guest fills it.
	if err := p.needSpace(0); err != nil {
		return err
	}
	work, err := p.workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	dir := filepath.Join(work, "volume")
	if err := os.MkdirAll(filepath.Join(dir, "snapshots"), 0o711); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600); err != nil {
		return err
	}
	disk := filepath.Join(dir, diskName(spec.Format))
	if err := p.fillDisk(ctx, disk, spec); err != nil {
		return err
	}
	if err := p.finishDisk(disk); err != nil {
		return err
	}
	return publishFolder(dir, p.volumeDir(spec.Name), "volume.json", record{Format: spec.Format, Created: time.Now().UTC()})
}

// fillDisk makes the disk with its first content and size.
func (p *Pool) fillDisk(ctx context.Context, disk string, spec storage.VolumeSpec) error {
	switch src := spec.Source; {
	case src == nil:
		if err := qemuimg.Create(disk, qemuimg.Format(spec.Format), spec.Size); err != nil {
			return err
		}
	case src.File != "":
		if err := p.fillFromFile(ctx, disk, spec); err != nil {
			return err
		}
	default:
		if err := p.fillFromVolume(ctx, disk, spec); err != nil {
			return err
		}
	}
	if spec.Preallocate && spec.Format == storage.Raw {
		return preallocate(disk)
	}
	return nil
}

func (p *Pool) fillFromFile(ctx context.Context, disk string, spec storage.VolumeSpec) error {
	src := spec.Source
	if !filepath.IsAbs(src.File) {
		return fmt.Errorf("%w: source %q is not an absolute path", storage.ErrInvalid, src.File)
	}
	if src.FileFormat == storage.QCOW2 {
		info, err := qemuimg.Inspect(src.File, qemuimg.Limits{MaxVirtualSize: storage.MaxVolumeSize})
		if err == nil && info.Format != qemuimg.QCOW2 {
			err = fmt.Errorf("%w: it is not a qcow2 image", qemuimg.ErrFormat)
		}
		if err != nil {
			return missingSource(err)
		}
	}
	return p.fillFromDisk(ctx, disk, spec, src.File, src.FileFormat)
}

func (p *Pool) fillFromVolume(ctx context.Context, disk string, spec storage.VolumeSpec) error {
	src := spec.Source
	dir, file := p.volumeDir(src.Volume), "volume.json"
	if src.Snapshot != "" {
		dir, file = p.snapshotDir(src.Volume, src.Snapshot), "snapshot.json"
	}
	// Many may copy a disk at once, but a disk to convert is lent to one program. The format
	// of a volume never changes.
	rec, _, _, err := readDisk(dir, file)
	if err != nil {
		return missingSource(err)
	}
	unlock, err := p.lockVolume(ctx, src.Volume, rec.Format != spec.Format)
	if err != nil {
		return err
	}
	defer unlock()
	return p.fillFromDisk(ctx, disk, spec, filepath.Join(dir, diskName(rec.Format)), rec.Format)
}

func missingSource(err error) error {
	if isMissing(err) {
		return fmt.Errorf("source: %w: %w", storage.ErrNotFound, err)
	}
	return fmt.Errorf("source: %w", err)
}

// fillFromDisk copies a disk as it is, or converts it, and grows the copy.
func (p *Pool) fillFromDisk(ctx context.Context, disk string, spec storage.VolumeSpec, from string, format storage.Format) error {
	size, allocated, err := diskSize(from, format)
	if err != nil {
		return missingSource(err)
	}
	if size == 0 {
		return fmt.Errorf("%w: it is empty", storage.ErrUnsafeSource)
	}
	if spec.Size > 0 && size > storage.AlignSize(spec.Size) {
		return fmt.Errorf("%w: size %d is less than the %d bytes of the source", storage.ErrInvalid, spec.Size, size)
	}
	if err := p.needSpace(allocated); err != nil {
		return err
	}
	if format == spec.Format {
		err = sparse.Copy(ctx, disk, from, spec.Progress)
	} else {
		err = p.cfg.Tool.Convert(ctx, from, qemuimg.Format(format), disk, qemuimg.Format(spec.Format))
		if err == nil && spec.Progress != nil {
			spec.Progress(size, size)
		}
	}
	if want := storage.AlignSize(max(spec.Size, size)); err == nil && want > size {
		err = p.growDisk(ctx, disk, spec.Format, want)
	}
	return err
}

func preallocate(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); { // a signal to the process interrupts it
		err = syscall.Fallocate(int(f.Fd()), 0, 0, fi.Size())
	}
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return nil // the file system cannot do it, and Preallocate is a best effort
	}
	if err != nil {
		return fmt.Errorf("preallocate: %w", err)
	}
	return nil
}

// diskMode keeps a disk from all but its owner: that is this process's user, or the
// emulator that libvirt gives the disk to for as long as it runs. The emulators of all
// guests have one group.
const diskMode = 0o600

// finishDisk closes a disk to others and syncs it.
func (p *Pool) finishDisk(disk string) error {
	if err := os.Chmod(disk, diskMode); err != nil {
		return err
	}
	return durable.Sync(disk)
}

// publishFolder writes the record of a finished folder and renames the folder to its
// final name.
func publishFolder(dir, to, file string, rec record) error {
	if err := writeRecord(dir, file, rec); err != nil {
		return err
	}
	if err := durable.Sync(dir); err != nil {
		return err
	}
	err := durable.Rename(dir, to)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: it was created by another call meanwhile", storage.ErrExists)
	}
	return err
}
