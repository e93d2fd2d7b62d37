package ephemeral

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"virtmesh/storage"
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
	p, err := readDisk(path, k)
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
		if err = d.keepOrigin(vm, k); err == nil {
			err = qemuimg.CreateOverlay(made, o.Backing, o.BackingFormat, o.Size)
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
	return readDisk(path, k)
}

// keepOrigin writes down what an overlay is about to be made on.
func (d *Disks) keepOrigin(vm VM, k Disk) error {
	if k.Overlay.Origin == "" {
		return nil
	}
	return d.writeDisk([]byte(k.Overlay.Origin), filepath.Join(d.folder(vm.UID), k.Name+originSuffix))
}

// readDisk describes a disk that is there. Headers are trusted here: a guest writes
// into a qcow2 image, not onto it.
func readDisk(path string, k Disk) (Prepared, error) {
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
	p.Format, p.Size, p.Backing = qemuimg.QCOW2, info.VirtualSize, info.BackingFile
	if (k.Overlay != nil) != (p.Backing != "") {
		return Prepared{}, fmt.Errorf("%w as a disk of another kind", storage.ErrExists)
	}
	if k.Overlay != nil {
		p.BackingFormat = info.BackingFormat
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
	// Not 0400: on a bus without write protection, as SATA is, QEMU opens it for
	// writing. It is this VM's alone, and what it spoils is made anew.
	return p, d.writeDisk(want, path)
}

// writeDisk makes a file of these bytes, in place of what has its name.
func (d *Disks) writeDisk(content []byte, path string) error {
	f, err := os.CreateTemp(d.tmp(), "content-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
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

// publishDisk gives a finished disk its owner and its place. The disk is synced
// before it gets its name, and the folder after: a disk that is found after a loss
// of power is whole. One that is found is used as it is, without another look.
func (d *Disks) publishDisk(made, path string) error {
	if d.cfg.UID >= 0 {
		if err := os.Chown(made, d.cfg.UID, d.cfg.GID); err != nil {
			return err
		}
	}
	if err := os.Chmod(made, 0o600); err != nil {
		return err
	}
	return d.renameDurably(made, path)
}

// renameDurably moves a file or a folder to its place so that the move survives a loss of
// power: what is moved is synced before, and the folder it comes into after.
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
