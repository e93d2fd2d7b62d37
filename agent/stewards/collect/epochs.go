package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// EpochsConfig describes an Epochs.
type EpochsConfig struct {
	// Store, Cache and Claims are the agent's. Required.
	Store  objects.Store
	Cache  *objects.Cache
	Claims *claims.Cache
	// Stewardship chooses the host that sweeps. Nil: this one does.
	Stewardship *stewards.Stewardship
	// Interval is how often unused names are looked for.
	Interval time.Duration
	// Logger receives failures. Required.
	Logger *slog.Logger
}

// DefaultEpochsConfig returns the settings to start from.
func DefaultEpochsConfig() EpochsConfig { return EpochsConfig{Interval: time.Minute} }

// Validate reports what is missing or contradicts itself.
func (c EpochsConfig) Validate() error {
	if c.Store == nil || c.Cache == nil || c.Claims == nil || c.Logger == nil {
		return errors.New("epoch sweeper: Store, Cache, Claims and Logger are required")
	}
	if c.Interval <= 0 {
		return errors.New("epoch sweeper: Interval must be more than 0")
	}
	return nil
}

// Epochs forgets the epochs of names that nothing has any more: no machine, no
// instance and no claim. Every forgetting moves the floor, on which placements
// of new names depend; so they are gathered and done by one host.
//
// What it goes by may be old. That does no harm: the store refuses to forget
// the epoch of an instance with a claim, and one that comes back under the name
// begins above the floor. The guards of namespaces that are gone go with them.
type Epochs struct {
	cfg  EpochsConfig
	vms  *objects.Informer[*kubevirtv1.VirtualMachine]
	vmis *objects.Informer[*kubevirtv1.VirtualMachineInstance]

	namespaces *objects.Informer[*corev1.Namespace]
}

// NewEpochs checks cfg and returns a sweeper that is not yet running.
func NewEpochs(cfg EpochsConfig) (*Epochs, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Epochs{
		cfg:  cfg,
		vms:  objects.For[*kubevirtv1.VirtualMachine](cfg.Cache),
		vmis: objects.For[*kubevirtv1.VirtualMachineInstance](cfg.Cache),

		namespaces: objects.For[*corev1.Namespace](cfg.Cache),
	}, nil
}

// Run forgets unused names until ctx ends.
func (e *Epochs) Run(ctx context.Context) error {
	for _, s := range []interface{ WaitForSync(context.Context) error }{e.cfg.Claims, e.vms, e.vmis, e.namespaces} {
		if s.WaitForSync(ctx) != nil {
			return nil // ctx has ended
		}
	}
	t := time.NewTicker(e.cfg.Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			err := e.sweep(ctx)
			switch {
			case err == nil || ctx.Err() != nil:
			case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err):
				e.cfg.Logger.Debug("a name came back into use while it was to be forgotten", "err", err)
			default:
				e.cfg.Logger.Warn("epochs of unused names were not forgotten", "err", err)
			}
		}
	}
}

// sweep forgets up to sweepBatch names; the rest has time.
func (e *Epochs) sweep(ctx context.Context) error {
	if e.cfg.Stewardship != nil && !e.cfg.Stewardship.Mine("epochs", stewards.Key{Name: "epochs"}) {
		return nil
	}
	unused := map[objects.Key]claims.Epoch{}
	for key, last := range e.cfg.Claims.Epochs() {
		if len(unused) == sweepBatch {
			break
		}
		if e.unused(key, last) {
			unused[key] = last
		}
	}
	var tx objects.Tx
	claims.ForgetEpochs(&tx, e.cfg.Claims.Floor(), unused)
	e.forgetGuards(&tx)
	if _, err := tx.Commit(ctx, e.cfg.Store); err != nil {
		return fmt.Errorf("forget epochs: %w", err)
	}
	return nil
}

// forgetGuards removes the guards of namespaces that do not exist and in which
// nothing runs.
func (e *Epochs) forgetGuards(tx *objects.Tx) {
	guards := e.cfg.Claims.Guards()
	delete(guards, claims.AllNamespaces)
	if len(guards) == 0 {
		return
	}
	for _, in := range e.cfg.Claims.Instances() {
		delete(guards, in.Namespace)
	}
	for ns, revision := range guards {
		if _, exists := e.namespaces.Get(objects.Key{Name: ns}); !exists {
			claims.ForgetGuard(tx, ns, revision)
		}
	}
}

func (e *Epochs) unused(key objects.Key, last claims.Epoch) bool {
	if _, ok := e.vms.Get(key); ok {
		return false
	}
	if _, ok := e.vmis.Get(key); ok {
		return false
	}
	_, claimed := e.cfg.Claims.Instance(last.UID)
	return !claimed
}
