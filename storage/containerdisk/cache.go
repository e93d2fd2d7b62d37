package containerdisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"virtmesh/storage/fetch"
)

// Cache is a folder of disk images. All methods may be called at once.
type Cache struct {
	cfg  Config
	reg  *registries
	met  *metrics
	lock *os.File

	mu       sync.Mutex
	entries  map[string]*entry
	flights  map[string]*flight
	refs     map[string]string // reference to digest, as last resolved
	used     int64             // bytes of entries
	reserved int64             // bytes promised to pulls under way
	closed   bool
	wg       sync.WaitGroup // pulls under way
}

// entry is an image in the cache; all but stored is guarded by Cache.mu.
type entry struct {
	stored
	access   access
	bytes    int64
	lastUsed time.Time
	holders  int
}

// New opens the cache in cfg.Dir. It makes the folder if it is missing, and removes
// what an interrupted pull left there. A host whose virtual machines already run on
// images of the cache must Hold those images before it pulls others.
func New(cfg Config) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Cache{
		cfg:     cfg,
		reg:     newRegistries(cfg),
		entries: map[string]*entry{},
		flights: map[string]*flight{},
		refs:    map[string]string{},
	}
	err := c.openFolder()
	if err == nil {
		c.met, err = newMetrics(cfg.Registerer, c)
	}
	if err != nil {
		if c.lock != nil {
			c.lock.Close()
		}
		return nil, fmt.Errorf("open image cache: %w", err)
	}
	return c, nil
}

// Close cancels running pulls, waits for them to end, and unlocks the folder. Images
// stay, including those that are held.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	for _, f := range c.flights {
		f.cancel(ErrClosed)
	}
	c.mu.Unlock()
	c.wg.Wait()
	return c.lock.Close()
}

// Pull returns the disk image that ref names, from the cache or its registry as
// o.Policy says, and holds it until release is called. It blocks until the image is
// downloaded. A download continues as long as any caller waits for it. release may be
// called more than once.
func (c *Cache) Pull(ctx context.Context, ref string, o PullOptions) (img Image, release func(), err error) {
	img, release, err = c.pull(ctx, ref, o)
	c.met.pulled(err)
	if err != nil {
		return Image{}, nil, fetch.Told(fmt.Errorf("image %s: %w", ref, err))
	}
	return img, release, nil
}

func (c *Cache) pull(ctx context.Context, ref string, o PullOptions) (Image, func(), error) {
	if err := o.validate(); err != nil {
		return Image{}, nil, err
	}
	parsed, err := c.reg.parse(ref)
	if err != nil {
		return Image{}, nil, err
	}
	policy := o.Policy
	if policy == "" {
		policy = defaultPolicy(parsed)
	}
	if policy != Always {
		e, err := c.usePresent(ctx, parsed, o)
		if err == nil {
			return c.image(ref, e), c.releaser(e), nil
		}
		if policy == Never || !errors.Is(err, ErrNotPresent) {
			return Image{}, nil, err
		}
	}
	a, err := newAsker(parsed, o.PullSecrets)
	if err != nil {
		return Image{}, nil, err
	}
	desc, err := c.reg.resolve(ctx, parsed, a.auth)
	if err != nil {
		return Image{}, nil, err
	}
	e, err := c.fetchImage(ctx, desc, parsed, a, o)
	if err != nil {
		return Image{}, nil, err
	}
	return c.image(ref, e), c.releaser(e), nil
}

// defaultPolicy is Kubernetes' rule for an empty policy.
func defaultPolicy(ref name.Reference) Policy {
	if t, ok := ref.(name.Tag); ok && t.TagStr() == name.DefaultTag {
		return Always
	}
	return IfNotPresent
}

// usePresent holds the image that ref named at its last pull, if it is in the cache and
// who asks may have it. The error is ErrNotPresent if it is not there, or is there from
// other repositories only.
func (c *Cache) usePresent(ctx context.Context, ref name.Reference, o PullOptions) (*entry, error) {
	e := c.holdPresent(ref, o)
	if e == nil {
		return nil, ErrNotPresent
	}
	c.mu.Lock()
	public := e.access.Public
	c.mu.Unlock()
	if public {
		return e, nil
	}
	if err := c.admit(ctx, e, ref, o.PullSecrets); err != nil {
		c.releaser(e)()
		return nil, err
	}
	return e, nil
}

// holdPresent holds the image that ref named at its last pull; nil if there is none for
// its repository.
func (c *Cache) holdPresent(ref name.Reference, o PullOptions) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	digest := c.refs[ref.Name()]
	if d, ok := ref.(name.Digest); ok {
		digest = d.DigestStr()
	}
	e := c.entries[imageKey(digest, o.File, o.AnyFile)]
	if c.closed || e == nil || !e.access.covers(ref.Context().Name()) {
		return nil
	}
	c.holdEntry(e)
	return e
}

// Hold keeps the image at path, which some Pull returned earlier, from being evicted
// until release is called. It fails with ErrNotPresent if the cache has no such image.
func (c *Cache) Hold(path string) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, e := range c.entries {
		if c.diskPath(key) == path {
			c.holdEntry(e)
			return c.releaser(e), nil
		}
	}
	return nil, fmt.Errorf("hold %s: %w", path, ErrNotPresent)
}

// holdEntry adds a holder to an image; the function that releaser returns removes it.
// The caller of holdEntry holds the lock.
func (c *Cache) holdEntry(e *entry) {
	e.holders++
	e.lastUsed = time.Now()
}

func (c *Cache) releaser(e *entry) func() {
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		e.holders--
		e.lastUsed = time.Now()
		// The time of the last use is the file's modification time, so that the order
		// of use survives a restart. If it cannot be set, only that order is lost.
		_ = os.Chtimes(c.metaPath(e.key()), e.lastUsed, e.lastUsed)
	})
}

// Images lists the images in the cache, by path. Ref is empty.
func (c *Cache) Images() []Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Image
	for _, e := range c.entries {
		out = append(out, c.image("", e))
	}
	slices.SortFunc(out, func(a, b Image) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// Used returns the number of bytes that the cache's images occupy.
func (c *Cache) Used() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

func (c *Cache) image(ref string, e *entry) Image {
	return Image{Ref: ref, Digest: e.Digest, Path: c.diskPath(e.key()), Format: e.Format,
		VirtualSize: e.VirtualSize, FileSize: e.FileSize}
}
