package stewards

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Controller runs one Steward. Create it with New, then call Run once.
type Controller struct {
	cfg     Steward
	log     *slog.Logger
	deps    Deps
	wakes   *wakes
	metrics *metrics
	changes chan [2]*rendezvous
}

// New checks the steward and returns a controller for it that is not yet
// running.
func New(d Deps, s Steward) (*Controller, error) {
	if err := s.complete(); err != nil {
		return nil, err
	}
	if d.Logger == nil {
		return nil, fmt.Errorf("steward %s: Logger is nil", s.Name)
	}
	if s.Everywhere {
		d.Stewardship = nil
	}
	c := &Controller{
		cfg:     s,
		deps:    d,
		log:     d.Logger.With("controller", s.Name),
		wakes:   newWakes(s.MinBackoff, s.MaxBackoff),
		changes: make(chan [2]*rendezvous, 1),
	}
	var err error
	if c.metrics, err = newMetrics(s.Name, d.Registerer, c.wakes.queue.Len); err != nil {
		c.wakes.queue.ShutDown()
		return nil, fmt.Errorf("steward %s: register metrics: %w", s.Name, err)
	}
	return c, nil
}

// Declaration returns the steward that the controller runs, with its inputs and
// outputs.
func (c *Controller) Declaration() Steward { return c.cfg }

// Enqueue asks for key to be handled soon, if this host is its steward. The
// engine treats the call as a change by someone else. It never blocks and may
// be called at any time.
func (c *Controller) Enqueue(key Key) { c.named(key, 0) }

// lookAgain asks for key to be handled although nothing is known to have changed. That
// time has passed is no news: a failing key waits on for the end of its back-off.
func (c *Controller) lookAgain(key Key) {
	if !c.wakes.isFailing(key) {
		c.Enqueue(key)
	}
}

// named reports that a change concerns key. The revision is zero if it is not
// known.
func (c *Controller) named(key Key, revision uint64) {
	if c.mine(key) {
		c.metrics.added(key)
		c.wakes.nameKey(key, revision)
	}
}

// Run handles keys until ctx ends, then waits for the workers and returns. It
// returns an error only if the inputs never became ready.
func (c *Controller) Run(ctx context.Context) error {
	defer c.metrics.unregister()
	defer c.wakes.queue.ShutDown()
	if err := c.cfg.waitForInputs(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if c.deps.Stewardship != nil {
		defer c.deps.Stewardship.onChange(c.noteChange)()
	}
	for _, s := range c.cfg.sources() {
		defer subscribe(s, c.named)()
	}
	var wg sync.WaitGroup
	for range c.cfg.Workers {
		wg.Go(func() { c.work(ctx) })
	}
	c.attend(ctx)
	c.wakes.queue.ShutDown()
	wg.Wait()
	return nil
}

// noteChange hands a change of the membership to attend. When changes arrive
// faster than attend handles them, noteChange passes nil for the old members,
// and attend enqueues all keys: a key may have left and come back, and its
// notifications in between were dropped.
func (c *Controller) noteChange(before, after *rendezvous) {
	for {
		select {
		case c.changes <- [2]*rendezvous{before, after}:
			return
		case <-c.changes:
			before = nil
		}
	}
}

// attend enqueues the keys that this host gains when the membership changes,
// and all of its keys at every resync, until ctx ends.
func (c *Controller) attend(ctx context.Context) {
	var resync <-chan time.Time
	if c.cfg.Resync > 0 {
		// The jitter keeps controllers and hosts from resyncing in step.
		d := c.cfg.Resync + rand.N(c.cfg.Resync/5+1)
		t := time.NewTicker(d)
		defer t.Stop()
		resync = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case change := <-c.changes:
			c.rehome(change[0], change[1])
		case <-resync:
			c.eachKey(c.lookAgain)
		}
	}
}

// rehome enqueues the keys whose steward this host has become, or all of its
// keys if before is nil.
func (c *Controller) rehome(before, after *rendezvous) {
	self := c.deps.Stewardship.cfg.Self
	n := 0
	c.eachKey(func(key Key) {
		h := hashKey(c.cfg.Scope, key)
		if after.winner(h) == self && (before == nil || before.winner(h) != self) {
			n++
			c.metrics.added(key)
			c.wakes.nameKey(key, 0)
		}
	})
	c.log.Debug("members changed", "members", len(after.names), "keysGained", n)
}

func (c *Controller) eachKey(fn func(Key)) {
	for _, s := range c.cfg.sources() {
		for _, key := range s.Keys() {
			fn(key)
		}
	}
}

func (c *Controller) mine(key Key) bool {
	return c.deps.Stewardship == nil || c.deps.Stewardship.Mine(c.cfg.Scope, key)
}

func (c *Controller) work(ctx context.Context) {
	for {
		key, shutdown := c.wakes.queue.Get()
		if shutdown {
			return
		}
		if ctx.Err() == nil {
			c.handleKey(ctx, key)
		}
		c.wakes.queue.Done(key)
	}
}

// handleKey reconciles one key and decides when the key is handled again.
func (c *Controller) handleKey(ctx context.Context, key Key) {
	if !c.mine(key) {
		c.metrics.started(key)
		c.wakes.dropKey(key)
		if c.cfg.Moved != nil {
			c.cfg.Moved(key)
		}
		return
	}
	number, ok := c.wakes.beginAttempt(key)
	if !ok {
		return
	}
	c.metrics.started(key)
	a := &attempt{loop: c, key: key, number: number}
	start := time.Now()
	res, err := c.reconcile(a.in(ctx), key)
	c.metrics.finished(start, err)
	if err == nil || ctx.Err() != nil {
		// A failure while shutting down is most likely caused by the shutdown.
		c.wakes.succeeded(key, res, a.wrote.Load())
		return
	}
	failures := c.wakes.failed(key)
	c.logFailure(key, failures, err)
}

// logFailure logs a failed reconciliation. A lost race is normal and is logged
// at debug level, any other failure as a warning.
func (c *Controller) logFailure(key Key, failures int, err error) {
	level := slog.LevelWarn
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		level = slog.LevelDebug
	}
	c.log.Log(context.Background(), level, "reconciliation failed", "key", key.String(), "failures", failures, "err", err)
}

// reconcile calls the reconciler with a deadline and turns a panic into an
// error, so that one broken object cannot stop the loop for all others.
func (c *Controller) reconcile(ctx context.Context, key Key) (res Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			c.metrics.panics.Inc()
			c.log.Error("reconciliation panicked", "key", key.String(), "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return c.cfg.Reconciler.Reconcile(ctx, key)
}
