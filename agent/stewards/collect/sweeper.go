package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// SweeperConfig describes a Sweeper.
type SweeperConfig struct {
	// Host is the name of this host.
	Host string
	// Store, Cache and Claims are the agent's. Required.
	Store  objects.Store
	Cache  *objects.Cache
	Claims *claims.Cache
	// HasGuest reports whether this host still has a guest of the instance,
	// running or not. While it has, the claim is kept. Required.
	HasGuest func(ctx context.Context, uid types.UID) (bool, error)
	// Retry is how long to wait for a guest to be removed.
	Retry time.Duration
	// Logger receives failures. Required.
	Logger *slog.Logger
	// Registerer receives the metrics. May be nil.
	Registerer prometheus.Registerer
}

// DefaultSweeperConfig returns the settings to start from.
func DefaultSweeperConfig() SweeperConfig { return SweeperConfig{Retry: 5 * time.Second} }

// Validate reports what is missing or contradicts itself.
func (c SweeperConfig) Validate() error {
	switch {
	case c.Host == "":
		return errors.New("claim sweeper: Host is empty")
	case c.Store == nil || c.Cache == nil || c.Claims == nil || c.HasGuest == nil || c.Logger == nil:
		return errors.New("claim sweeper: Store, Cache, Claims, HasGuest and Logger are required")
	case c.Retry <= 0:
		return errors.New("claim sweeper: Retry must be more than 0")
	}
	return nil
}

// Sweeper gives up the claims on this host of instances that do not exist any
// more. Normally the claim goes in the transaction that lets go of the
// instance; one that lost its finalizers by force leaves it behind, and with
// it room on the host and the right to its name.
//
// Only the host that a claim names sweeps it, after its guest is gone: nobody
// else can know.
type Sweeper struct {
	cfg    SweeperConfig
	vmis   *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	engine *stewards.Controller
}

// NewSweeper checks cfg and returns a sweeper that is not yet running.
func NewSweeper(cfg SweeperConfig) (*Sweeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Sweeper{cfg: cfg, vmis: objects.For[*kubevirtv1.VirtualMachineInstance](cfg.Cache)}
	engine := stewards.DefaultConfig()
	engine.Name, engine.Workers = "claim-sweeper", 1
	engine.Reconciler = stewards.ReconcilerFunc(s.reconcile)
	engine.Sources = []stewards.Source{ownClaims{s}}
	engine.Logger, engine.Registerer = cfg.Logger, cfg.Registerer
	var err error
	s.engine, err = stewards.New(engine)
	return s, err
}

// Run sweeps until ctx ends.
func (s *Sweeper) Run(ctx context.Context) error { return s.engine.Run(ctx) }

// ownClaims names the claims on this host by uid: when they come, and when
// their instance goes.
type ownClaims struct{ *Sweeper }

var _ stewards.Source = ownClaims{}

// Subscribe implements controller.Source.
func (o ownClaims) Subscribe(fn func(stewards.Key)) (cancel func()) {
	stopClaims := o.cfg.Claims.AddHandler(func(ev claims.Event) {
		if ev.Instance != nil && ev.Instance.New != nil && ev.Instance.New.Host == o.cfg.Host {
			fn(stewards.Key{Name: string(ev.Instance.New.UID)})
		}
	})
	stopInstances := o.vmis.AddHandler(func(c objects.Change[*kubevirtv1.VirtualMachineInstance]) {
		if c.Old != nil && (c.New == nil || c.New.UID != c.Old.UID) {
			fn(stewards.Key{Name: string(c.Old.UID)})
		}
	})
	return func() {
		stopClaims()
		stopInstances()
	}
}

// Keys implements controller.Source.
func (o ownClaims) Keys() []stewards.Key {
	var keys []stewards.Key
	for _, in := range o.cfg.Claims.OnHost(o.cfg.Host) {
		keys = append(keys, stewards.Key{Name: string(in.UID)})
	}
	return keys
}

// WaitForSync implements controller.Source.
func (o ownClaims) WaitForSync(ctx context.Context) error {
	if err := o.vmis.WaitForSync(ctx); err != nil {
		return err
	}
	return o.cfg.Claims.WaitForSync(ctx)
}

// reconcile handles the claim of one uid.
func (s *Sweeper) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	uid := types.UID(key.Name)
	in, ok := s.cfg.Claims.Instance(uid)
	if !ok || in.Host != s.cfg.Host {
		return stewards.Result{}, nil
	}
	if vmi, ok := s.vmis.Get(in.Key()); ok && vmi.UID == uid {
		return stewards.Result{}, nil
	}
	// The mesh has the last word, not this replica.
	vmi, err := objects.Get[*kubevirtv1.VirtualMachineInstance](ctx, s.cfg.Store, in.Key(), raftstore.ReadOptions{})
	switch {
	case err == nil && vmi.UID == uid:
		return stewards.Result{}, nil
	case err != nil && !apierrors.IsNotFound(err):
		return stewards.Result{}, err
	}
	has, err := s.cfg.HasGuest(ctx, uid)
	if err != nil {
		return stewards.Result{}, fmt.Errorf("look for the guest of %s: %w", in.Key(), err)
	}
	if has {
		return stewards.Result{RequeueAfter: s.cfg.Retry}, nil
	}
	var tx objects.Tx
	for _, vol := range s.cfg.Claims.VolumesOf(uid) {
		claims.Detach(&tx, vol, uid)
	}
	claims.Release(&tx, in)
	if _, err := tx.Commit(ctx, s.cfg.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("give up the claim of %s, which does not exist: %w", in.Key(), err)
	}
	s.cfg.Logger.Info("gave up the claim of an instance that does not exist", "instance", in.Key().String(), "uid", uid)
	return stewards.Result{}, nil
}
