package guestimage

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"virtmesh/storage/importer"
	"virtmesh/storage/qemuimg"
)

// Bounds for images that are fetched: a lab is one machine.
const (
	maxFetched        = 64 << 30
	maxFetchedVirtual = 16 << 40
)

// Fetch returns the path of a disk image that is not built here: of source itself if it
// is a file, or of its content in o.Dir if it is an http or https URL, downloaded and
// unpacked the first time. Fetch checks that the image refers to no other file.
func Fetch(ctx context.Context, source string, o Options) (string, error) {
	if !strings.HasPrefix(source, "http://") && !strings.HasPrefix(source, "https://") {
		path, err := filepath.Abs(source)
		if err != nil {
			return "", err
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", fmt.Errorf("disk image: %w", err)
		}
		return path, inspectFile(path)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return "", fmt.Errorf("guest image folder: %w", err)
	}
	name := "fetched-" + digest([][]byte{[]byte(source)})
	final := filepath.Join(o.Dir, name+".img")
	unlock, err := lockFile(ctx, filepath.Join(o.Dir, "."+name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(final) && !o.Refresh {
		return final, nil
	}
	part := final + ".part"
	// This process has the lock, so an unfinished file is left over from an interrupted
	// download.
	if err := os.RemoveAll(part); err != nil {
		return "", err
	}
	o.step("fetching %s", source)
	_, err = importer.HTTP(ctx, importer.Request{URL: source, Check: anywhere}, part,
		importer.Options{MaxBytes: maxFetched, MaxVirtualSize: maxFetchedVirtual})
	if err != nil {
		return "", err
	}
	return final, publishFile(part, final)
}

// anywhere permits all addresses: who runs a lab chooses the URL, and may have the image
// on this machine.
func anywhere(netip.Addr) error { return nil }

// inspectFile refuses a file that is no disk image. Any bytes can be a raw image, but no
// disk ends in the middle of a sector.
func inspectFile(path string) error {
	info, err := qemuimg.Inspect(path, qemuimg.Limits{MaxVirtualSize: maxFetchedVirtual})
	if err != nil {
		return err
	}
	if info.FileSize == 0 || info.Format == qemuimg.Raw && info.FileSize%sector != 0 {
		return fmt.Errorf("%s is no disk image: its %d bytes are not whole sectors of %d", path, info.FileSize, sector)
	}
	return nil
}
