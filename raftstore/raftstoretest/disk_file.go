package raftstoretest

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft-wal/types"
)

// sector is how much of a write reaches a disk as a whole or not at all.
const sector = 512

// file is a file on an image.
type file struct {
	size    int64   // allocated in advance; zeros where nothing was written
	durable []byte  // what was synced
	pending []write // what was not, in order
	named   bool    // the name is durable, as it is after the first sync
}

// write is a write to a file.
type write struct {
	at   int64
	data []byte
}

// put makes data durable.
func (f *file) put(w write) {
	if missing := w.at + int64(len(w.data)) - int64(len(f.durable)); missing > 0 {
		f.durable = append(f.durable, make([]byte, missing)...)
	}
	copy(f.durable[w.at:], w.data)
}

// tear decides which sectors of what was not synced are durable.
func (f *file) tear(chance *rand.Rand) {
	keep := chance.IntN(3) // nothing, everything, or some sectors
	for _, w := range f.pending {
		for begin := int64(0); begin < int64(len(w.data)); {
			end := min(int64(len(w.data)), begin+sector-(w.at+begin)%sector)
			if keep == 1 || keep == 2 && chance.IntN(2) == 0 {
				f.put(write{w.at + begin, w.data[begin:end]})
			}
			begin = end
		}
	}
	f.pending, f.named = nil, true
}

// volume is a disk as one process sees it.
type volume struct {
	disk  *Disk
	image *image
}

var _ types.VFS = volume{}

// ListDir implements types.VFS.
func (v volume) ListDir(dir string) ([]string, error) {
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	var names []string
	for path := range v.image.files {
		if name, ok := strings.CutPrefix(path, dir+"/"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Create implements types.VFS.
func (v volume) Create(dir, name string, size uint64) (types.WritableFile, error) {
	v.disk.step()
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	path := filepath.Join(dir, name)
	if v.image.files[path] != nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	if err := v.disk.lacksRoom(); err != nil {
		v.image.files[path] = &file{} // the name takes no room, and is left behind
		return nil, &fs.PathError{Op: "create", Path: path, Err: err}
	}
	f := &file{size: int64(size)}
	v.image.files[path] = f
	return &handle{v.disk, f, path}, nil
}

// Delete implements types.VFS.
func (v volume) Delete(dir, name string) error {
	v.disk.step()
	path := filepath.Join(dir, name)
	if _, err := v.open(path); err != nil {
		return err
	}
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	delete(v.image.files, path)
	return nil
}

// OpenReader implements types.VFS.
func (v volume) OpenReader(dir, name string) (types.ReadableFile, error) {
	return v.open(filepath.Join(dir, name))
}

// OpenWriter implements types.VFS.
func (v volume) OpenWriter(dir, name string) (types.WritableFile, error) {
	return v.open(filepath.Join(dir, name))
}

func (v volume) open(path string) (*handle, error) {
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	f := v.image.files[path]
	if f == nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return &handle{v.disk, f, path}, nil
}

// handle is an open file.
type handle struct {
	disk *Disk
	file *file
	path string
}

var _ types.WritableFile = (*handle)(nil)

// ReadAt implements io.ReaderAt.
func (h *handle) ReadAt(b []byte, at int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	f := h.file
	size := max(f.size, int64(len(f.durable)))
	for _, w := range f.pending {
		size = max(size, w.at+int64(len(w.data)))
	}
	if at < 0 || at >= size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), size-at))
	clear(b[:n])
	if at < int64(len(f.durable)) {
		copy(b[:n], f.durable[at:])
	}
	for _, w := range f.pending {
		from, to := max(at, w.at), min(at+int64(n), w.at+int64(len(w.data)))
		if from < to {
			copy(b[from-at:to-at], w.data[from-w.at:])
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt.
func (h *handle) WriteAt(b []byte, at int64) (int, error) {
	h.disk.step()
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.lacksRoom(); err != nil {
		return 0, &fs.PathError{Op: "write", Path: h.path, Err: err}
	}
	if at < 0 {
		return 0, fmt.Errorf("write %s at %d: %w", h.path, at, fs.ErrInvalid)
	}
	h.file.pending = append(h.file.pending, write{at, slices.Clone(b)})
	return len(b), nil
}

// Sync implements types.WritableFile.
func (h *handle) Sync() error {
	h.disk.step()
	h.disk.awaitSync()
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	for _, w := range h.file.pending {
		h.file.put(w)
	}
	h.file.pending, h.file.named = nil, true
	return nil
}

// Close implements io.Closer.
func (*handle) Close() error { return nil }
