package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"virtmesh/storage"
	"virtmesh/storage/durable"
	"virtmesh/storage/sparse"
)

// Snapshot implements storage.Snapshotter: a snapshot is a copy. It shares blocks
// with the volume if the file system can do that.
func (p *Pool) Snapshot(ctx context.Context, volume, name string) (storage.Snapshot, error) {
	end, err := p.beginOperation(ctx)
	if err != nil {
		return storage.Snapshot{}, err
	}
	defer end()
	if err := validNames(volume, name); err != nil {
		return storage.Snapshot{}, err
	}
	unlock, err := p.lockVolume(ctx, volume, true)
	if err != nil {
		return storage.Snapshot{}, err
	}
	defer unlock()
	if _, err := os.Lstat(p.snapshotDir(volume, name)); err == nil {
		return storage.Snapshot{}, fmt.Errorf("snapshot %s of volume %s: %w", name, volume, storage.ErrExists)
	}
	if err := p.makeSnapshot(ctx, volume, name); err != nil {
		return storage.Snapshot{}, fmt.Errorf("snapshot %s of volume %s: %w", name, volume, classify(err))
	}
	return p.readSnapshot(volume, name)
}

func (p *Pool) makeSnapshot(ctx context.Context, volume, name string) error {
	v, err := p.readVolume(volume)
	if err != nil {
		return err
	}
	if err := p.needSpace(v.Allocated); err != nil && !p.info.Capabilities.FastClone {
		return err
	}
	work, err := p.workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	dir := filepath.Join(work, "snapshot")
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	disk := filepath.Join(dir, diskName(v.Format))
	if err := sparse.Copy(ctx, disk, v.Path, nil); err != nil {
		return err
	}
	if err := p.finishDisk(disk); err != nil {
		return err
	}
	return publishFolder(dir, p.snapshotDir(volume, name), "snapshot.json", record{Format: v.Format, Created: time.Now().UTC()})
}

func (p *Pool) readSnapshot(volume, name string) (storage.Snapshot, error) {
	rec, size, allocated, err := readDisk(p.snapshotDir(volume, name), "snapshot.json")
	if isMissing(err) {
		err = storage.ErrNotFound
	}
	if err != nil {
		return storage.Snapshot{}, fmt.Errorf("snapshot %s of volume %s: %w", name, volume, err)
	}
	return storage.Snapshot{Volume: volume, Name: name, Size: size, Allocated: allocated, Created: rec.Created}, nil
}

// Snapshots implements storage.Snapshotter.
func (p *Pool) Snapshots(ctx context.Context, volume string) ([]storage.Snapshot, error) {
	end, err := p.beginOperation(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := storage.ValidateName(volume); err != nil {
		return nil, err
	}
	dirs, err := os.ReadDir(p.snapshotsDir(volume))
	if isMissing(err) {
		return nil, fmt.Errorf("volume %s: %w", volume, storage.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("snapshots of volume %s: %w", volume, err)
	}
	var list []storage.Snapshot
	for _, d := range dirs {
		if storage.ValidateName(d.Name()) != nil {
			continue
		}
		s, err := p.readSnapshot(volume, d.Name())
		if errors.Is(err, storage.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// DeleteSnapshot implements storage.Snapshotter.
func (p *Pool) DeleteSnapshot(ctx context.Context, volume, name string) error {
	end, err := p.beginOperation(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := validNames(volume, name); err != nil {
		return err
	}
	unlock, err := p.lockVolume(ctx, volume, true)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.discardFolder(p.snapshotDir(volume, name), "snapshot.json"); err != nil && !isMissing(err) {
		return fmt.Errorf("delete snapshot %s of volume %s: %w", name, volume, err)
	}
	return nil
}

// Restore implements storage.Snapshotter: it replaces the volume's disk in one step
// by a copy of the snapshot's disk.
func (p *Pool) Restore(ctx context.Context, volume, name string) (storage.Volume, error) {
	end, err := p.beginOperation(ctx)
	if err != nil {
		return storage.Volume{}, err
	}
	defer end()
	if err := validNames(volume, name); err != nil {
		return storage.Volume{}, err
	}
	unlock, err := p.lockVolume(ctx, volume, true)
	if err != nil {
		return storage.Volume{}, err
	}
	defer unlock()
	v, err := p.readVolume(volume)
	if err != nil {
		return storage.Volume{}, err
	}
	if openedByQEMU(v.Path) {
		return storage.Volume{}, fmt.Errorf("restore volume %s: %w: a virtual machine has it open", volume, storage.ErrBusy)
	}
	if err := p.restoreSnapshot(ctx, v, name); err != nil {
		return storage.Volume{}, fmt.Errorf("restore volume %s to %s: %w", volume, name, classify(err))
	}
	return p.readVolume(volume)
}

func (p *Pool) restoreSnapshot(ctx context.Context, v storage.Volume, name string) error {
	s, err := p.readSnapshot(v.Name, name)
	if err != nil {
		return err
	}
	if err := p.needSpace(s.Allocated); err != nil && !p.info.Capabilities.FastClone {
		return err
	}
	work, err := p.workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// A volume keeps its format, so its snapshots have the same.
	disk := filepath.Join(work, diskName(v.Format))
	if err := sparse.Copy(ctx, disk, filepath.Join(p.snapshotDir(v.Name, name), diskName(v.Format)), nil); err != nil {
		return err
	}
	if err := p.finishDisk(disk); err != nil {
		return err
	}
	return durable.Rename(disk, v.Path)
}

func validNames(volume, snapshot string) error {
	if err := storage.ValidateName(volume); err != nil {
		return err
	}
	return storage.ValidateName(snapshot)
}
