package qemuimg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"virtmesh/storage"
	"virtmesh/storage/program"
)

// Tool runs qemu-img. The zero value is not usable; call DefaultTool.
type Tool struct {
	// Path is the program, looked up in PATH if it has no slash.
	Path string
	// Timeout bounds resizing, which touches little. Convert copies a whole disk
	// and is bounded by its context and CPUTime alone.
	Timeout time.Duration
	// MemoryBytes limits the address space of the program, CPUTime its processor time; 0 is
	// no limit.
	MemoryBytes int64
	CPUTime     time.Duration
	// Users are whom the program runs as, each time another one; nil is this process's user.
	// Only root can choose another user. Images come from outside, and an exploited fault
	// in QEMU's parsers must not give root's rights, nor those of a guest. The program gets
	// open files, so it needs no access to their folders. It is lent the files: they belong
	// to its user until it ends. A file that the group of the user, or everybody, can read
	// is not lent for reading, because others may use it too.
	Users *program.Users
}

// DefaultTool returns a Tool that runs qemu-img from PATH, limited to a minute, two hours of
// processor time and 4 GiB of address space.
func DefaultTool() Tool {
	return Tool{Path: "qemu-img", Timeout: time.Minute, MemoryBytes: 4 << 30, CPUTime: 2 * time.Hour}
}

// Resize grows the disk in the image at path to storage.AlignSize(size) bytes. It never
// shrinks the disk: QEMU refuses that without a flag that Resize does not pass. The
// image must not be in use, and nobody else may resize or convert it meanwhile.
func (t Tool) Resize(ctx context.Context, path string, f Format, size int64) error {
	if err := checkPath(path); err != nil {
		return fmt.Errorf("resize disk image: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	if err := t.resize(ctx, path, f, storage.AlignSize(size)); err != nil {
		return fmt.Errorf("resize disk image %s: %w", path, err)
	}
	return nil
}

func (t Tool) resize(ctx context.Context, path string, f Format, size int64) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR|openFlags, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	sandbox, err := t.sandbox(path, f, size)
	if err != nil {
		return err
	}
	takeBack, err := lend(file, sandbox.User)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, takeBack()) }()
	return runTool(ctx, sandbox.Command(ctx, []*os.File{file}, t.Path, "resize", "-q", "-f", string(f), firstFile, strconv.FormatInt(size, 10)))
}

// The paths at which the program finds the files that it inherits.
const (
	firstFile  = "/proc/self/fd/3"
	secondFile = "/proc/self/fd/4"
	openFlags  = syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC
)

// Convert copies the disk in from (format ff) into a new image at to (format tf)
// and leaves out zeros. A qcow2 image is read together with its backing files, so
// an image from outside must have passed Inspect; a backing file with a relative name is
// not found, and with Users one that their group cannot read neither. An incomplete result
// is removed. Nobody else may resize or convert the image at from meanwhile.
func (t Tool) Convert(ctx context.Context, from string, ff Format, to string, tf Format) error {
	for _, p := range []string{from, to} {
		if err := checkPath(p); err != nil {
			return fmt.Errorf("convert disk image: %w", err)
		}
	}
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("convert disk image to %s: %w", to, os.ErrExist)
	}
	if err := t.convert(ctx, from, ff, to, tf); err != nil {
		os.Remove(to)
		return fmt.Errorf("convert disk image %s to %s: %w", from, to, err)
	}
	return nil
}

func (t Tool) convert(ctx context.Context, from string, ff Format, to string, tf Format) (err error) {
	src, err := os.OpenFile(from, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	size, err := diskSize(from, ff)
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR|openFlags, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	sandbox, err := t.sandbox(from, ff, size)
	if err != nil {
		return err
	}
	for _, file := range []*os.File{src, dst} {
		if file == src && readableBy(src, sandbox.User) {
			continue
		}
		takeBack, err := lend(file, sandbox.User)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, takeBack()) }()
	}
	return runTool(ctx, sandbox.Command(ctx, []*os.File{src, dst}, t.Path, "convert", "-q", "-f", string(ff), "-O", string(tf), firstFile, secondFile))
}

// below returns the backing files of an image, all the way down.
func below(path string, f Format) (files []string, err error) {
	const deepest = 64
	for range deepest {
		if f != QCOW2 {
			return files, nil
		}
		info, err := probeFile(path)
		if err != nil || !filepath.IsAbs(info.BackingFile) {
			return files, err
		}
		path, f = info.BackingFile, info.BackingFormat
		files = append(files, path)
	}
	return nil, fmt.Errorf("%w: more than %d images are below it", ErrFormat, deepest)
}

// sandbox returns a sandbox for one run that opens the image at path, and writes an image of
// a disk of size bytes. A qcow2 image has tables besides the disk.
func (t Tool) sandbox(path string, f Format, size int64) (program.Sandbox, error) {
	reads, err := below(path, f)
	if err != nil {
		return program.Sandbox{}, err
	}
	const least = 64 << 20
	s := program.Sandbox{MemoryBytes: t.MemoryBytes, FileBytes: size + size/64 + least, CPUTime: t.CPUTime, Reads: reads}
	if t.Users != nil {
		s.User = t.Users.Next()
	}
	return s, nil
}

// readableBy reports whether the user can open the file for reading although it is not the
// owner.
func readableBy(file *os.File, user *program.User) bool {
	info, err := file.Stat()
	if err != nil || user == nil {
		return false
	}
	mode := info.Mode().Perm()
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && st.Gid == user.GID {
		return mode&0o040 != 0
	}
	return mode&0o004 != 0
}

// lend makes the user the owner of a file until takeBack is called. A file that has got yet
// another owner meanwhile, such as a guest that libvirt starts, stays with that one.
func lend(file *os.File, user *program.User) (takeBack func() error, err error) {
	if user == nil {
		return func() error { return nil }, nil
	}
	before, err := ownerOf(file)
	if err != nil {
		return nil, err
	}
	if err := file.Chown(int(user.UID), -1); err != nil {
		return nil, err
	}
	return func() error {
		if now, err := ownerOf(file); err != nil || now != user.UID {
			return err
		}
		return file.Chown(int(before), -1)
	}, nil
}

func ownerOf(file *os.File) (uid uint32, err error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s has no owner", file.Name())
	}
	return st.Uid, nil
}

// runTool runs qemu-img.
func runTool(ctx context.Context, cmd *program.Confined) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	text := strings.TrimSpace(out.String())
	var exit *exec.ExitError
	switch {
	case strings.Contains(text, "No space left on device"), strings.Contains(text, "Disk quota exceeded"):
		return fmt.Errorf("%w: %s", ErrNoSpace, text)
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGXFSZ, strings.Contains(text, "File too large"):
		return fmt.Errorf("%w: it grows beyond its size", ErrTooLarge)
	}
	return fmt.Errorf("qemu-img: %w: %s", err, text)
}

// checkPath refuses a path that qemu-img could take for something other than a file.
func checkPath(path string) error {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return fmt.Errorf("path %q is not absolute", path)
	}
	return nil
}
