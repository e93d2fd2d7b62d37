// Package ephemeral keeps the disks that exist only during one run of a virtual
// machine: overlays above cached images, empty disks, and small disks with given
// content (seeds, config maps). Each virtual machine instance has one folder, named
// by its UID, so that its disks have the same path on every host.
//
//	<dir>/<uid>/vm.json        the virtual machine that the folder belongs to, and the
//	                           uid that its emulator has
//	<dir>/<uid>/sockets/       sockets of the run, which only this process's user may reach
//	<dir>/<uid>/<disk>.qcow2   an overlay, or an empty qcow2 disk
//	<dir>/<uid>/<disk>.origin  a description of the image below an overlay
//	<dir>/<uid>/<disk>.below   the image below an overlay: its path and format
//	<dir>/<uid>/<disk>.img     an empty raw disk
//	<dir>/<uid>/<disk>.iso     a disk with given content
//	<dir>/.tmp/                files and folders that are being made or removed
//
// Prepare and Remove may be repeated at any time, even after a crash in the middle
// of either. A disk that exists stays as it is, with the data that the guest has
// written. Prepare makes a missing disk whole or not at all.
//
// Nobody but their owner can read disks, because a seed contains passwords. They are made
// as this process's, and libvirt gives them to the emulator that it starts. The other files
// stay this process's: QEMU may rewrite the header of its disk, and what was written down
// tells. QEMU's group can pass through the folders but not list them.
//
// The package does not know whether the virtual machine runs, and does not hold
// the images under the overlays: the caller gets their paths and must hold them.
package ephemeral

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"virtmesh/storage"
	"virtmesh/storage/durable"
	"virtmesh/storage/qemuimg"
)

// Config says where disks are kept, and which user owns them.
type Config struct {
	Dir string
	// GID is QEMU's group, which may pass through the folders; -1 for none.
	GID int
	// Users are the uids that User gives. Without a range it gives none.
	Users UserRange
	Log   *slog.Logger
}

// DefaultConfig returns the settings for disks in dir that no group can reach.
func DefaultConfig(dir string) Config {
	return Config{Dir: dir, GID: -1, Log: slog.New(slog.DiscardHandler)}
}

// Validate returns an error that names an invalid field of c.
func (c Config) Validate() error {
	switch {
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("ephemeral disks: Dir %q is not an absolute path", c.Dir)
	case c.Log == nil:
		return errors.New("ephemeral disks: Log is not set")
	}
	if c.Users.Count == 0 {
		return nil
	}
	if err := c.Users.Validate(); err != nil {
		return fmt.Errorf("ephemeral disks: Users.%w", err)
	}
	return nil
}

// VM is one run of a virtual machine.
type VM struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

// Disk is a disk that the caller wants; exactly one of Overlay, Empty and Content
// is set and gives its kind.
type Disk struct {
	// Name follows storage.ValidateName and is unique in its VM.
	Name    string
	Overlay *Overlay
	Empty   *Empty
	// Content is the content of a raw disk that the guest should not write to. It is
	// padded with zeros to whole sectors. If the disk exists and has other content, it
	// is replaced.
	Content []byte
}

// Overlay is a qcow2 disk above a backing image.
type Overlay struct {
	// Backing is the absolute path of an image that does not change.
	Backing       string
	BackingFormat qemuimg.Format
	// Size is the size of the overlay in bytes; 0 takes that of the backing image.
	Size int64
	// Origin is a line in which the caller describes the backing image. It is stored
	// beside the overlay; Origins returns it.
	Origin string
}

// Empty is a disk of zeros.
type Empty struct {
	Size   int64
	Format qemuimg.Format
}

// Prepared describes a disk that exists.
type Prepared struct {
	Name   string
	Path   string
	Format qemuimg.Format
	Size   int64
	// ReadOnly says that the disk should be read-only for the guest, if its bus
	// supports that.
	ReadOnly bool
	// Backing is the image below an overlay. If the overlay existed before, this may be
	// another image than the requested one.
	Backing       string
	BackingFormat qemuimg.Format
}

// Disks is a folder of ephemeral disks. All methods may be called at once;
// operations on one VM are done one after the other.
type Disks struct {
	cfg Config
	// sync writes the changes of the file or folder at path to the disk below it.
	// Tests put another function here to see what is synced, and when.
	sync func(path string) error

	mu   sync.Mutex
	busy map[string]chan struct{} // closed when the VM's operation ends

	// giving is held from reading which uids are taken until another one is noted.
	giving sync.Mutex
}

// New opens the folder, makes it if it is missing, and removes unfinished disks. One
// process at a time may use it.
func New(cfg Config) (*Disks, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Disks{cfg: cfg, sync: durable.Sync, busy: map[string]chan struct{}{}}
	if err := os.RemoveAll(d.tmp()); err != nil {
		return nil, fmt.Errorf("ephemeral disks: %w", err)
	}
	for _, dir := range []string{cfg.Dir, d.tmp()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("ephemeral disks: %w", err)
		}
	}
	return d, nil
}

// note is the name of the file that says which VM a folder belongs to. originSuffix and
// belowSuffix end the names of the files that describe the image below an overlay: the
// former for people, the latter for readDisk.
const (
	note         = "vm.json"
	originSuffix = ".origin"
	belowSuffix  = ".below"
)

func (d *Disks) tmp() string              { return filepath.Join(d.cfg.Dir, ".tmp") }
func (d *Disks) folder(uid string) string { return filepath.Join(d.cfg.Dir, uid) }

// waitTurn waits until no other operation on the same VM is under way.
func (d *Disks) waitTurn(ctx context.Context, uid string) (end func(), err error) {
	if err := storage.ValidateName(uid); err != nil {
		return nil, fmt.Errorf("UID: %w", err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d.mu.Lock()
		other, taken := d.busy[uid]
		if !taken {
			mine := make(chan struct{})
			d.busy[uid] = mine
			d.mu.Unlock()
			return func() {
				d.mu.Lock()
				delete(d.busy, uid)
				d.mu.Unlock()
				close(mine)
			}, nil
		}
		d.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Prepare makes the wanted disks of vm that do not exist yet, and returns all wanted
// disks in the same order. Other disks of vm stay.
func (d *Disks) Prepare(ctx context.Context, vm VM, disks []Disk) ([]Prepared, error) {
	end, err := d.waitTurn(ctx, vm.UID)
	if err != nil {
		return nil, fmt.Errorf("ephemeral disks of %s/%s: %w", vm.Namespace, vm.Name, err)
	}
	defer end()
	if err := d.makeFolder(vm); err != nil {
		return nil, fmt.Errorf("ephemeral disks of %s/%s: %w", vm.Namespace, vm.Name, err)
	}
	seen := map[string]bool{}
	var out []Prepared
	for _, disk := range disks {
		err := disk.validate()
		if err == nil && seen[disk.Name] {
			err = fmt.Errorf("%w: there are two of that name", storage.ErrInvalid)
		}
		seen[disk.Name] = true
		var p Prepared
		if err == nil {
			p, err = d.prepareDisk(vm, disk)
		}
		if err != nil {
			return nil, fmt.Errorf("ephemeral disk %s of %s/%s: %w", disk.Name, vm.Namespace, vm.Name, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func (k Disk) validate() error {
	if err := storage.ValidateName(k.Name); err != nil {
		return err
	}
	kinds := 0
	for _, is := range []bool{k.Overlay != nil, k.Empty != nil, k.Content != nil} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return fmt.Errorf("%w: %d of Overlay, Empty and Content are set, not one", storage.ErrInvalid, kinds)
	}
	return nil
}

// makeFolder makes a VM's folder, with its note, in one step.
func (d *Disks) makeFolder(vm VM) error {
	if _, err := os.Lstat(d.folder(vm.UID)); err == nil {
		return nil
	}
	work, err := os.MkdirTemp(d.tmp(), "folder-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) // it was renamed if all went well
	raw, err := json.Marshal(noted{VM: vm})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, note), raw, 0o600); err != nil {
		return err
	}
	if err := d.sync(filepath.Join(work, note)); err != nil {
		return err
	}
	if d.cfg.GID >= 0 {
		if err := os.Chown(work, -1, d.cfg.GID); err != nil {
			return err
		}
		if err := os.Chmod(work, 0o710); err != nil {
			return err
		}
	}
	return d.renameDurably(work, d.folder(vm.UID))
}

// Remove removes all disks of the VM with that UID. It is no error if there are none.
func (d *Disks) Remove(ctx context.Context, uid string) error {
	end, err := d.waitTurn(ctx, uid)
	if err != nil {
		return fmt.Errorf("remove ephemeral disks: %w", err)
	}
	defer end()
	// The folder is renamed into .tmp first, so that every other folder is whole. That
	// makes no new file, so it works on a full disk too.
	folder := d.folder(uid)
	gone := filepath.Join(d.tmp(), fmt.Sprintf("gone-%s-%d", uid, rand.Uint64()))
	err = os.Rename(folder, gone)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		err = removeInPlace(folder)
	case err == nil:
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("remove ephemeral disks: %w", err)
	}
	return nil
}

// removeInPlace removes a folder without renaming it, when there is no space for
// another name. It removes the note last: until then List shows the folder.
func removeInPlace(folder string) error {
	parts, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if part.Name() == note {
			continue
		}
		if err := os.RemoveAll(filepath.Join(folder, part.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(folder)
}

// Origins returns the descriptions of the images below the overlays of the VM with that
// UID, by disk. It leaves out overlays without a description.
func (d *Disks) Origins(uid string) (map[string]string, error) {
	if err := storage.ValidateName(uid); err != nil {
		return nil, fmt.Errorf("origins of ephemeral disks: UID: %w", err)
	}
	entries, err := os.ReadDir(d.folder(uid))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("origins of ephemeral disks: %w", err)
	}
	origins := map[string]string{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), originSuffix)
		if !ok {
			continue
		}
		text, err := os.ReadFile(filepath.Join(d.folder(uid), e.Name()))
		if err != nil {
			return nil, fmt.Errorf("origins of ephemeral disks: %w", err)
		}
		origins[name] = string(text)
	}
	return origins, nil
}

// List returns the virtual machines that have disks here, by UID, so that the caller
// can remove the disks of those that no longer exist.
func (d *Disks) List() ([]VM, error) {
	dirs, err := os.ReadDir(d.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("list ephemeral disks: %w", err)
	}
	var vms []VM
	for _, e := range dirs {
		if !isFolder(e) {
			continue
		}
		n, err := d.readNote(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile, or not the folder of a VM
		}
		if err != nil {
			d.cfg.Log.Warn("skipping a folder that has no ephemeral disks", "path", d.folder(e.Name()), "err", err)
			continue
		}
		vms = append(vms, n.VM)
	}
	return vms, nil
}

// isFolder reports whether an entry of the folder of all disks may be the folder of a VM.
func isFolder(e fs.DirEntry) bool { return storage.ValidateName(e.Name()) == nil && e.IsDir() }
