package containerdisk

import (
	"context"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// flight is a running download that callers wait for, all from one repository. Cache.mu
// guards all its fields but done.
type flight struct {
	done     chan struct{}
	cancel   context.CancelCauseFunc
	waiters  int
	promised int64 // bytes reserved for it
	progress []func(done, total int64)
	entry    *entry
	err      error
}

// fetchImage returns the image that desc describes, held once, and notes that its registry
// gave it to the asker. If the cache does not have it from the asker's repository, it waits
// for a running download from there or starts one. So who can show the description of an
// image has to show the image as well.
func (c *Cache) fetchImage(ctx context.Context, desc *remote.Descriptor, ref name.Reference, a asker, o PullOptions) (*entry, error) {
	key := imageKey(desc.Digest.String(), o.File, o.AnyFile)
	e, f, err := c.joinFlight(ctx, key, desc, ref, a, o)
	if f != nil {
		e, err = c.awaitFlight(ctx, f, key+a.repository)
	}
	if err != nil {
		return nil, err
	}
	if err := c.noteAccess(e, a); err != nil {
		c.releaser(e)()
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rememberRef(ref.Name(), e.Digest)
	return e, nil
}

// joinFlight returns the image under key, held once, or else the download of it, which
// counts the caller.
func (c *Cache) joinFlight(ctx context.Context, key string, desc *remote.Descriptor, ref name.Reference, a asker, o PullOptions) (*entry, *flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, ErrClosed
	}
	if e := c.entries[key]; e != nil && e.access.covers(a.repository) {
		c.holdEntry(e)
		return e, nil, nil
	}
	f := c.flights[key+a.repository]
	if f == nil {
		f = c.startDownload(ctx, key, desc, ref, a, o)
	}
	f.waiters++
	if o.Progress != nil {
		f.progress = append(f.progress, o.Progress)
	}
	return nil, f, nil
}

// awaitFlight waits for a download, which ends when its last caller's context does.
func (c *Cache) awaitFlight(ctx context.Context, f *flight, id string) (*entry, error) {
	select {
	case <-f.done:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-f.done:
		// This happens even if the context ended at the same moment, because the
		// download counts this caller.
		return f.entry, f.err
	default:
	}
	if f.waiters--; f.waiters == 0 {
		f.cancel(context.Cause(ctx))
		// The next caller must not wait for a download that is being cancelled.
		delete(c.flights, id)
	}
	return nil, context.Cause(ctx)
}

// startDownload begins a download that may outlive its first caller's context, because
// others may wait for it too. The caller holds the lock.
func (c *Cache) startDownload(ctx context.Context, key string, desc *remote.Descriptor, ref name.Reference, a asker, o PullOptions) *flight {
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	f := &flight{done: make(chan struct{}), cancel: cancel}
	id := key + a.repository
	c.flights[id] = f
	c.wg.Go(func() {
		defer cancel(nil)
		e, err := c.download(work, key, desc, ref, a, o, f)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.flights[id] == f {
			delete(c.flights, id)
		}
		f.entry, f.err = e, err
		if err == nil {
			e.holders += f.waiters - 1
		}
		close(f.done)
	})
	return f
}
