package objects

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"
)

// CacheConfig describes a Cache.
type CacheConfig struct {
	// Store is watched. Required.
	Store Store
	// Logger receives failures of the watches. Required.
	Logger *slog.Logger
	// RetryMin and RetryMax bound the delay between attempts to list and watch.
	RetryMin, RetryMax time.Duration
}

// DefaultCacheConfig returns the default settings, without the required fields.
func DefaultCacheConfig() CacheConfig {
	return CacheConfig{RetryMin: 50 * time.Millisecond, RetryMax: 5 * time.Second}
}

// Validate reports what is missing or contradicts itself.
func (c CacheConfig) Validate() error {
	switch {
	case c.Store == nil:
		return errors.New("objects: CacheConfig.Store is nil")
	case c.Logger == nil:
		return errors.New("objects: CacheConfig.Logger is nil")
	case c.RetryMin <= 0 || c.RetryMax < c.RetryMin:
		return errors.New("objects: CacheConfig wants 0 < RetryMin <= RetryMax")
	}
	return nil
}

// Cache owns the informers of one agent. It runs one watch for each requested kind,
// however many users the informer has.
type Cache struct {
	cfg CacheConfig

	mu        sync.Mutex
	informers map[reflect.Type]any
	waiting   []runner      // requested, not yet started by Run
	wake      chan struct{} // holds one token
}

// runner is an informer of any type.
type runner interface{ run(ctx context.Context) }

// NewCache returns a cache without informers. For adds them and Run fills them.
func NewCache(cfg CacheConfig) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Cache{cfg: cfg, informers: map[reflect.Type]any{}, wake: make(chan struct{}, 1)}, nil
}

// For returns the informer of the kind T. It may be called before and after Run has
// started; the informer's WaitForSync waits until it is filled.
func For[T Object](c *Cache) *Informer[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := reflect.TypeFor[T]()
	if have, ok := c.informers[t]; ok {
		return have.(*Informer[T])
	}
	inf := newInformer[T](c.cfg)
	c.informers[t] = inf
	c.addRunner(inf)
	return inf
}

// Records keeps sink up to date with the records below a prefix that are not objects,
// while Run runs.
func (c *Cache) Records(prefix string, sink Sink) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addRunner(&reflector{
		store: c.cfg.Store, prefix: prefix, sink: sink, log: c.cfg.Logger,
		retryMin: c.cfg.RetryMin, retryMax: c.cfg.RetryMax,
	})
}

// addRunner queues r for Run. The caller holds c.mu.
func (c *Cache) addRunner(r runner) {
	c.waiting = append(c.waiting, r)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run keeps the informers up to date until ctx ends, and returns when all their
// goroutines have ended.
func (c *Cache) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.mu.Lock()
		started := c.waiting
		c.waiting = nil
		c.mu.Unlock()
		for _, r := range started {
			wg.Go(func() { r.run(ctx) })
		}
	}
}
