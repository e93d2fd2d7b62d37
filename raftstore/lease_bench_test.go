package raftstore_test

import (
	"fmt"
	"testing"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// BenchmarkRenewLease measures renewals by 500 hosts: at the leader of three replicas, and
// at a follower, which forwards them. 500 hosts that renew a lease of 9 seconds three times
// in that time need 167 a second. entries is how many log entries the renewals took.
func BenchmarkRenewLease(b *testing.B) {
	const hosts = 500
	c := raftstoretest.NewCluster(b, 3, overTCP(b, 17400))
	leader := c.Node(c.Leader())
	follower := c.Live()[0]
	if follower == leader {
		follower = c.Live()[1]
	}
	renew := func(s *raftstore.Store, n int) error {
		_, err := s.RenewLease(b.Context(), raftstore.LeaseRequest{
			LeaseHolder: raftstore.LeaseHolder{Host: fmt.Sprint("host", n%hosts), BootID: "boot"}, TTL: 9 * time.Second,
		})
		return err
	}
	for _, at := range []struct {
		name string
		s    *raftstore.Store
	}{{"leader", leader}, {"follower", follower}} {
		b.Run("at="+at.name, func(b *testing.B) {
			if err := renew(leader, 0); err != nil { // begins the reign
				b.Fatal(err)
			}
			last := leader.Status(b.Context()).LastIndex
			measure(b, hosts, func(_, n int) error { return renew(at.s, n) })
			b.ReportMetric(float64(leader.Status(b.Context()).LastIndex-last), "entries")
		})
	}
}
