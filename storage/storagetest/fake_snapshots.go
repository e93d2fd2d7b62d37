package storagetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"virtmesh/storage"
)

// Snapshot implements storage.Snapshotter.
func (p *Fake) Snapshot(ctx context.Context, volume, name string) (storage.Snapshot, error) {
	if err := p.begin(ctx, "Snapshot", volume); err != nil {
		return storage.Snapshot{}, err
	}
	defer p.mu.Unlock()
	if err := storage.ValidateName(name); err != nil {
		return storage.Snapshot{}, err
	}
	v, err := p.find(volume)
	if err != nil {
		return storage.Snapshot{}, err
	}
	if _, ok := v.snapshots[name]; ok {
		return storage.Snapshot{}, fmt.Errorf("snapshot %s of volume %s: %w", name, volume, storage.ErrExists)
	}
	v.snapshots[name] = fakeSnapshot{content: v.clone(), created: time.Now()}
	return snapshotOf(volume, name, v.snapshots[name]), nil
}

func snapshotOf(volume, name string, s fakeSnapshot) storage.Snapshot {
	return storage.Snapshot{Volume: volume, Name: name, Size: s.size, Allocated: s.allocated(), Created: s.created}
}

// Snapshots implements storage.Snapshotter.
func (p *Fake) Snapshots(ctx context.Context, volume string) ([]storage.Snapshot, error) {
	if err := p.begin(ctx, "Snapshots", volume); err != nil {
		return nil, err
	}
	defer p.mu.Unlock()
	v, err := p.find(volume)
	if err != nil {
		return nil, err
	}
	var list []storage.Snapshot
	for _, n := range slices.Sorted(maps.Keys(v.snapshots)) {
		list = append(list, snapshotOf(volume, n, v.snapshots[n]))
	}
	return list, nil
}

// DeleteSnapshot implements storage.Snapshotter.
func (p *Fake) DeleteSnapshot(ctx context.Context, volume, name string) error {
	if err := p.begin(ctx, "DeleteSnapshot", volume); err != nil {
		return err
	}
	defer p.mu.Unlock()
	if v := p.vols[volume]; v != nil {
		delete(v.snapshots, name)
	}
	return nil
}

// Restore implements storage.Snapshotter.
func (p *Fake) Restore(ctx context.Context, volume, name string) (storage.Volume, error) {
	if err := p.begin(ctx, "Restore", volume); err != nil {
		return storage.Volume{}, err
	}
	defer p.mu.Unlock()
	v, err := p.find(volume)
	if err != nil {
		return storage.Volume{}, err
	}
	s, ok := v.snapshots[name]
	if !ok {
		return storage.Volume{}, fmt.Errorf("restore volume %s to %s: %w", volume, name, storage.ErrNotFound)
	}
	v.content = s.clone()
	return p.volume(volume, v), nil
}
