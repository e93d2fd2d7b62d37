package dir

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"virtmesh/storage"
	"virtmesh/storage/durable"
	"virtmesh/storage/qemuimg"
)

// record is the content of volume.json and snapshot.json.
type record struct {
	Format  storage.Format `json:"format"`
	Created time.Time      `json:"created"`
}

// Get implements storage.Pool.
func (p *Pool) Get(ctx context.Context, name string) (storage.Volume, error) {
	end, err := p.beginOperation(ctx)
	if err != nil {
		return storage.Volume{}, err
	}
	defer end()
	if err := storage.ValidateName(name); err != nil {
		return storage.Volume{}, err
	}
	v, err := p.readVolume(name)
	return v, p.classifyMissing(err)
}

func (p *Pool) readVolume(name string) (storage.Volume, error) {
	rec, size, allocated, err := readDisk(p.volumeDir(name), "volume.json")
	if isMissing(err) {
		return storage.Volume{}, fmt.Errorf("volume %s: %w", name, storage.ErrNotFound)
	}
	if err != nil {
		return storage.Volume{}, fmt.Errorf("volume %s: %w", name, err)
	}
	return storage.Volume{Name: name, Format: rec.Format, Size: size, Allocated: allocated,
		Path: filepath.Join(p.volumeDir(name), diskName(rec.Format)), Created: rec.Created}, nil
}

// readDisk reads a folder that holds a record and a disk.
func readDisk(dir, file string) (rec record, size, allocated int64, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return rec, 0, 0, err
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return rec, 0, 0, fmt.Errorf("%s: %w", file, err)
	}
	if rec.Format != storage.Raw && rec.Format != storage.QCOW2 {
		return rec, 0, 0, fmt.Errorf("%s: format %q", file, rec.Format)
	}
	size, allocated, err = diskSize(filepath.Join(dir, diskName(rec.Format)), rec.Format)
	return rec, size, allocated, err
}

// diskSize returns the size of the virtual disk in the file, and the space that the
// file occupies.
func diskSize(path string, format storage.Format) (size, allocated int64, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	size = fi.Size()
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		allocated = st.Blocks * 512
	}
	if format == storage.QCOW2 {
		info, err := qemuimg.Probe(f, size)
		if err == nil && info.Format != qemuimg.QCOW2 {
			err = errors.New("it is not a qcow2 image")
		}
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		size = info.VirtualSize
	}
	return size, allocated, nil
}

// List implements storage.Pool. Folders that hold no whole volume, which this
// driver does not leave behind, are logged and left out.
func (p *Pool) List(ctx context.Context) ([]storage.Volume, error) {
	end, err := p.beginOperation(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	dirs, err := os.ReadDir(p.volumesDir()) // by name
	if err != nil {
		return nil, fmt.Errorf("list pool %s: %w", p.cfg.Name, err)
	}
	var vols []storage.Volume
	for _, d := range dirs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if storage.ValidateName(d.Name()) != nil || !d.IsDir() {
			continue
		}
		v, err := p.readVolume(d.Name())
		if errors.Is(err, storage.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			p.cfg.Log.Warn("skipping a folder that is not a volume", "pool", p.cfg.Name, "path", p.volumeDir(d.Name()), "err", err)
			continue
		}
		vols = append(vols, v)
	}
	return vols, nil
}

// Delete implements storage.Pool.
func (p *Pool) Delete(ctx context.Context, name string) error {
	end, err := p.beginOperation(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := storage.ValidateName(name); err != nil {
		return err
	}
	unlock, err := p.lockVolume(ctx, name, true)
	if err = p.classifyMissing(err); errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete volume %s: %w", name, err)
	}
	defer unlock()
	// Both formats are checked, whatever the record says: a damaged volume can be
	// deleted too.
	for _, format := range []storage.Format{storage.Raw, storage.QCOW2} {
		if openedByQEMU(filepath.Join(p.volumeDir(name), diskName(format))) {
			return fmt.Errorf("delete volume %s: %w: a virtual machine has it open", name, storage.ErrBusy)
		}
	}
	if err := p.discardFolder(p.volumeDir(name), "volume.json"); err != nil {
		return fmt.Errorf("delete volume %s: %w", name, err)
	}
	return nil
}

// Expand implements storage.Pool.
func (p *Pool) Expand(ctx context.Context, name string, size int64) (storage.Volume, error) {
	end, err := p.beginOperation(ctx)
	if err != nil {
		return storage.Volume{}, err
	}
	defer end()
	if err := storage.ValidateName(name); err != nil {
		return storage.Volume{}, err
	}
	if size <= 0 || size > storage.MaxVolumeSize {
		return storage.Volume{}, fmt.Errorf("expand volume %s: %w: size %d", name, storage.ErrInvalid, size)
	}
	size = storage.AlignSize(size)
	unlock, err := p.lockVolume(ctx, name, true)
	if err != nil {
		return storage.Volume{}, err
	}
	defer unlock()
	v, err := p.readVolume(name)
	if err != nil {
		return storage.Volume{}, err
	}
	if v.Size >= size {
		return v, nil
	}
	if openedByQEMU(v.Path) {
		return storage.Volume{}, fmt.Errorf("expand volume %s: %w: a virtual machine has it open", name, storage.ErrBusy)
	}
	if err := p.growDisk(ctx, v.Path, v.Format, size); err != nil {
		return storage.Volume{}, fmt.Errorf("expand volume %s: %w", name, classify(err))
	}
	return p.readVolume(name)
}

// growDisk makes a disk size bytes large; new bytes are zeros.
func (p *Pool) growDisk(ctx context.Context, path string, format storage.Format, size int64) error {
	if format == storage.QCOW2 {
		return p.cfg.Tool.Resize(ctx, path, qemuimg.QCOW2, size)
	}
	return os.Truncate(path, size)
}

func writeRecord(dir, file string, rec record) error {
	raw, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, file), append(raw, '\n'), 0o644)
}
