package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// Config describes a Publisher.
type Config struct {
	// Host is the name of this host and of its Node.
	Host string
	// Store, Cache and Claims are the agent's. Required.
	Store  objects.Store
	Cache  *objects.Cache
	Claims *claims.Cache
	// Describe returns the present description of the host. It must be quick. Required.
	Describe func() Description
	// Clock is where the times of the Node's conditions come from.
	Clock objects.Clock
	// Interval is how often the host is described again.
	Interval time.Duration
	// Patience is how long the host leaves a mark of another host that says it is dead,
	// before it removes the mark. For a moment both may be right, and neither must win
	// by writing faster.
	Patience time.Duration
	// Logger receives failures. Required.
	Logger *slog.Logger
	// Registerer receives the metrics. May be nil.
	Registerer prometheus.Registerer
}

// DefaultConfig returns the settings to start from.
func DefaultConfig() Config {
	return Config{Interval: 10 * time.Second, Patience: 3 * time.Second}
}

// Validate reports what is missing or contradicts itself.
func (c Config) Validate() error {
	switch {
	case c.Host == "":
		return errors.New("node publisher: Host is empty")
	case c.Store == nil || c.Cache == nil || c.Claims == nil || c.Describe == nil || c.Logger == nil:
		return errors.New("node publisher: Store, Cache, Claims, Describe and Logger are required")
	case c.Interval <= 0 || c.Patience < 0:
		return errors.New("node publisher: want Interval > 0 and Patience >= 0")
	}
	return nil
}

// Publisher keeps the Node and the capacity of this host up to date.
type Publisher struct {
	cfg    Config
	nodes  *objects.Informer[*corev1.Node]
	engine *stewards.Controller
	// doubted is when the host first saw that others marked it as dead. Only the one
	// worker uses it.
	doubted time.Time
	// turn holds one token. The goroutine that has it may publish or change paused.
	turn   chan struct{}
	paused bool
}

// New checks cfg and returns a publisher that is not yet running.
func New(cfg Config) (*Publisher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Store = stewards.Guard(cfg.Store)
	p := &Publisher{cfg: cfg, nodes: objects.For[*corev1.Node](cfg.Cache), turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	var err error
	p.engine, err = stewards.New(
		stewards.Deps{Logger: cfg.Logger, Registerer: cfg.Registerer},
		stewards.Steward{
			Name: "node-publisher", Everywhere: true, Workers: 1, MaxBackoff: 10 * time.Second,
			Reconciler: stewards.ReconcilerFunc(p.reconcile),
			Inputs: []stewards.Input{
				{What: "Node of this host", Wakes: "itself", Source: ownNode{p}},
				stewards.ReadsClaims(cfg.Claims),
				{What: "this host"},
			},
			Outputs: Outputs(),
		})
	return p, err
}

// Outputs are what the publisher writes.
func Outputs() []stewards.Output {
	return []stewards.Output{
		stewards.Writes[*corev1.Node](stewards.Create | stewards.Update),
		stewards.WritesRecords("claims: capacity of this host", claims.Prefix),
	}
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error { return p.engine.Run(ctx) }

// Pause makes the host publish nothing until Resume, so that objects that are withdrawn
// meanwhile are not written again. When Pause returns, no write is under way.
func (p *Publisher) Pause(ctx context.Context) error {
	select {
	case <-p.turn:
	case <-ctx.Done():
		return fmt.Errorf("pause the publisher of host %s: wait for the write under way: %w", p.cfg.Host, context.Cause(ctx))
	}
	p.paused = true
	p.turn <- struct{}{}
	return nil
}

// Resume ends a pause: the host publishes again what was withdrawn.
func (p *Publisher) Resume() {
	<-p.turn
	p.paused = false
	p.turn <- struct{}{}
	p.engine.Enqueue(p.key())
}

func (p *Publisher) key() stewards.Key { return stewards.Key{Name: p.cfg.Host} }

// ownNode is the source of the one key of this host, which need not exist yet.
type ownNode struct{ *Publisher }

var _ stewards.Source = ownNode{}

// Subscribe implements stewards.Source.
func (o ownNode) Subscribe(fn func(stewards.Key)) (cancel func()) {
	fn(o.key())
	return o.nodes.Subscribe(func(key stewards.Key) {
		if key == o.key() {
			fn(key)
		}
	})
}

// Keys implements stewards.Source.
func (o ownNode) Keys() []stewards.Key { return []stewards.Key{o.key()} }

// WaitForSync implements stewards.Source.
func (o ownNode) WaitForSync(ctx context.Context) error { return o.nodes.WaitForSync(ctx) }

func (p *Publisher) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	select {
	case <-p.turn:
	case <-ctx.Done():
		return stewards.Result{}, ctx.Err()
	}
	defer func() { p.turn <- struct{}{} }()
	if p.paused {
		return stewards.Result{}, nil
	}
	return p.publish(ctx, key)
}

func (p *Publisher) publish(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	d := p.cfg.Describe()
	now := p.cfg.Clock.Now()
	tx := objects.Tx{Clock: p.cfg.Clock}
	node, ok := p.nodes.Get(key)
	switch {
	case !ok:
		node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: p.cfg.Host}}
		d.apply(p.cfg.Host, node, now)
		tx.Create(node)
	case node.DeletionTimestamp != nil:
		// The host is being removed from the mesh.
		return stewards.Result{RequeueAfter: p.cfg.Interval}, nil
	default:
		if wait := p.delayRevival(node, now); wait > 0 {
			return stewards.Result{RequeueAfter: wait}, nil
		}
		next := node.DeepCopy()
		d.apply(p.cfg.Host, next, now)
		tx.Update(node, next)
	}
	p.publishCapacity(&tx, d)
	if _, err := tx.Commit(ctx, p.cfg.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("publish host %s: %w", p.cfg.Host, err)
	}
	return stewards.Result{RequeueAfter: p.cfg.Interval}, nil
}

// delayRevival returns how long to wait before removing the mark of another host that
// this host is dead.
func (p *Publisher) delayRevival(n *corev1.Node, now time.Time) time.Duration {
	if objects.NodeCondition(n, corev1.NodeReady).Status != corev1.ConditionUnknown {
		p.doubted = time.Time{}
		return 0
	}
	if p.doubted.IsZero() {
		p.doubted = now
	}
	return max(0, p.doubted.Add(p.cfg.Patience).Sub(now))
}

func (p *Publisher) publishCapacity(tx *objects.Tx, d Description) {
	if d.Unknown {
		return
	}
	have, ok := p.cfg.Claims.Capacity(p.cfg.Host)
	disks := have.Disks
	if d.Disks != nil && claims.CountsPools(p.cfg.Store.FeatureLevel()) {
		disks = steadyDisks(have.Disks, d.Disks)
	}
	if ok && have.Allocatable.Equal(d.Allocatable) && claims.SameDisks(have.Disks, disks) {
		return
	}
	have.Host, have.Allocatable, have.Disks = p.cfg.Host, d.Allocatable, disks
	claims.Publish(tx, have)
}

// diskSteps is the number of parts of a file system of which one must come or go for the host
// to publish it: the size of some file systems changes with what others on the same disks use.
const diskSteps = 50

// steadyDisks returns the file systems now with the sizes that were published, where they have
// hardly changed since.
func steadyDisks(published, now []claims.Disk) []claims.Disk {
	now = slices.Clone(now)
	for i := range now {
		for _, before := range published {
			same := before.State == now[i].State && slices.Equal(before.Pools, now[i].Pools)
			if same && max(before.Bytes-now[i].Bytes, now[i].Bytes-before.Bytes) < before.Bytes/diskSteps {
				now[i].Bytes = before.Bytes
			}
		}
	}
	return now
}
