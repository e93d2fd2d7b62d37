package publish

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"runtime"
	"time"

	"github.com/prometheus/procfs"
	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/storage"
)

// TellerConfig describes a Teller. All fields are required.
type TellerConfig struct {
	// Host is the name of this host.
	Host string
	// Facts returns the facts of this moment that no other field is for.
	Facts func() gossip.Facts
	// Tell hands the facts of this host to the mesh.
	Tell func(gossip.Facts) error
	// Free returns what the claims on this host leave free.
	Free func() machine.Resources
	// Pools returns the room that new disks may take, as gossip.Facts has it.
	Pools func() map[string]storage.Space
	// Images lists the container disks that are on this host.
	Images func() []string
	// Nodes holds the host's Node, which says whether it is cordoned.
	Nodes *objects.Informer[*corev1.Node]
	// Interval is how often the facts are collected and handed to the mesh.
	Interval time.Duration
	// Logger receives failures.
	Logger *slog.Logger
}

// DefaultTellerConfig returns the settings to start from.
func DefaultTellerConfig() TellerConfig { return TellerConfig{Interval: 5 * time.Second} }

// Validate reports what is missing.
func (c TellerConfig) Validate() error {
	switch {
	case c.Host == "":
		return errors.New("facts: Host is empty")
	case c.Facts == nil || c.Tell == nil || c.Free == nil || c.Pools == nil || c.Images == nil || c.Nodes == nil || c.Logger == nil:
		return errors.New("facts: Facts, Tell, Free, Pools, Images, Nodes and Logger are required")
	case c.Interval <= 0:
		return errors.New("facts: Interval must be positive")
	}
	return nil
}

// loadStep is the change of load below which the mesh is not told, and poolSteps the
// number of parts of a pool's capacity of which one must be taken or freed, or by which the
// capacity must change: that of a file system which shares its disk moves with every byte
// written. Without them a host at rest would announce facts all the time.
const (
	loadStep  = 0.1
	poolSteps = 100
)

// Teller keeps the mesh informed of what this host has free for guests.
type Teller struct {
	cfg  TellerConfig
	told gossip.Facts // what Run told last
}

// NewTeller checks cfg and returns a Teller that is not yet running.
func NewTeller(cfg TellerConfig) (*Teller, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Teller{cfg: cfg}, nil
}

// Run tells the facts until ctx ends.
func (t *Teller) Run(ctx context.Context) error {
	ticker := time.NewTicker(t.cfg.Interval)
	defer ticker.Stop()
	for {
		t.told = steady(t.told, t.facts())
		if err := t.cfg.Tell(t.told); err != nil {
			t.cfg.Logger.Warn("the facts of this host could not be gossiped", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// steady returns the facts now with the load and the pools that were told before, where they
// have hardly changed since.
func steady(told, now gossip.Facts) gossip.Facts {
	if math.Abs(now.Load-told.Load) < loadStep {
		now.Load = told.Load
	}
	for name, pool := range now.Pools {
		before, ok := told.Pools[name]
		if step := pool.Capacity / poolSteps; ok && distance(before.Capacity, pool.Capacity) < step && distance(before.Free, pool.Free) < step {
			now.Pools[name] = before
		}
	}
	return now
}

func distance(a, b int64) int64 { return max(a-b, b-a) }

// facts are those of this moment.
func (t *Teller) facts() gossip.Facts {
	facts := t.cfg.Facts()
	facts.Free, facts.Load, facts.Images = GossipResources(t.cfg.Free()), load(), t.cfg.Images()
	facts.Pools = map[string]gossip.Pool{}
	for name, space := range t.cfg.Pools() {
		facts.Pools[name] = gossip.Pool{Capacity: space.Capacity, Free: space.Free}
	}
	if node, ok := t.cfg.Nodes.Get(objects.Key{Name: t.cfg.Host}); ok {
		facts.Unschedulable = node.Spec.Unschedulable
	}
	return facts
}

// GossipResources converts r to the form that gossiped facts use.
func GossipResources(r machine.Resources) gossip.Resources {
	return gossip.Resources{CPUMilli: r.CPUMilli, MemoryBytes: r.MemoryBytes, Hugepages: r.Hugepages, Devices: r.Devices}
}

// load is the load average of the last minute, divided by the number of CPUs.
func load() float64 {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return 0
	}
	average, err := proc.LoadAvg()
	if err != nil {
		return 0
	}
	return average.Load1 / float64(runtime.NumCPU())
}
