package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"

	"virtmesh/agent/claims"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/schedule/place"
)

// Config describes the placement controller.
type Config struct {
	stewards.Deps
	// View is what the agent knows of the mesh. Required.
	View *View
	// Offers asks the chosen host. Nil: hosts are not asked.
	Offers Offers
	// Volumes locates volumes. Required.
	Volumes Volumes
	// Policy holds the settings that are not in the MeshConfig. The MeshConfig
	// is read for each decision.
	Policy place.Policy
	// Workers is the number of instances placed at the same time.
	Workers int
	// MaxOffers is how many hosts are asked before giving up for now.
	MaxOffers int
	// OfferTimeout bounds the wait for one host.
	OfferTimeout time.Duration
	// RetryMin is the delay before an instance that fits nowhere is tried
	// again; it doubles up to RetryMax. The wait ends early when room appears.
	RetryMin, RetryMax time.Duration
}

// DefaultConfig returns the settings to start from.
func DefaultConfig() Config {
	return Config{
		Policy: place.DefaultPolicy(), Workers: 8, MaxOffers: 5, OfferTimeout: 3 * time.Second,
		RetryMin: time.Second, RetryMax: time.Minute,
	}
}

// Validate reports what is missing or contradicts itself.
func (c Config) Validate() error {
	switch {
	case c.Store == nil || c.Cache == nil || c.Claims == nil || c.View == nil || c.Volumes == nil || c.Recorder == nil || c.Logger == nil:
		return errors.New("placement controller: Store, Cache, Claims, View, Volumes, Recorder and Logger are required")
	case c.Workers < 1 || c.MaxOffers < 1:
		return errors.New("placement controller: Workers and MaxOffers must be at least 1")
	case c.OfferTimeout <= 0 || c.RetryMin <= 0 || c.RetryMax < c.RetryMin:
		return errors.New("placement controller: want OfferTimeout > 0 and 0 < RetryMin <= RetryMax")
	}
	if err := c.Policy.Validate(); err != nil {
		return fmt.Errorf("placement controller: policy: %w", err)
	}
	return nil
}

// Controller is the control loop that places instances.
type Controller struct {
	cfg     Config
	log     *slog.Logger
	vmis    *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	mesh    *objects.Informer[*meshv1alpha1.MeshConfig]
	engine  *stewards.Controller
	figures *metrics
	room    chan struct{} // holds one token

	mu      sync.Mutex
	waiting map[stewards.Key]wait // instances that fit nowhere
	noted   bool                  // there is more than room on disk, see noteRoom
}

// wait is what is known of an instance that fits nowhere.
type wait struct {
	attempts int  // that failed
	forDisk  bool // the last one for lack of room on disk, perhaps among other things
}

// New checks cfg and returns a controller that is not yet running.
func New(cfg Config) (*Controller, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	var err error
	if cfg.Deps, err = cfg.Deps.Complete(); err != nil {
		return nil, err
	}
	figures, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	c := &Controller{
		cfg: cfg, log: cfg.Logger.With("controller", "placement"), figures: figures,
		vmis:    objects.For[*kubevirtv1.VirtualMachineInstance](cfg.Cache),
		mesh:    objects.For[*meshv1alpha1.MeshConfig](cfg.Cache),
		room:    make(chan struct{}, 1),
		waiting: map[stewards.Key]wait{},
	}
	c.engine, err = stewards.New(cfg.Deps, stewards.Steward{
		Name: "placement", Scope: "virtualmachineinstances", Workers: cfg.Workers,
		Reconciler: stewards.ReconcilerFunc(c.reconcile), Moved: c.stopWaiting,
		Inputs: []stewards.Input{
			stewards.Watch[*kubevirtv1.VirtualMachineInstance](cfg.Cache),
			stewards.ReadsClaims(cfg.Claims),
			stewards.Reads[*meshv1alpha1.MeshConfig](cfg.Cache),
			{What: "hosts: facts, Node, capacity (room wakes the instances that wait for it)"},
			{What: "PersistentVolumeClaim, DataVolume (a change wakes the instances that wait)"},
		},
		Outputs: []stewards.Output{
			stewards.WritesFields[*kubevirtv1.VirtualMachineInstance]("status", "metadata.finalizers", "metadata.labels"),
			stewards.WritesRecords("claims: instance, epoch, guards", claims.Prefix),
			stewards.WritesEvents(),
		},
	})
	if err != nil {
		figures.unregister()
		return nil, err
	}
	return c, nil
}

// Declaration returns the steward with its inputs and outputs.
func (c *Controller) Declaration() stewards.Steward { return c.engine.Declaration() }

// Run places instances until ctx ends. The View must be running.
func (c *Controller) Run(ctx context.Context) error {
	defer c.figures.unregister()
	defer c.cfg.View.OnRoom(c.noteRoom)()
	pvcs := objects.For[*corev1.PersistentVolumeClaim](c.cfg.Cache)
	defer pvcs.AddHandler(func(objects.Change[*corev1.PersistentVolumeClaim]) { c.noteRoom(false) })()
	dvs := objects.For[*cdiv1.DataVolume](c.cfg.Cache)
	defer dvs.AddHandler(func(objects.Change[*cdiv1.DataVolume]) { c.noteRoom(false) })()
	defer c.cfg.Claims.AddHandler(func(ev claims.Event) {
		if ev.Quarantine != nil {
			c.noteRoom(false)
		}
	})()
	defer c.mesh.AddHandler(func(objects.Change[*meshv1alpha1.MeshConfig]) { c.noteRoom(false) })()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { c.retryOnRoom(ctx) })
	return c.engine.Run(ctx)
}

// noteRoom asks for the waiting instances to be tried again; with diskOnly, for those that
// wait for room on disk.
func (c *Controller) noteRoom(diskOnly bool) {
	c.mu.Lock()
	c.noted = c.noted || !diskOnly
	c.mu.Unlock()
	select {
	case c.room <- struct{}{}:
	default:
	}
}

// roomDelay is how long changes that make room are gathered. A host that
// returns, or an instance that ends, causes many of them.
const roomDelay = 100 * time.Millisecond

// retryOnRoom enqueues the waiting instances when there may be room for them.
func (c *Controller) retryOnRoom(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.room:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(roomDelay):
		}
		c.mu.Lock()
		keys := make([]stewards.Key, 0, len(c.waiting))
		for key, w := range c.waiting {
			if c.noted || w.forDisk {
				keys = append(keys, key)
			}
		}
		c.noted = false
		c.mu.Unlock()
		for _, key := range keys {
			c.engine.Enqueue(key)
		}
	}
}

// countAttempt counts a failed attempt and returns when to try again by itself.
func (c *Controller) countAttempt(key stewards.Key, forDisk bool) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.waiting[key].attempts
	c.waiting[key] = wait{attempts: n + 1, forDisk: forDisk}
	return min(c.cfg.RetryMax, c.cfg.RetryMin<<min(n, 20))
}

// stopWaiting removes an instance from those that wait on this host, because it
// has a host, is gone, or has another steward.
func (c *Controller) stopWaiting(key stewards.Key) {
	c.figures.forgetInstance(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, key)
}
