package raftstore_test

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// leaseSamples returns the counters and gauges of leases that a host shows, by name and
// label.
func leaseSamples(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()[len("virtmesh_store_"):]
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			samples[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return samples
}

// TestLeaseMetrics: each host shows how long its own lease lasts, and the leader who has
// none any more.
func TestLeaseMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shown := map[string]*prometheus.Registry{}
		began := time.Now()
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			shown[cfg.NodeID] = prometheus.NewRegistry()
			cfg.Registerer = shown[cfg.NodeID]
			cfg.BootTime = func() time.Duration { return time.Since(began) }
		}))
		want := func(host string, samples map[string]float64) {
			t.Helper()
			got := leaseSamples(t, shown[host])
			for _, name := range slices.Sorted(maps.Keys(samples)) {
				if value, ok := got[name]; !ok || value != samples[name] {
					t.Errorf("%s shows %s %v (%v), want %v", host, name, value, ok, samples[name])
				}
			}
		}
		leader := c.Leader()
		hosts := slices.DeleteFunc([]string{"host1", "host2", "host3"}, func(h string) bool { return h == leader })
		dead, other := hosts[0], hosts[1]
		want(dead, map[string]float64{"lease_left_seconds": -1, "fenced_boots": 0})

		mustRenew(t, c.Node(dead), boot(dead, "boot1"))
		mustRenew(t, c.Node(other), boot(other, "boot1"))
		expires := time.Now().Add(leaseTTL)
		time.Sleep(time.Second)
		left := map[string]float64{"lease_left_seconds": 5}
		want(dead, left)
		want(other, left)
		want(other, map[string]float64{"lease_renewals_total ok": 1, "lease_renewal_seconds": 1})
		want(leader, map[string]float64{"lease_left_seconds": -1, "leases held": 2, "leases expired": 0, "lease_reigns_total": 1})
		want(other, map[string]float64{"leases held": 0, "lease_reigns_total": 0, "fencing_wait_seconds": 0})
		fence(t, c.Node(other), boot(dead, "boot1"))
		want(other, map[string]float64{"fences_total held": 1})

		time.Sleep(time.Until(expires) + leaseTTL/20 + time.Millisecond)
		mustRenew(t, c.Node(other), boot(other, "boot1"))
		want(dead, map[string]float64{"lease_left_seconds": 0})
		want(leader, map[string]float64{"leases held": 1, "leases expired": 1, "lease_late_renewals_total": 1, "fencing_wait_seconds": 0})

		fence(t, c.Node(other), boot(dead, "boot1"))
		c.WaitRevision(c.Node(leader).Revision())
		want(other, map[string]float64{"fences_total fenced": 1, "fenced_boots": 1})
		want(leader, map[string]float64{"fenced_boots": 1, "leases expired": 0})
		if _, err := renewLease(t, c.Node(dead), boot(dead, "boot1")); err == nil {
			t.Error("a fenced host got a lease")
		}
		want(dead, map[string]float64{"lease_renewals_total fenced": 1, "lease_left_seconds": 0})

		if err := raftstore.HandOver(c.Node(leader), c.Node(other)); err != nil {
			t.Fatal(err)
		}
		mustRenew(t, c.Node(other), boot(other, "boot1"))
		want(other, map[string]float64{"leases held": 1, "leases expired": 0, "lease_reigns_total": 1})
		if wait := leaseSamples(t, shown[other])["fencing_wait_seconds"]; wait <= leaseTTL.Seconds() || wait > 1.05*leaseTTL.Seconds() {
			t.Errorf("a new leader fences in %v s, want the longest lease and a twentieth", wait)
		}
		want(leader, map[string]float64{"leases held": 0, "leases expired": 0, "fencing_wait_seconds": 0})
	})
}
