package guestimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"virtmesh/storage/durable"
)

// ErrUnknownImage is returned for a name that no recipe has.
var ErrUnknownImage = errors.New("unknown guest image")

// Options says where images are kept, and how a build reports its progress.
type Options struct {
	// Dir keeps finished images; builds work in folders below it.
	Dir string
	// Progress, if set, is called with one line for each step.
	Progress func(step string)
	// Refresh builds the image again even if it exists, to pick up newer packages.
	Refresh bool
}

func (o Options) step(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// recipe builds one image; work is an empty folder of its own.
type recipe struct {
	// inputs are hashed into the image's file name: a changed recipe is a new image.
	inputs func() [][]byte
	// build writes the image's files, which are called stem and a suffix.
	build func(ctx context.Context, o Options, work, stem string) error
	// suffixes are those of the image's files. The last of them is there when all are.
	suffixes []string
}

// qcow2Suffix is that of a guest's image, which is one file.
const qcow2Suffix = ".qcow2"

func recipes() map[string]recipe {
	return map[string]recipe{
		"tiny":   {inputs: tinyInputs, build: buildTiny, suffixes: []string{qcow2Suffix}},
		"debian": {inputs: debianInputs, build: buildDebian, suffixes: []string{qcow2Suffix}},
	}
}

// Names lists the images that can be built, sorted.
func Names() []string {
	var names []string
	for n := range recipes() {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Build returns the path of the named image, a qcow2 file in o.Dir, building it
// first if it is not there. It blocks for the length of a build (seconds for
// tiny, minutes for debian), its own or another's, and may be called at once
// from many goroutines and processes. The file must not be written to.
func Build(ctx context.Context, name string, o Options) (string, error) {
	r, ok := recipes()[name]
	if !ok {
		return "", fmt.Errorf("%w %q: there are %s", ErrUnknownImage, name, strings.Join(Names(), ", "))
	}
	return build(ctx, name, r, o)
}

func build(ctx context.Context, name string, r recipe, o Options) (string, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return "", fmt.Errorf("guest image folder: %w", err)
	}
	finalStem := filepath.Join(o.Dir, name+"-"+digest(r.inputs()))
	final := finalStem + r.suffixes[len(r.suffixes)-1]
	if isFile(final) && !o.Refresh {
		return final, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(o.Dir, "."+name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(final) && !o.Refresh {
		return final, nil
	}
	// This process has the lock, so no other build uses what an interrupted build left
	// behind.
	stale, err := filepath.Glob(filepath.Join(o.Dir, ".build-"+name+"-*"))
	if err != nil {
		return "", err
	}
	for _, s := range stale {
		if err := os.RemoveAll(s); err != nil {
			return "", fmt.Errorf("remove an interrupted build: %w", err)
		}
	}
	work, err := os.MkdirTemp(o.Dir, ".build-"+name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	start := time.Now()
	stem := filepath.Join(work, "image")
	if err := r.build(ctx, o, work, stem); err != nil {
		return "", fmt.Errorf("build image %s: %w", name, err)
	}
	for _, suffix := range r.suffixes {
		if err := publishFile(stem+suffix, finalStem+suffix); err != nil {
			return "", fmt.Errorf("build image %s: %w", name, err)
		}
	}
	o.step("built %s in %s", filepath.Base(final), time.Since(start).Round(100*time.Millisecond))
	return final, nil
}

// publishFile makes a finished file durable and then visible.
func publishFile(from, to string) error {
	if err := os.Chmod(from, 0o444); err != nil {
		return err
	}
	return durable.Place(from, to)
}

func digest(parts [][]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// lockFile takes an exclusive lock on path, waiting for it as long as ctx allows. The
// kernel drops it when the process ends, however it ends.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another build of the image: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
