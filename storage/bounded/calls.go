package bounded

import (
	"context"
	"fmt"
	"time"

	"virtmesh/storage"
	"virtmesh/storage/filedisk"
)

// do runs fn with the pool and returns what it returns, or gives it up: when the storage
// does not answer, or when ctx has ended and the grace is over.
func do[T any](ctx context.Context, p *Pool, fn func(context.Context, storage.Pool) (T, error)) (T, error) {
	var zero T
	inner, silent, err := p.begin(ctx)
	if err != nil {
		return zero, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		value T
		err   error
	}
	outcomes := make(chan outcome, 1)
	ended := make(chan struct{})
	go func() {
		value, err := fn(ctx, inner)
		outcomes <- outcome{value, err}
		close(ended)
		<-p.slots
	}()
	ctxEnded, patience := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case o := <-outcomes:
			return o.value, o.err
		case <-silent:
			return zero, p.giveUp(ended, p.errOr(ErrSilent))
		case <-ctxEnded:
			// It may end in good order, and so leave nothing behind.
			timer := time.NewTimer(p.cfg.Grace)
			defer timer.Stop()
			ctxEnded, patience = nil, timer.C
		case <-patience:
			return zero, p.giveUp(ended, ctx.Err())
		}
	}
}

// begin takes a slot for a call, and returns the pool to call.
func (p *Pool) begin(ctx context.Context) (storage.Pool, chan struct{}, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	p.mu.Lock()
	inner, silent, err, closed := p.inner, p.silent, p.err, p.isClosed()
	p.mu.Unlock()
	switch {
	case closed:
		return nil, nil, p.closedError()
	case err != nil:
		return nil, nil, err
	}
	timer := time.NewTimer(p.cfg.Patience)
	defer timer.Stop()
	select {
	case p.slots <- struct{}{}:
		return inner, silent, nil
	case <-silent:
		return nil, nil, p.errOr(ErrSilent)
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-timer.C:
		return nil, nil, fmt.Errorf("pool %s: %w: %d calls are under way", p.cfg.Name, storage.ErrBusy, cap(p.slots))
	}
}

// errOr returns why the pool cannot be used, or fallback if it can be again.
func (p *Pool) errOr(fallback error) error {
	if err := p.Err(); err != nil {
		return err
	}
	return fmt.Errorf("pool %s: %w", p.cfg.Name, fallback)
}

// giveUp counts a call as given up until it ends, and returns err.
func (p *Pool) giveUp(ended <-chan struct{}, err error) error {
	p.addGivenUp(1)
	go func() {
		<-ended
		p.addGivenUp(-1)
	}()
	return err
}

func (p *Pool) addGivenUp(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.givenUp += n
}

// Info implements storage.Pool. Before the pool was opened, it has only the name.
func (p *Pool) Info() storage.Info {
	if inner := p.opened(); inner != nil {
		return inner.Info()
	}
	return storage.Info{Name: p.cfg.Name}
}

// Create implements storage.Pool.
func (p *Pool) Create(ctx context.Context, spec storage.VolumeSpec) (storage.Volume, error) {
	return do(ctx, p, func(ctx context.Context, inner storage.Pool) (storage.Volume, error) { return inner.Create(ctx, spec) })
}

// Get implements storage.Pool.
func (p *Pool) Get(ctx context.Context, name string) (storage.Volume, error) {
	return do(ctx, p, func(ctx context.Context, inner storage.Pool) (storage.Volume, error) { return inner.Get(ctx, name) })
}

// List implements storage.Pool.
func (p *Pool) List(ctx context.Context) ([]storage.Volume, error) {
	return do(ctx, p, func(ctx context.Context, inner storage.Pool) ([]storage.Volume, error) { return inner.List(ctx) })
}

// Delete implements storage.Pool.
func (p *Pool) Delete(ctx context.Context, name string) error {
	return act(ctx, p, func(ctx context.Context, inner storage.Pool) error { return inner.Delete(ctx, name) })
}

// Expand implements storage.Pool.
func (p *Pool) Expand(ctx context.Context, name string, size int64) (storage.Volume, error) {
	return do(ctx, p, func(ctx context.Context, inner storage.Pool) (storage.Volume, error) {
		return inner.Expand(ctx, name, size)
	})
}

// Usage implements storage.Pool. Who asks while the volumes are being counted for another
// caller gets the same answer: it takes a while where there are many.
func (p *Pool) Usage(ctx context.Context) (storage.Usage, error) {
	if err := ctx.Err(); err != nil {
		return storage.Usage{}, err
	}
	answers := p.usage.DoChan("usage", func() (any, error) {
		return do(context.WithoutCancel(ctx), p, func(ctx context.Context, inner storage.Pool) (storage.Usage, error) { return inner.Usage(ctx) })
	})
	select {
	case answer := <-answers:
		usage, _ := answer.Val.(storage.Usage)
		return usage, answer.Err
	case <-ctx.Done():
		return storage.Usage{}, ctx.Err()
	}
}

// Disk returns the properties of the disk in a volume, at the path that the pool gave.
func (p *Pool) Disk(ctx context.Context, path string) (filedisk.Properties, error) {
	return do(ctx, p, func(context.Context, storage.Pool) (filedisk.Properties, error) { return filedisk.Probe(path), nil })
}

// Snapshot implements storage.Snapshotter.
func (p *Pool) Snapshot(ctx context.Context, volume, name string) (storage.Snapshot, error) {
	return snapshots(ctx, p, func(ctx context.Context, inner storage.Snapshotter) (storage.Snapshot, error) {
		return inner.Snapshot(ctx, volume, name)
	})
}

// Snapshots implements storage.Snapshotter.
func (p *Pool) Snapshots(ctx context.Context, volume string) ([]storage.Snapshot, error) {
	return snapshots(ctx, p, func(ctx context.Context, inner storage.Snapshotter) ([]storage.Snapshot, error) {
		return inner.Snapshots(ctx, volume)
	})
}

// DeleteSnapshot implements storage.Snapshotter.
func (p *Pool) DeleteSnapshot(ctx context.Context, volume, name string) error {
	_, err := snapshots(ctx, p, func(ctx context.Context, inner storage.Snapshotter) (struct{}, error) {
		return struct{}{}, inner.DeleteSnapshot(ctx, volume, name)
	})
	return err
}

// Restore implements storage.Snapshotter. The volume must not be used after Restore was
// given up, until a Restore has succeeded.
func (p *Pool) Restore(ctx context.Context, volume, name string) (storage.Volume, error) {
	return snapshots(ctx, p, func(ctx context.Context, inner storage.Snapshotter) (storage.Volume, error) {
		return inner.Restore(ctx, volume, name)
	})
}

// act is do for what returns no more than an error.
func act(ctx context.Context, p *Pool, fn func(context.Context, storage.Pool) error) error {
	_, err := do(ctx, p, func(ctx context.Context, inner storage.Pool) (struct{}, error) { return struct{}{}, fn(ctx, inner) })
	return err
}

// snapshots is do for a pool that keeps snapshots.
func snapshots[T any](ctx context.Context, p *Pool, fn func(context.Context, storage.Snapshotter) (T, error)) (T, error) {
	return do(ctx, p, func(ctx context.Context, inner storage.Pool) (T, error) {
		if s, ok := inner.(storage.Snapshotter); ok {
			return fn(ctx, s)
		}
		var zero T
		return zero, fmt.Errorf("pool %s: snapshots: %w", p.cfg.Name, storage.ErrUnsupported)
	})
}
