package raftstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"virtmesh/raftstore/raftstoretest"
)

// TestLinearizableThroughVersions: hosts change to the next version and back, under load
// and faults, until all have it and the level is raised, and the faults go on.
func TestLinearizableThroughVersions(t *testing.T) {
	c := raftstoretest.NewCluster(t, 4, v1, raftstoretest.WithConfig(shortLog))
	hosts := []string{"host1", "host2", "host3", "host4"}
	checkLinearizable(t, c, func(ctx context.Context, rng *rand.Rand) {
		mixed, cancel := context.WithTimeout(ctx, time.Until(deadline(ctx))/2)
		defer cancel()
		for wait(mixed, 50*time.Millisecond) {
			host := hosts[rng.IntN(len(hosts))]
			change(c, host, []raftstoretest.Option{v1, v2}[rng.IntN(2)])
			disturbOnce(mixed, c, hosts, rng)
		}
		for _, host := range hosts {
			change(c, host, v2)
		}
		var raising sync.WaitGroup
		raising.Go(func() { t.Logf("raised while clients write: %v", raise(ctx, c, hosts) == nil) })
		disturb(ctx, c, hosts, rng)
		raising.Wait()
	})
	raftstoretest.Eventually(t, func() error { return raise(t.Context(), c, hosts) })
	raftstoretest.Eventually(t, func() error {
		for _, s := range c.Live() {
			if got := s.FeatureLevel(); got != 2 {
				return fmt.Errorf("a replica is at level %d", got)
			}
		}
		return nil
	})
}

func deadline(ctx context.Context) time.Time {
	at, _ := ctx.Deadline()
	return at
}

// raise raises the level at one host after the other until one has done it.
func raise(ctx context.Context, c *raftstoretest.Cluster, hosts []string) error {
	for n := 0; ; n++ {
		if s := c.Node(hosts[n%len(hosts)]); s != nil {
			if err := s.RaiseFeatureLevel(ctx, 2); err == nil {
				return nil
			}
		}
		if !wait(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
}
