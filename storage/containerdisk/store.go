package containerdisk

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"virtmesh/storage/durable"
)

// Layout of a cache folder:
//
//	.lock                     held by the one process that uses the cache
//	images/<key>/disk         the image
//	images/<key>/image.json   its description (type stored); the file's modification
//	                          time is the time of the image's last use
//	images/<key>/access.json  who may have it (type access)
//	refs.json                 the digests of references at their last pull
//	tmp/                      running pulls
//
// A key is a digest of the container image's digest and the wanted file. A folder
// is renamed from tmp/ to images/ when all in it is whole and durable.

// stored is the content of image.json.
type stored struct {
	Digest      string `json:"digest"`
	File        string `json:"file"`
	AnyFile     bool   `json:"anyFile,omitempty"`
	Format      string `json:"format,omitempty"`
	VirtualSize int64  `json:"virtualSize,omitempty"`
	FileSize    int64  `json:"fileSize"`
}

func (s stored) key() string { return imageKey(s.Digest, s.File, s.AnyFile) }

// imageKey returns the name of an image's folder. A file that was pulled with AnyFile
// has another name than the same file pulled as a disk: only the latter was checked to
// be a disk.
func imageKey(digest, file string, anyFile bool) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%t", digest, file, anyFile))
	return hex.EncodeToString(h[:16])
}

func (c *Cache) imageDir(key string) string { return filepath.Join(c.cfg.Dir, "images", key) }
func (c *Cache) diskPath(key string) string { return filepath.Join(c.imageDir(key), "disk") }
func (c *Cache) metaPath(key string) string { return filepath.Join(c.imageDir(key), "image.json") }
func (c *Cache) tmpDir() string             { return filepath.Join(c.cfg.Dir, "tmp") }

// openFolder locks the folder for this process, removes unfinished pulls of an
// earlier process, and reads which images are there.
func (c *Cache) openFolder() error {
	if err := os.MkdirAll(c.cfg.Dir, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(c.cfg.Dir, ".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return fmt.Errorf("another process uses %s: %w", c.cfg.Dir, err)
	}
	c.lock = lock
	if err := os.RemoveAll(c.tmpDir()); err != nil {
		return err
	}
	for _, d := range []string{c.tmpDir(), filepath.Join(c.cfg.Dir, "images")} {
		if err := c.mkdir(d); err != nil {
			return err
		}
	}
	if err := c.loadImages(); err != nil {
		return err
	}
	c.loadRefs()
	for _, e := range c.entries {
		c.loadAccess(e)
	}
	return nil
}

// mkdir makes a folder through which only its owner and QEMU's group may pass, and that
// only its owner may list: who does not know an image's key does not find it.
func (c *Cache) mkdir(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if c.cfg.GID < 0 {
		return nil
	}
	if err := os.Chown(path, -1, c.cfg.GID); err != nil {
		return err
	}
	return os.Chmod(path, 0o710)
}

// ownImage makes an image this process's, for QEMU's group to read and nobody to write. An
// earlier version let libvirt give images away, and an owner can make a file writable.
func (c *Cache) ownImage(disk *os.File) error {
	mode := os.FileMode(0o444)
	if c.cfg.GID >= 0 {
		mode = 0o440
		if err := disk.Chown(os.Geteuid(), c.cfg.GID); err != nil {
			return err
		}
	}
	return disk.Chmod(mode)
}

func (c *Cache) loadImages() error {
	dirs, err := os.ReadDir(filepath.Join(c.cfg.Dir, "images"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		key := d.Name()
		e, err := c.loadImage(key)
		if err != nil {
			c.cfg.Log.Warn("removing a damaged image from the cache", "image", key, "err", err)
			if err := os.RemoveAll(c.imageDir(key)); err != nil {
				return err
			}
			continue
		}
		c.entries[key] = e
		c.used += e.bytes
	}
	return nil
}

func (c *Cache) loadImage(key string) (*entry, error) {
	raw, err := os.ReadFile(c.metaPath(key))
	if err != nil {
		return nil, err
	}
	var s stored
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	if s.key() != key {
		return nil, errors.New("its description does not match the folder's name")
	}
	f, err := os.OpenFile(c.diskPath(key), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	disk, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !disk.Mode().IsRegular() || disk.Size() != s.FileSize {
		return nil, fmt.Errorf("it has %d bytes of %d", disk.Size(), s.FileSize)
	}
	if err := c.ownImage(f); err != nil {
		return nil, err
	}
	meta, err := os.Stat(c.metaPath(key))
	if err != nil {
		return nil, err
	}
	return &entry{stored: s, bytes: allocated(disk), lastUsed: meta.ModTime()}, nil
}

// allocated returns the number of bytes that a file occupies, without its holes.
func allocated(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return fi.Size()
}

// finishImage makes a finished pull in dir durable, but for its name.
func (c *Cache) finishImage(dir string, disk *os.File, s stored) (*entry, error) {
	if err := c.ownImage(disk); err != nil {
		return nil, err
	}
	if err := disk.Sync(); err != nil {
		return nil, err
	}
	fi, err := disk.Stat()
	if err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(dir, "image.json"), s); err != nil {
		return nil, err
	}
	return &entry{stored: s, access: newAccess(), bytes: allocated(fi), lastUsed: time.Now()}, nil
}

func (c *Cache) loadRefs() {
	raw, err := os.ReadFile(filepath.Join(c.cfg.Dir, "refs.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(raw, &c.refs)
	}
	if err != nil {
		// Without the references, the registry is asked again.
		c.cfg.Log.Warn("image references cannot be read and are dropped", "err", err)
		c.refs = map[string]string{}
	}
}

// rememberRef stores the digest that ref names now; the caller holds the lock.
func (c *Cache) rememberRef(ref, digest string) {
	if c.refs[ref] == digest {
		return
	}
	c.refs[ref] = digest
	present := map[string]bool{}
	for _, e := range c.entries {
		present[e.Digest] = true
	}
	for r, d := range c.refs {
		if !present[d] && d != digest {
			delete(c.refs, r)
		}
	}
	if err := writeJSON(filepath.Join(c.cfg.Dir, "refs.json"), c.refs); err != nil {
		c.cfg.Log.Warn("image references could not be stored", "err", err)
	}
}

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, raw, 0o600)
}
