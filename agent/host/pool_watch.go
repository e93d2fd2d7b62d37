package host

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/objects"
)

// Reasons of events about the host's Node.
const (
	reasonPoolUnavailable = "PoolUnavailable"
	reasonPoolAvailable   = "PoolAvailable"
)

// Run watches the pools until ctx ends.
func (s *poolSet) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range s.names {
		group.Go(func() error { return s.watch(ctx, name) })
	}
	if s.events != nil {
		group.Go(func() error { return s.tellChanges(ctx) })
	}
	return group.Wait()
}

// watch finds out again and again whether a pool can be used.
func (s *poolSet) watch(ctx context.Context, name string) error {
	for {
		pause := poolRetry
		if pool := s.pools[name]; pool.Opened() {
			pause = poolWatch
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			s.try(ctx, name)
		}
	}
}

// reasons returns why pools cannot be used, by name.
func (s *poolSet) reasons() map[string]error {
	reasons := map[string]error{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, err := range s.unusable {
		reasons[name] = err
	}
	return reasons
}

// condition tells on the host's Node which pools cannot be used, and why.
func (s *poolSet) condition() corev1.NodeCondition {
	reasons := s.reasons()
	if len(reasons) == 0 {
		return corev1.NodeCondition{Type: objects.NodePoolsUsable, Status: corev1.ConditionTrue, Reason: "PoolsOpen", Message: "All pools of the host can be used"}
	}
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		texts = append(texts, reasons[name].Error())
	}
	return corev1.NodeCondition{Type: objects.NodePoolsUsable, Status: corev1.ConditionFalse, Reason: reasonPoolUnavailable, Message: strings.Join(texts, "; ")}
}

// tellChanges records in events of the host's Node which pools become unusable, and usable
// again, until ctx ends.
func (s *poolSet) tellChanges(ctx context.Context) error {
	told := map[string]string{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.changed:
		}
		node, err := s.awaitNode(ctx)
		if err != nil {
			return err
		}
		reasons := s.reasons()
		for _, name := range s.names {
			text := ""
			if err := reasons[name]; err != nil {
				text = err.Error()
			}
			switch {
			case text == told[name]:
			case text == "":
				s.events.Event(node, corev1.EventTypeNormal, reasonPoolAvailable, fmt.Sprintf("Pool %s can be used again", name))
			default:
				s.events.Event(node, corev1.EventTypeWarning, reasonPoolUnavailable, text)
			}
			told[name] = text
		}
	}
}

// awaitNode returns the host's Node, which a host that has just joined does not have yet.
func (s *poolSet) awaitNode(ctx context.Context) (*corev1.Node, error) {
	if err := s.nodes.WaitForSync(ctx); err != nil {
		return nil, err
	}
	for {
		if node, ok := s.nodes.Get(objects.Key{Name: s.host}); ok {
			return node, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(poolWatch):
		}
	}
}

var _ prometheus.Collector = (*poolSet)(nil)

// poolMetrics are the metrics of a host's pools.
type poolMetrics struct{ usable, capacity, free, promised, givenUp *prometheus.Desc }

func newPoolMetrics() poolMetrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"pool"}, nil)
	}
	return poolMetrics{
		usable:   desc("virtmesh_pool_usable", "Whether the host can use the pool: 0 if it is not there or does not answer."),
		capacity: desc("virtmesh_pool_capacity_bytes", "Size of the file system below the pool, when it answered last."),
		free:     desc("virtmesh_pool_free_bytes", "Free space in the file system below the pool, when it answered last."),
		promised: desc("virtmesh_pool_promised_bytes", "Size of the volumes that the pool has or is to have, from feature level 4 on."),
		givenUp:  desc("virtmesh_pool_calls_given_up", "Calls into the pool that nobody waits for any more and that have not ended."),
	}
}

// Describe implements prometheus.Collector.
func (s *poolSet) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{s.metrics.usable, s.metrics.capacity, s.metrics.free, s.metrics.promised, s.metrics.givenUp} {
		out <- desc
	}
}

// Collect implements prometheus.Collector. It asks no storage.
func (s *poolSet) Collect(out chan<- prometheus.Metric) {
	var promised map[string]int64
	if s.promised != nil {
		promised = s.promised(s.host)
	}
	for name, pool := range s.pools {
		put := func(desc *prometheus.Desc, value float64) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, name)
		}
		usable := 0.0
		if pool.Err() == nil {
			usable = 1
		}
		put(s.metrics.usable, usable)
		if !s.shared[name] {
			put(s.metrics.promised, float64(promised[name]))
		}
		put(s.metrics.givenUp, float64(pool.GivenUp()))
		if space := pool.Space(); space.Capacity > 0 {
			put(s.metrics.capacity, float64(space.Capacity))
			put(s.metrics.free, float64(space.Free))
		}
	}
}
