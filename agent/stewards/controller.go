package stewards

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
)

// Key names one object: namespace (empty for cluster-scoped kinds) and name.
type Key = types.NamespacedName

// Result is the outcome of a successful reconciliation.
type Result struct {
	// RequeueAfter asks for the key to be handled again after this time.
	// Zero means: only when a source names it again.
	RequeueAfter time.Duration
	// Pending says that the work goes on outside of the reconciler, and that a
	// source will name the key when it has ended. Failures before it still
	// count, so that work that fails each time is begun ever more slowly.
	Pending bool
}

// Reconciler makes the world fit one object.
type Reconciler interface {
	// Reconcile handles the object named key, which may no longer exist. It
	// may be called by several workers at once, but never twice at once for
	// one key. It must be repeatable: the engine calls it again after an
	// error, a restart, a change of steward, or for no reason at all.
	Reconcile(ctx context.Context, key Key) (Result, error)
}

// ReconcilerFunc is a function that is a Reconciler.
type ReconcilerFunc func(ctx context.Context, key Key) (Result, error)

// Reconcile calls f.
func (f ReconcilerFunc) Reconcile(ctx context.Context, key Key) (Result, error) { return f(ctx, key) }

// Source tells a controller which keys may need work.
type Source interface {
	// Subscribe calls fn for every key that may need work from now on, until
	// cancel is called. fn does not block. A subscriber also hears of the
	// keys that exist already.
	Subscribe(fn func(Key)) (cancel func())
	// Keys returns the keys that exist now; the engine walks them when the
	// stewards change and at every resync.
	Keys() []Key
	// WaitForSync returns when the source has seen everything that existed
	// when it started, or with the context's error.
	WaitForSync(ctx context.Context) error
}

// Config describes a controller.
type Config struct {
	// Name identifies the controller in logs and metrics.
	Name string
	// Scope is hashed with the key to find the steward. Empty means Name.
	Scope string
	// Reconciler does the work.
	Reconciler Reconciler
	// Sources name the keys. At least one.
	Sources []Source
	// Stewardship decides which keys are handled here. Nil: all of them.
	Stewardship *Stewardship
	// Moved, if set, is told a key that has come up here and has another steward
	// now, so that what is remembered of it can go. A key that was handled here
	// and asked to come back always comes up.
	Moved func(Key)
	// Workers is the number of keys handled at the same time.
	Workers int
	// MinBackoff is the delay after the first failure of a key; it doubles
	// with every further failure up to MaxBackoff.
	MinBackoff, MaxBackoff time.Duration
	// Timeout ends the context of one reconciliation.
	Timeout time.Duration
	// Resync is how often every key handled here is looked at without cause,
	// as a net under missed notifications. Zero: never.
	Resync time.Duration
	// Logger receives failures. Required.
	Logger *slog.Logger
	// Registerer receives the metrics. Nil: none are registered.
	Registerer prometheus.Registerer
}

// DefaultConfig returns the settings most controllers use; Name, Reconciler,
// Sources and Logger remain to be set.
func DefaultConfig() Config {
	return Config{
		Workers:    4,
		MinBackoff: 100 * time.Millisecond,
		MaxBackoff: time.Minute,
		Timeout:    time.Minute,
		Resync:     10 * time.Minute,
	}
}

// Validate reports what is missing or contradicts itself.
func (c Config) Validate() error {
	switch {
	case c.Name == "":
		return errors.New("controller: Name is empty")
	case c.Reconciler == nil:
		return fmt.Errorf("controller %s: Reconciler is nil", c.Name)
	case len(c.Sources) == 0:
		return fmt.Errorf("controller %s: no Sources", c.Name)
	case c.Logger == nil:
		return fmt.Errorf("controller %s: Logger is nil", c.Name)
	case c.Workers < 1:
		return fmt.Errorf("controller %s: Workers is %d, want at least 1", c.Name, c.Workers)
	case c.MinBackoff <= 0 || c.MaxBackoff < c.MinBackoff:
		return fmt.Errorf("controller %s: want 0 < MinBackoff <= MaxBackoff, have %s and %s", c.Name, c.MinBackoff, c.MaxBackoff)
	case c.Timeout <= 0:
		return fmt.Errorf("controller %s: Timeout is %s, want more than 0", c.Name, c.Timeout)
	case c.Resync < 0:
		return fmt.Errorf("controller %s: Resync is negative", c.Name)
	}
	return nil
}

// Controller runs one Reconciler. Create it with New, then call Run once.
type Controller struct {
	cfg     Config
	log     *slog.Logger
	queue   workqueue.TypedRateLimitingInterface[Key]
	metrics *metrics
	changes chan [2]*rendezvous
}

// New checks cfg and returns a controller that is not yet running.
func New(cfg Config) (*Controller, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Scope == "" {
		cfg.Scope = cfg.Name
	}
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[Key](cfg.MinBackoff, cfg.MaxBackoff)
	c := &Controller{
		cfg:     cfg,
		log:     cfg.Logger.With("controller", cfg.Name),
		queue:   workqueue.NewTypedRateLimitingQueue(limiter),
		changes: make(chan [2]*rendezvous, 1),
	}
	var err error
	if c.metrics, err = newMetrics(cfg.Name, cfg.Registerer, c.queue.Len); err != nil {
		c.queue.ShutDown()
		return nil, fmt.Errorf("controller %s: register metrics: %w", cfg.Name, err)
	}
	return c, nil
}

// Enqueue asks for key to be handled soon, if this host is its steward. It
// never blocks and may be called at any time.
func (c *Controller) Enqueue(key Key) {
	if c.mine(key) {
		c.metrics.added(key)
		c.queue.Add(key)
	}
}

// Run handles keys until ctx ends, then waits for the workers and returns. It
// returns an error only if the sources never became ready.
func (c *Controller) Run(ctx context.Context) error {
	defer c.metrics.unregister()
	defer c.queue.ShutDown()
	for _, s := range c.cfg.Sources {
		if err := s.WaitForSync(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("controller %s: wait for sources: %w", c.cfg.Name, err)
		}
	}
	if c.cfg.Stewardship != nil {
		defer c.cfg.Stewardship.onChange(c.noteChange)()
	}
	for _, s := range c.cfg.Sources {
		defer s.Subscribe(c.Enqueue)()
	}
	var wg sync.WaitGroup
	for range c.cfg.Workers {
		wg.Go(func() { c.work(ctx) })
	}
	c.attend(ctx)
	c.queue.ShutDown()
	wg.Wait()
	return nil
}

// noteChange hands a change of the membership to attend. When changes arrive
// faster than they are attended to, the comparison is given up (nil before):
// a key may have left and come back, and its notifications in between were
// dropped.
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

// attend re-homes keys when stewards change, and resyncs, until ctx ends.
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
			c.eachKey(c.Enqueue)
		}
	}
}

// rehome enqueues the keys that have come to this host; all of its keys if
// before is nil.
func (c *Controller) rehome(before, after *rendezvous) {
	self := c.cfg.Stewardship.self
	n := 0
	c.eachKey(func(key Key) {
		h := hashKey(c.cfg.Scope, key)
		if after.winner(h) == self && (before == nil || before.winner(h) != self) {
			n++
			c.metrics.added(key)
			c.queue.Add(key)
		}
	})
	c.log.Debug("members changed", "members", len(after.names), "keysGained", n)
}

func (c *Controller) eachKey(fn func(Key)) {
	for _, s := range c.cfg.Sources {
		for _, key := range s.Keys() {
			fn(key)
		}
	}
}

func (c *Controller) mine(key Key) bool {
	return c.cfg.Stewardship == nil || c.cfg.Stewardship.Mine(c.cfg.Scope, key)
}

func (c *Controller) work(ctx context.Context) {
	for {
		key, shutdown := c.queue.Get()
		if shutdown {
			return
		}
		if ctx.Err() == nil {
			c.handle(ctx, key)
		}
		c.queue.Done(key)
	}
}

// handle reconciles one key and decides when it comes back.
func (c *Controller) handle(ctx context.Context, key Key) {
	c.metrics.started(key)
	if !c.mine(key) {
		c.queue.Forget(key)
		if c.cfg.Moved != nil {
			c.cfg.Moved(key)
		}
		return
	}
	start := time.Now()
	res, err := c.reconcile(ctx, key)
	c.metrics.finished(start, err)
	switch {
	case err == nil:
		if !res.Pending {
			c.queue.Forget(key)
		}
		if res.RequeueAfter > 0 {
			c.queue.AddAfter(key, res.RequeueAfter)
		}
	case ctx.Err() != nil:
		// Shutting down: the failure is most likely ours.
	default:
		c.logFailure(key, err)
		c.queue.AddRateLimited(key)
	}
}

// logFailure tells losses of a race, which are normal, from real failures.
func (c *Controller) logFailure(key Key, err error) {
	level := slog.LevelWarn
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		level = slog.LevelDebug
	}
	c.log.Log(context.Background(), level, "reconciliation failed", "key", key.String(),
		"failures", c.queue.NumRequeues(key)+1, "err", err)
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
