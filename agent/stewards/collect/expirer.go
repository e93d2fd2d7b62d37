package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// ExpirerConfig describes an Expirer.
type ExpirerConfig struct {
	// Store is the agent's. Required.
	Store objects.Store
	// Stewardship spreads the events over the hosts. Nil: all are handled.
	Stewardship *stewards.Stewardship
	// TTL is how long an event is kept after it last happened.
	TTL time.Duration
	// Interval is how often old events are looked for.
	Interval time.Duration
	// Logger receives failures. Required.
	Logger *slog.Logger
}

// DefaultExpirerConfig returns the settings to start from: events live for an
// hour, as in Kubernetes.
func DefaultExpirerConfig() ExpirerConfig {
	return ExpirerConfig{TTL: time.Hour, Interval: 5 * time.Minute}
}

// Validate reports what is missing or contradicts itself.
func (c ExpirerConfig) Validate() error {
	if c.Store == nil || c.Logger == nil {
		return errors.New("event expirer: Store and Logger are required")
	}
	if c.TTL <= 0 || c.Interval <= 0 {
		return errors.New("event expirer: TTL and Interval must be more than 0")
	}
	return nil
}

// Expirer deletes old events. It lists them now and then, instead of keeping
// copies of them all.
type Expirer struct{ cfg ExpirerConfig }

// NewExpirer checks cfg and returns an expirer that is not yet running.
func NewExpirer(cfg ExpirerConfig) (*Expirer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Expirer{cfg}, nil
}

// Run deletes old events until ctx ends.
func (e *Expirer) Run(ctx context.Context) error {
	t := time.NewTicker(e.cfg.Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := e.sweep(ctx); err != nil && ctx.Err() == nil {
				e.cfg.Logger.Warn("old events were not deleted", "err", err)
			}
		}
	}
}

// sweepBatch is how many events one transaction deletes.
const sweepBatch = 200

func (e *Expirer) sweep(ctx context.Context) error {
	list, _, err := objects.List[*corev1.Event](ctx, e.cfg.Store, "", raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return err
	}
	horizon := time.Now().Add(-e.cfg.TTL)
	var tx objects.Tx
	n := 0
	flush := func() error {
		_, err := tx.Commit(ctx, e.cfg.Store)
		tx, n = objects.Tx{}, 0
		if err != nil {
			return fmt.Errorf("delete events: %w", err)
		}
		return nil
	}
	for _, ev := range list {
		if e.cfg.Stewardship != nil && !e.cfg.Stewardship.Mine("events", objects.KeyOf(ev)) {
			continue
		}
		if lastSeen(ev).After(horizon) {
			continue
		}
		tx.Delete(ev, objects.DeleteOptions{})
		if n++; n == sweepBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// lastSeen is when the event last happened.
func lastSeen(ev *corev1.Event) time.Time {
	last := ev.CreationTimestamp.Time
	for _, t := range []time.Time{ev.LastTimestamp.Time, ev.EventTime.Time} {
		if t.After(last) {
			last = t
		}
	}
	if ev.Series != nil && ev.Series.LastObservedTime.After(last) {
		last = ev.Series.LastObservedTime.Time
	}
	return last
}
