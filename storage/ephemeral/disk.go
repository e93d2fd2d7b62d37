package ephemeral

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"virtmesh/storage"
	"virtmesh/storage/durable"
	"virtmesh/storage/qemuimg"
)

func (d *Disks) path(vm VM, k Disk) string {
	suffix := ".iso"
	switch {
	case k.Overlay != nil, k.Empty != nil && k.Empty.Format == qemuimg.QCOW2:
		suffix = ".qcow2"
	case k.Empty != nil:
		suffix = ".img"
	}
	return filepath.Join(d.folder(vm.UID), k.Name+suffix)
}

func (d *Disks) prepareDisk(vm VM, k Disk) (Prepared, error) {
	path := d.path(vm, k)
	if k.Content != nil {
		return d.prepareContent(path, k)
	}
	p, err := d.readDisk(vm, k)
	if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	work, err := os.MkdirTemp(d.tmp(), "disk-")
	if err != nil {
		return Prepared{}, err
	}
	defer os.RemoveAll(work)
	made := filepath.Join(work, filepath.Base(path))
	if o := k.Overlay; o != nil {
		if !filepath.IsAbs(o.Backing) {
			return Prepared{}, fmt.Errorf("%w: backing image %q is not an absolute path", storage.ErrInvalid, o.Backing)
		}
		if err = qemuimg.CreateOverlay(made, o.Backing, o.BackingFormat, o.Size); err == nil {
			err = d.keepOrigin(vm, k)
		}
	} else {
		err = qemuimg.Create(made, k.Empty.Format, k.Empty.Size)
	}
	if err != nil {
		return Prepared{}, classifyNoSpace(err)
	}
	if err := d.publishDisk(made, path); err != nil {
		return Prepared{}, err
	}
	return d.readDisk(vm, k)
}

// below records the image below an overlay.
type below struct {
	Path   string         `json:"path"`
	Format qemuimg.Format `json:"format"`
}

// keepOrigin stores the record and the description of the image below an overlay,
// before the overlay gets its final name. Unlike the disks, these files belong to this
// process, so QEMU's user cannot change them.
func (d *Disks) keepOrigin(vm VM, k Disk) error {
	raw, err := json.Marshal(below{Path: k.Overlay.Backing, Format: k.Overlay.BackingFormat})
	if err != nil {
		return err
	}
	if err := durable.WriteFile(d.recordPath(vm, k, belowSuffix), raw, 0o600); err != nil {
		return classifyNoSpace(err)
	}
	if k.Overlay.Origin == "" {
		return nil
	}
	return classifyNoSpace(durable.WriteFile(d.recordPath(vm, k, originSuffix), []byte(k.Overlay.Origin), 0o600))
}

func (d *Disks) recordPath(vm VM, k Disk, suffix string) string {
	return filepath.Join(d.folder(vm.UID), k.Name+suffix)
}

// madeOn returns the record of the image below an overlay. An overlay without a record
// was made by an agent that kept none; then only the requested image can be below it.
func (d *Disks) madeOn(vm VM, k Disk) (below, error) {
	raw, err := os.ReadFile(d.recordPath(vm, k, belowSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return below{Path: k.Overlay.Backing, Format: k.Overlay.BackingFormat}, nil
	}
	var on below
	if err == nil {
		err = json.Unmarshal(raw, &on)
	}
	return on, err
}

// readDisk describes a disk that exists. A guest that has taken over its QEMU can write
// to the file, and so change the header of the image. So only the size is taken from
// the header, and the rest must agree with what was recorded when the disk was made.
func (d *Disks) readDisk(vm VM, k Disk) (Prepared, error) {
	path := d.path(vm, k)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return Prepared{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Prepared{}, err
	}
	p := Prepared{Name: k.Name, Path: path, Format: qemuimg.Raw, Size: fi.Size()}
	if filepath.Ext(path) != ".qcow2" {
		return p, nil
	}
	info, err := qemuimg.Probe(f, fi.Size())
	if err != nil {
		return Prepared{}, err
	}
	p.Format, p.Size = qemuimg.QCOW2, info.VirtualSize
	if (k.Overlay != nil) != (info.BackingFile != "") {
		return Prepared{}, fmt.Errorf("%w as a disk of another kind", storage.ErrExists)
	}
	if k.Overlay != nil {
		on, err := d.madeOn(vm, k)
		if err != nil {
			return Prepared{}, err
		}
		if info.BackingFile != on.Path || info.BackingFormat != on.Format {
			return Prepared{}, fmt.Errorf("%w: it was made on %s image %q and now names %s image %q: delete the instance to discard the disk",
				qemuimg.ErrUnsafe, on.Format, on.Path, info.BackingFormat, info.BackingFile)
		}
		p.Backing, p.BackingFormat = on.Path, on.Format
		info.BackingFile = ""
	}
	if err := info.Check(qemuimg.Limits{}); err != nil {
		return Prepared{}, err
	}
	return p, nil
}

func (d *Disks) prepareContent(path string, k Disk) (Prepared, error) {
	want := k.Content
	if size := max(storage.AlignSize(int64(len(want))), storage.SizeAlignment); size != int64(len(want)) {
		want = append(bytes.Clone(want), make([]byte, size-int64(len(want)))...)
	}
	p := Prepared{Name: k.Name, Path: path, Format: qemuimg.Raw, Size: int64(len(want)), ReadOnly: true}
	if hasContent(path, want) {
		return p, nil
	}
	// The mode is not 0400, because on a bus without write protection, such as SATA,
	// QEMU opens the disk for writing. The disk belongs to this VM alone, and Prepare
	// replaces it if its content was changed.
	return p, d.writeDisk(want, path)
}

// writeDisk writes a file of these bytes and replaces the file of that name.
func (d *Disks) writeDisk(content []byte, path string) error {
	f, err := os.CreateTemp(d.tmp(), "content-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it was renamed if all went well
	_, err = f.Write(content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return classifyNoSpace(err)
	}
	return d.publishDisk(f.Name(), path)
}

func hasContent(path string, want []byte) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	got, err := io.ReadAll(io.LimitReader(f, int64(len(want))+1))
	return err == nil && bytes.Equal(got, want)
}

// publishDisk closes a finished disk to others and renames it to its final name. It
// syncs the disk before and the folder afterwards, so a disk that exists after a loss
// of power is whole.
func (d *Disks) publishDisk(made, path string) error {
	if err := os.Chmod(made, 0o600); err != nil {
		return err
	}
	return d.renameDurably(made, path)
}

// renameDurably renames a file or a folder so that the new name survives a loss of
// power: it syncs the file or folder before, and the folder that has the new name
// afterwards.
func (d *Disks) renameDurably(made, path string) error {
	if err := d.sync(made); err != nil {
		return err
	}
	if err := os.Rename(made, path); err != nil {
		return err
	}
	return d.sync(filepath.Dir(path))
}

func classifyNoSpace(err error) error {
	if errors.Is(err, qemuimg.ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", storage.ErrNoSpace, err)
	}
	return err
}
