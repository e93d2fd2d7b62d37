package containerdisk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"virtmesh/storage/durable"
	"virtmesh/storage/qemuimg"
)

// download downloads the image into the cache under key. If it fails, nothing of the
// image stays on the disk. The image that it returns has one holder.
func (c *Cache) download(ctx context.Context, key string, desc *remote.Descriptor, ref name.Reference, a asker, o PullOptions, f *flight) (*entry, error) {
	// The descriptor was made with its caller's context, which may end before this
	// download. So the reference is resolved again, by digest, and names the same
	// image.
	desc, err := c.reg.resolve(ctx, ref.Context().Digest(desc.Digest.String()), a.auth)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.tmpDir(), "pull-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // it was renamed if the download succeeded
	e, err := c.fillFolder(ctx, dir, desc, o, f)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved -= f.promised
	f.promised = 0
	if err == nil {
		// Under the lock, so that another download of the image that finds the folder in its
		// place finds the entry too.
		err = c.place(dir, key)
	}
	if there := c.entries[key]; there != nil && errors.Is(err, fs.ErrExist) {
		// It was downloaded from another repository, or the download succeeded although no
		// caller waited for it any more.
		there.holders++
		c.noteDownload(there, a)
		return there, nil
	}
	if err != nil {
		return nil, classify(ctx, err)
	}
	e.holders = 1
	c.entries[key] = e
	c.used += e.bytes
	c.noteDownload(e, a)
	return e, nil
}

// place moves a finished pull to the place of its image. c.mu is held.
func (c *Cache) place(dir, key string) error {
	if c.entries[key] == nil {
		// A folder is there only if a sync failed after an earlier move: that image was never
		// given to anybody, and may not be whole after a loss of power.
		if err := os.RemoveAll(c.imageDir(key)); err != nil {
			return err
		}
	}
	return durable.Rename(dir, c.imageDir(key))
}

// fillFolder downloads the image into dir.
func (c *Cache) fillFolder(ctx context.Context, dir string, desc *remote.Descriptor, o PullOptions, f *flight) (*entry, error) {
	layers, total, err := c.layers(ctx, desc)
	if err != nil {
		return nil, err
	}
	if err := c.mkdir(dir); err != nil {
		return nil, err
	}
	disk, err := os.OpenFile(filepath.Join(dir, "disk"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	x := &extraction{
		file: o.File, out: disk, limit: c.cfg.MaxImageBytes,
		reserve:  func(size int64) error { return c.reserveBytes(f, size) },
		received: c.reporter(f, total),
	}
	if err := x.extractFile(ctx, layers); err != nil {
		return nil, err
	}
	s := stored{Digest: desc.Digest.String(), File: o.File, AnyFile: o.AnyFile}
	if err := c.inspect(disk, &s); err != nil {
		return nil, err
	}
	return c.finishImage(dir, disk, s)
}

// inspect fills in the properties of the file, and refuses a file that must not be
// given to a guest.
func (c *Cache) inspect(disk *os.File, s *stored) error {
	fi, err := disk.Stat()
	if err != nil {
		return err
	}
	s.FileSize = fi.Size()
	if s.AnyFile {
		return nil
	}
	info, err := qemuimg.Probe(disk, fi.Size())
	if err == nil {
		err = info.Check(qemuimg.Limits{MaxVirtualSize: c.cfg.MaxVirtualSize})
	}
	switch {
	case errors.Is(err, qemuimg.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotAnImage, err)
	}
	s.Format, s.VirtualSize = string(info.Format), info.VirtualSize
	return nil
}

// reportEvery is how many bytes pass between calls of progress functions.
const reportEvery = 1 << 20

func (c *Cache) reporter(f *flight, total int64) func(int64) {
	var done, told int64
	return func(n int64) {
		done += n
		c.met.received.Add(float64(n))
		if done-told < reportEvery && done < total {
			return
		}
		told = done
		c.mu.Lock()
		fns := f.progress[:len(f.progress):len(f.progress)]
		c.mu.Unlock()
		for _, fn := range fns {
			fn(min(done, total), total)
		}
	}
}

// reserveBytes reserves size bytes of the cache and of the disk for a download. If they
// are not free, it evicts the images that have been unused for longest.
func (c *Cache) reserveBytes(f *flight, size int64) error {
	if size > c.cfg.MaxBytes {
		return fmt.Errorf("%w: %d bytes, the cache holds %d", ErrTooLarge, size, c.cfg.MaxBytes)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved += size
	for {
		free, err := freeBytes(c.cfg.Dir)
		if err != nil {
			c.reserved -= size
			return err
		}
		cacheFull := c.used+c.reserved > c.cfg.MaxBytes
		diskFull := free-c.reserved < c.cfg.MinFreeBytes
		if !cacheFull && !diskFull {
			f.promised += size
			return nil
		}
		if c.evictOldest() {
			continue
		}
		err = fmt.Errorf("%w: the cache holds %d of at most %d bytes, all in use", ErrNoSpace, c.used+c.reserved-size, c.cfg.MaxBytes)
		if diskFull {
			err = fmt.Errorf("%w: it needs %d bytes, %s has %d free of which %d are reserved", ErrNoSpace,
				size, c.cfg.Dir, free, c.cfg.MinFreeBytes+c.reserved-size)
		}
		c.reserved -= size
		return err
	}
}

// evictOldest removes the image that has been unused for longest, and reports whether
// there was one. The caller holds the lock.
func (c *Cache) evictOldest() bool {
	inUse := map[string]bool{}
	for {
		var (
			oldest string
			found  *entry
		)
		for key, e := range c.entries {
			if e.holders == 0 && !inUse[key] && (found == nil || e.lastUsed.Before(found.lastUsed)) {
				oldest, found = key, e
			}
		}
		if found == nil {
			return false
		}
		if c.openedByQEMU(oldest) {
			inUse[oldest] = true
			c.cfg.Log.Warn("an image is not evicted: a process has it open although no caller holds it", "path", c.diskPath(oldest))
			continue
		}
		// The folder is renamed first, because an image in images/ is always whole.
		grave := filepath.Join(c.tmpDir(), "evicted-"+oldest)
		err := os.Rename(c.imageDir(oldest), grave)
		if err == nil {
			err = os.RemoveAll(grave)
		}
		if err != nil {
			c.cfg.Log.Error("an image could not be evicted", "path", c.diskPath(oldest), "err", err)
			return false
		}
		delete(c.entries, oldest)
		c.used -= found.bytes
		c.met.evicted.Inc()
		c.cfg.Log.Info("evicted an image", "digest", found.Digest, "bytes", found.bytes, "lastUsed", found.lastUsed)
		return true
	}
}

func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
