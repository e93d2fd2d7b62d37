package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"virtmesh/storage"
)

// Fake is a pool in memory. It stores only the bytes that were written, so volumes may
// be of any size. The paths of its volumes do not exist.
type Fake struct {
	info storage.Info

	mu     sync.Mutex
	vols   map[string]*fakeVolume
	closed bool
	fail   func(op, volume string) error
}

var (
	_ storage.ProbedPool  = (*Fake)(nil)
	_ storage.Snapshotter = (*Fake)(nil)
	_ Access              = (*Fake)(nil)
)

// fakeCapacity is the capacity that a Fake reports.
const fakeCapacity = 1 << 40

const chunk = 64 << 10

// content is a sparse disk.
type content struct {
	size   int64
	chunks map[int64][]byte
}

func (c content) clone() content {
	n := content{size: c.size, chunks: map[int64][]byte{}}
	for k, b := range c.chunks {
		n.chunks[k] = slices.Clone(b)
	}
	return n
}

func (c content) write(b []byte, off int64) {
	for len(b) > 0 {
		k, at := off/chunk, off%chunk
		if c.chunks[k] == nil {
			c.chunks[k] = make([]byte, chunk)
		}
		n := copy(c.chunks[k][at:], b)
		b, off = b[n:], off+int64(n)
	}
}

func (c content) read(b []byte, off int64) {
	for len(b) > 0 {
		k, at := off/chunk, off%chunk
		n := min(len(b), int(chunk-at))
		clear(b[:n])
		if c.chunks[k] != nil {
			copy(b[:n], c.chunks[k][at:])
		}
		b, off = b[n:], off+int64(n)
	}
}

func (c content) allocated() int64 { return int64(len(c.chunks)) * chunk }

type fakeVolume struct {
	content
	format    storage.Format
	created   time.Time
	snapshots map[string]fakeSnapshot
}

type fakeSnapshot struct {
	content
	created time.Time
}

// NewFake returns an empty pool with the name and the capabilities. It always sets
// Expand, Snapshots and Thin, and sets Formats to raw and qcow2 if they are empty.
func NewFake(name string, c storage.Capabilities) *Fake {
	c.Expand, c.Snapshots, c.Thin = true, true, true
	if len(c.Formats) == 0 {
		c.Formats = []storage.Format{storage.Raw, storage.QCOW2}
	}
	return &Fake{info: storage.Info{Name: name, Driver: "fake", Capabilities: c}, vols: map[string]*fakeVolume{}}
}

// FailWith makes every operation call f first, with the name of the method. If f
// returns an error, the operation fails with it. A nil f ends that.
func (p *Fake) FailWith(f func(op, volume string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = f
}

// begin takes the lock. If it returns no error, the caller releases the lock.
func (p *Fake) begin(ctx context.Context, op, volume string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if op != "List" && op != "Usage" && op != "Probe" {
		if err := storage.ValidateName(volume); err != nil {
			return err
		}
	}
	p.mu.Lock()
	var err error
	if p.closed {
		err = storage.ErrClosed
	} else if p.fail != nil {
		err = p.fail(op, volume)
	}
	if err != nil {
		p.mu.Unlock()
	}
	return err
}

// Info implements storage.Pool.
func (p *Fake) Info() storage.Info { return p.info }

// Close implements storage.Pool.
func (p *Fake) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return nil
}

func (p *Fake) volume(name string, v *fakeVolume) storage.Volume {
	return storage.Volume{Name: name, Format: v.format, Size: v.size, Allocated: v.allocated(),
		Path: "/fake/" + p.info.Name + "/" + name, Created: v.created}
}

func (p *Fake) find(name string) (*fakeVolume, error) {
	if v := p.vols[name]; v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("volume %s: %w", name, storage.ErrNotFound)
}

// Create implements storage.Pool.
func (p *Fake) Create(ctx context.Context, spec storage.VolumeSpec) (storage.Volume, error) {
	if err := p.begin(ctx, "Create", spec.Name); err != nil {
		return storage.Volume{}, err
	}
	defer p.mu.Unlock()
	if err := spec.Validate(); err != nil {
		return storage.Volume{}, err
	}
	if p.vols[spec.Name] != nil {
		return storage.Volume{}, fmt.Errorf("create volume %s: %w", spec.Name, storage.ErrExists)
	}
	if spec.Format == "" {
		spec.Format = p.info.Capabilities.Formats[0]
	}
	c, err := p.first(spec)
	if err != nil {
		return storage.Volume{}, fmt.Errorf("create volume %s: %w", spec.Name, err)
	}
	v := &fakeVolume{content: c, format: spec.Format, created: time.Now(), snapshots: map[string]fakeSnapshot{}}
	p.vols[spec.Name] = v
	return p.volume(spec.Name, v), nil
}

// first returns the first content of a new volume.
func (p *Fake) first(spec storage.VolumeSpec) (content, error) {
	size := storage.AlignSize(spec.Size)
	c := content{size: size, chunks: map[int64][]byte{}}
	if spec.Source == nil {
		return c, nil
	}
	var err error
	if spec.Source.File != "" {
		c, err = fromFile(*spec.Source)
	} else {
		c, err = p.fromVolume(*spec.Source)
	}
	if err != nil {
		return content{}, err
	}
	if spec.Size > 0 && c.size > size {
		return content{}, fmt.Errorf("%w: size %d is less than the %d bytes of the source", storage.ErrInvalid, spec.Size, c.size)
	}
	if spec.Progress != nil {
		spec.Progress(c.size, c.size)
	}
	c.size = storage.AlignSize(max(c.size, size))
	return c, nil
}

// fromFile reads raw images. It refuses other formats, because it does not use
// qemu-img.
func fromFile(src storage.Source) (content, error) {
	f, err := os.Open(src.File)
	if errors.Is(err, fs.ErrNotExist) {
		return content{}, fmt.Errorf("source: %w: %w", storage.ErrNotFound, err)
	}
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	c := content{chunks: map[int64][]byte{}}
	for buf := make([]byte, chunk); ; {
		n, err := io.ReadFull(f, buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			c.write(buf[:n], c.size)
		}
		c.size += int64(n)
		if err != nil {
			break
		}
	}
	if c.size == 0 || src.FileFormat != storage.Raw {
		return content{}, fmt.Errorf("%w: %s", storage.ErrUnsafeSource, src.File)
	}
	return c, nil
}

func (p *Fake) fromVolume(src storage.Source) (content, error) {
	v, err := p.find(src.Volume)
	if err != nil {
		return content{}, err
	}
	if src.Snapshot == "" {
		return v.clone(), nil
	}
	s, ok := v.snapshots[src.Snapshot]
	if !ok {
		return content{}, fmt.Errorf("snapshot %s of volume %s: %w", src.Snapshot, src.Volume, storage.ErrNotFound)
	}
	return s.clone(), nil
}

// Get implements storage.Pool.
func (p *Fake) Get(ctx context.Context, name string) (storage.Volume, error) {
	if err := p.begin(ctx, "Get", name); err != nil {
		return storage.Volume{}, err
	}
	defer p.mu.Unlock()
	v, err := p.find(name)
	if err != nil {
		return storage.Volume{}, err
	}
	return p.volume(name, v), nil
}

// List implements storage.Pool.
func (p *Fake) List(ctx context.Context) ([]storage.Volume, error) {
	if err := p.begin(ctx, "List", ""); err != nil {
		return nil, err
	}
	defer p.mu.Unlock()
	var list []storage.Volume
	for _, n := range slices.Sorted(maps.Keys(p.vols)) {
		list = append(list, p.volume(n, p.vols[n]))
	}
	return list, nil
}

// Delete implements storage.Pool.
func (p *Fake) Delete(ctx context.Context, name string) error {
	if err := p.begin(ctx, "Delete", name); err != nil {
		return err
	}
	defer p.mu.Unlock()
	delete(p.vols, name)
	return nil
}

// Expand implements storage.Pool.
func (p *Fake) Expand(ctx context.Context, name string, size int64) (storage.Volume, error) {
	if err := p.begin(ctx, "Expand", name); err != nil {
		return storage.Volume{}, err
	}
	defer p.mu.Unlock()
	if size <= 0 || size > storage.MaxVolumeSize {
		return storage.Volume{}, fmt.Errorf("expand volume %s: %w: size %d", name, storage.ErrInvalid, size)
	}
	v, err := p.find(name)
	if err != nil {
		return storage.Volume{}, err
	}
	v.size = max(v.size, storage.AlignSize(size))
	return p.volume(name, v), nil
}

// Usage implements storage.Pool.
func (p *Fake) Usage(ctx context.Context) (storage.Usage, error) {
	if err := p.begin(ctx, "Usage", ""); err != nil {
		return storage.Usage{}, err
	}
	defer p.mu.Unlock()
	u := storage.Usage{Capacity: fakeCapacity, Volumes: len(p.vols)}
	for _, v := range p.vols {
		u.Provisioned += v.size
		u.Allocated += v.allocated()
	}
	u.Free = fakeCapacity - u.Allocated
	return u, nil
}

// Probe implements storage.ProbedPool.
func (p *Fake) Probe(ctx context.Context) (storage.Space, error) {
	if err := p.begin(ctx, "Probe", ""); err != nil {
		return storage.Space{}, err
	}
	defer p.mu.Unlock()
	return storage.Space{Capacity: fakeCapacity, Free: fakeCapacity}, nil
}

// WriteAt implements Access.
func (p *Fake) WriteAt(t *testing.T, v storage.Volume, b []byte, off int64) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.vols[v.Name].write(b, off)
}

// ReadAt implements Access.
func (p *Fake) ReadAt(t *testing.T, v storage.Volume, n int, off int64) []byte {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	b := make([]byte, n)
	p.vols[v.Name].read(b, off)
	return b
}
