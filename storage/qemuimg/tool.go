package qemuimg

import (
	"bytes"
	"context"
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
	// and is bounded by its context alone.
	Timeout time.Duration
	// MemoryBytes limits the address space of the program; 0 is no limit.
	MemoryBytes int64
	// Credential is the user that the program runs as; nil is this process's user.
	// Only root can choose another user. Images come from outside, and an exploited
	// fault in QEMU's parsers must not give root's rights. The program gets open
	// files, so it needs no access to their folders; but this user must be able to
	// read the images that it reads and to write those that it grows.
	Credential *syscall.Credential
}

// DefaultTool returns a Tool that runs qemu-img from PATH, limited to a minute and 4
// GiB of address space.
func DefaultTool() Tool {
	return Tool{Path: "qemu-img", Timeout: time.Minute, MemoryBytes: 4 << 30}
}

// Resize grows the disk in the image at path to storage.AlignSize(size) bytes. It never
// shrinks the disk: QEMU refuses that without a flag that Resize does not pass. The
// image must not be in use.
func (t Tool) Resize(ctx context.Context, path string, f Format, size int64) error {
	if err := checkPath(path); err != nil {
		return fmt.Errorf("resize disk image: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	if err := t.resize(ctx, path, f, size); err != nil {
		return fmt.Errorf("resize disk image %s: %w", path, err)
	}
	return nil
}

func (t Tool) resize(ctx context.Context, path string, f Format, size int64) error {
	args := []string{"resize", "-q", "-f", string(f), path, strconv.FormatInt(storage.AlignSize(size), 10)}
	if t.Credential == nil {
		return t.runTool(ctx, nil, args...)
	}
	file, err := os.OpenFile(path, os.O_RDWR|openFlags, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	args[4] = firstFile
	return t.runTool(ctx, []*os.File{file}, args...)
}

// The paths at which the program finds the files that it inherits.
const (
	firstFile  = "/proc/self/fd/3"
	secondFile = "/proc/self/fd/4"
	openFlags  = syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC
)

// Convert copies the disk in from (format ff) into a new image at to (format tf)
// and leaves out zeros. A qcow2 image is read together with its backing files, so
// an image from outside must have passed Inspect. With a Credential, a backing file
// with a relative name is not found. An incomplete result is removed.
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

func (t Tool) convert(ctx context.Context, from string, ff Format, to string, tf Format) error {
	args := []string{"convert", "-q", "-f", string(ff), "-O", string(tf)}
	if t.Credential == nil {
		return t.runTool(ctx, nil, append(args, from, to)...)
	}
	src, err := os.OpenFile(from, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR|openFlags, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := dst.Chown(int(t.Credential.Uid), int(t.Credential.Gid)); err != nil {
		return err
	}
	return t.runTool(ctx, []*os.File{src, dst}, append(args, firstFile, secondFile)...)
}

// bounded is a shell command that limits its own address space and then becomes the
// program.
const bounded = `ulimit -c 0; [ "$1" = 0 ] || ulimit -v "$1" || exit 125; shift; exec "$@"`

// runTool runs the program. files are its file descriptors from number 3 on.
func (t Tool) runTool(ctx context.Context, files []*os.File, args ...string) error {
	argv := append([]string{"-c", bounded, "sh", strconv.FormatInt(t.MemoryBytes/1024, 10), t.Path}, args...)
	cmd := exec.CommandContext(ctx, "/bin/sh", argv...)
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.WaitDelay = 5 * time.Second
	cmd.ExtraFiles = files
	if t.Credential != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: t.Credential}
		cmd.Dir = "/"
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := program.Run(cmd); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		text := strings.TrimSpace(out.String())
		if strings.Contains(text, "No space left on device") || strings.Contains(text, "Disk quota exceeded") {
			return fmt.Errorf("%w: %s", ErrNoSpace, text)
		}
		return fmt.Errorf("qemu-img %s: %w: %s", args[0], err, text)
	}
	return nil
}

// checkPath refuses a path that qemu-img could take for something other than a file.
func checkPath(path string) error {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return fmt.Errorf("path %q is not absolute", path)
	}
	return nil
}
