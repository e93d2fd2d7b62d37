package raftstore_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

const leaseTTL = 6 * time.Second

func boot(host, id string) raftstore.LeaseHolder {
	return raftstore.LeaseHolder{Host: host, BootID: id}
}

// renewLease asks s for a lease, for at most a minute.
func renewLease(t testing.TB, s *raftstore.Store, h raftstore.LeaseHolder) (raftstore.Lease, error) {
	ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.ReadyTimeout)
	defer cancel()
	return s.RenewLease(ctx, raftstore.LeaseRequest{LeaseHolder: h, TTL: leaseTTL})
}

func mustRenew(t testing.TB, s *raftstore.Store, h raftstore.LeaseHolder) raftstore.Lease {
	t.Helper()
	lease, err := renewLease(t, s, h)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// fence returns for how long the holder cannot be fenced yet, or its fence.
func fence(t testing.TB, s *raftstore.Store, h raftstore.LeaseHolder) (raftstore.Fence, time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.ReadyTimeout)
	defer cancel()
	f, err := s.Fence(ctx, h)
	var held *raftstore.LeaseHeldError
	if errors.As(err, &held) {
		return f, held.Left
	}
	if err != nil {
		t.Fatal(err)
	}
	return f, 0
}

// TestLease: a lease that is renewed keeps its holder from being fenced, and takes no log
// entry. When it runs out, the holder can be fenced, and claims can demand that.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.BootTime = func() time.Duration { return time.Since(began) }
		}))
		holder := boot("host1", "boot1")
		s := c.Node(holder.Host)
		mustRenew(t, s, holder)
		last := s.Status(t.Context()).LastIndex
		for range 30 {
			sent := time.Since(began)
			if lease := mustRenew(t, s, holder); lease.Expires != sent+leaseTTL {
				t.Fatalf("the lease asked for at %v expires at %v", sent, lease.Expires)
			}
			time.Sleep(leaseTTL / 3)
			if _, left := fence(t, c.Live()[1], holder); left < leaseTTL*2/3 {
				t.Fatalf("%v after a renewal, the holder can be fenced in %v", leaseTTL/3, left)
			}
		}
		if now := s.Status(t.Context()).LastIndex; now != last {
			t.Errorf("a minute of renewals took %d log entries", now-last)
		}
		_, left := fence(t, s, holder)
		time.Sleep(left - time.Millisecond)
		if _, left := fence(t, s, holder); left != time.Millisecond {
			t.Fatalf("a millisecond before its time, the holder can be fenced in %v", left)
		}
		time.Sleep(time.Millisecond)
		fenced, left := fence(t, c.Live()[2], holder)
		if left > 0 {
			t.Fatalf("lease ran out, and the holder cannot be fenced for %v", left)
		}
		if _, err := renewLease(t, s, holder); !errors.Is(err, raftstore.ErrFenced) {
			t.Errorf("renewal after the fence: %v", err)
		}
		for _, s := range c.Live() {
			if again, left := fence(t, s, holder); left > 0 || again != fenced {
				t.Errorf("the fence a second time: %+v, %v; the first was %+v", again, left, fenced)
			}
		}
		txn := put("/claim", "moved")
		txn.If = append(txn.If, fenced.Holds())
		mustCommit(t, s, txn)
		txn.If = []raftstore.Condition{raftstore.Fence{LeaseHolder: boot("host2", "boot1"), Revision: fenced.Revision}.Holds()}
		if _, err := s.Commit(t.Context(), txn); !errors.As(err, new(*raftstore.ConflictError)) {
			t.Errorf("txn that demands a fence which is not recorded: %v", err)
		}
		mustRenew(t, s, boot("host1", "boot2"))
	})
}

// TestListOfLeases: the leader knows who holds a lease, whoever asks, and forgets the
// earlier boots of a host.
func TestListOfLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		want := func(holders ...raftstore.LeaseHolder) {
			t.Helper()
			for _, s := range c.Live() {
				list, err := s.Leases(t.Context())
				if err != nil || len(list) != len(holders) {
					t.Fatalf("leases: %+v, %v; want %v", list, err, holders)
				}
				for i, l := range list {
					if l.LeaseHolder != holders[i] || l.TTL != leaseTTL {
						t.Errorf("lease %d is %+v, want one of %v", i, l, holders[i])
					}
				}
			}
		}
		want()
		first, second := boot("host1", "boot1"), boot("host2", "boot1")
		mustRenew(t, c.Node("host2"), second)
		mustRenew(t, c.Node("host1"), first)
		want(first, second)
		time.Sleep(2 * leaseTTL)
		if list, err := c.Node("host1").Leases(t.Context()); err != nil || list[0].Left != 0 || list[1].Left != 0 {
			t.Errorf("leases that have run out: %+v, %v", list, err)
		}
		third := boot("host1", "boot2")
		mustRenew(t, c.Node("host1"), third)
		want(third, second)
	})
}

// TestNewLeaderTakesLeasesForFresh: a new leader does not know when the leases of before
// were renewed.
func TestNewLeaderTakesLeasesForFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		holder := boot("host9", "boot1")
		mustRenew(t, c.Live()[0], holder)
		before := c.Leader()
		c.Kill(before)
		if _, left := fence(t, c.Live()[0], holder); left < leaseTTL {
			t.Errorf("a new leader fences the holder in %v", left)
		}
		c.Restart(before)
		time.Sleep(2 * leaseTTL)
		if _, left := fence(t, c.Live()[0], holder); left > 0 {
			t.Errorf("the new leader waits for %v more", left)
		}
	})
}

// TestReplacedLeaderGivesNoLease: a leader that was replaced, and does not know it yet,
// must not renew a lease that the new leader will take for run out.
func TestReplacedLeaderGivesNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := "host2"
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Voters.Max = 3
			cfg.Timing.Heartbeat = 4 * time.Second
			if cfg.NodeID == old {
				cfg.Timing.Heartbeat = time.Hour // half of it is the lease of the leader
			}
		}))
		if first := c.Leader(); first != old {
			if err := raftstore.HandOver(c.Node(first), c.Node(old)); err != nil {
				t.Fatal(err)
			}
		}
		s, holder := c.Node(old), boot(old, "boot1")
		mustRenew(t, s, holder)
		c.Net.Partition([]string{c.Addr("host1"), c.Addr("host3")})
		next := c.Node("host1")
		for !next.IsLeader() && !c.Node("host3").IsLeader() {
			time.Sleep(time.Second)
		}
		ctx, cancel := context.WithTimeout(t.Context(), leaseTTL)
		defer cancel()
		if lease, err := s.RenewLease(ctx, raftstore.LeaseRequest{LeaseHolder: holder, TTL: leaseTTL}); !errors.Is(err, raftstore.ErrNoLeader) {
			t.Errorf("renewal at a replaced leader: %+v, %v", lease, err)
		}
		if list, err := s.Leases(ctx); err == nil {
			t.Errorf("a replaced leader lists %+v", list)
		}
		if !s.IsLeader() {
			t.Error("the old leader knows that it is none, so this proved nothing")
		}
		time.Sleep(2 * leaseTTL)
		fence(t, next, holder) // begins the reign
		time.Sleep(2 * leaseTTL)
		if _, left := fence(t, next, holder); left > 0 {
			t.Errorf("the holder is cut off and cannot be fenced for %v", left)
		}
		c.Net.Heal()
		if _, err := renewLease(t, s, holder); !errors.Is(err, raftstore.ErrFenced) {
			t.Errorf("renewal of the holder after the partition: %v", err)
		}
	})
}

// TestLongerLease: a lease longer than any before is waited for too, also by the next
// leader.
func TestLongerLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		mustRenew(t, c.Live()[0], boot("host8", "boot1"))
		long := boot("host9", "boot1")
		if _, err := c.Live()[0].RenewLease(t.Context(), raftstore.LeaseRequest{LeaseHolder: long, TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
		if _, left := fence(t, c.Live()[0], long); left < time.Minute {
			t.Errorf("a lease of a minute runs out in %v", left)
		}
		c.Kill(c.Leader())
		if _, left := fence(t, c.Live()[0], long); left < time.Minute {
			t.Errorf("at the next leader it runs out in %v", left)
		}
	})
}

// TestLeaseCountsFromItsRequest: a holder that was paused after it had read its clock counts
// from then, and a lease that took too long is not returned.
func TestLeaseCountsFromItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, pauses := time.Now(), make(chan time.Duration, 1)
		s := raftstoretest.New(t, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.BootTime = func() time.Duration {
				now := time.Since(began)
				select {
				case d := <-pauses:
					time.Sleep(d)
				default:
				}
				return now
			}
		}))
		for _, paused := range []time.Duration{0, leaseTTL / 2, leaseTTL} {
			pauses <- paused
			sent := time.Since(began)
			want := sent + leaseTTL
			if paused == leaseTTL {
				want += paused // of the second request
			}
			lease := mustRenew(t, s, boot("host1", "boot1"))
			if late := lease.Expires - want; late < 0 || late >= time.Second {
				t.Errorf("after a pause of %v, the lease asked for at %v expires at %v", paused, sent, lease.Expires)
			}
		}
	})
}

// TestLeaseRequestsAreValidated: what could not be fenced or waited for is refused.
func TestLeaseRequestsAreValidated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t)
		for _, r := range []raftstore.LeaseRequest{
			{LeaseHolder: boot("", "boot1"), TTL: leaseTTL},
			{LeaseHolder: boot("host1", ""), TTL: leaseTTL},
			{LeaseHolder: boot("host1/x", "boot1"), TTL: leaseTTL},
			{LeaseHolder: boot("host1", "boot1"), TTL: raftstore.MinLeaseTTL - 1},
			{LeaseHolder: boot("host1", "boot1"), TTL: raftstore.MaxLeaseTTL + 1},
		} {
			if _, err := s.RenewLease(t.Context(), r); !errors.Is(err, raftstore.ErrInvalidTxn) {
				t.Errorf("%+v: %v", r, err)
			}
		}
		if _, err := s.Fence(t.Context(), boot("host1/x", "boot1")); !errors.Is(err, raftstore.ErrInvalidTxn) {
			t.Errorf("fence of a host with a bad name: %v", err)
		}
	})
}

// TestBootTime: the clock goes on as time does.
func TestBootTime(t *testing.T) {
	began, at := raftstore.BootTime(), time.Now()
	for time.Since(at) < time.Millisecond {
	}
	if passed := raftstore.BootTime() - began; passed < time.Millisecond || passed > time.Since(at)+time.Minute {
		t.Errorf("%v have passed on the boot clock in %v", passed, time.Since(at))
	}
}

// TestFenceOfAnEarlierReign: between the judgement that a lease has run out and the commit
// of the fence, another leader may give the holder a lease. Then the fence is refused.
func TestFenceOfAnEarlierReign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		holder := boot(c.Leader(), "boot1")
		old := c.Node(holder.Host)
		mustRenew(t, old, holder)
		time.Sleep(2 * leaseTTL)
		commit, err := raftstore.BeginFence(t.Context(), old, holder)
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := old.RenewLease(short, raftstore.LeaseRequest{LeaseHolder: holder, TTL: leaseTTL}); !errors.Is(err, raftstore.ErrNoLeader) {
			t.Errorf("renewal while the holder is being fenced: %v", err)
		}
		if err := old.TransferLeadership(t.Context()); err != nil {
			t.Fatal(err)
		}
		raftstoretest.Eventually(t, func() error {
			if old.IsLeader() {
				return errors.New("the old leader still leads")
			}
			return nil
		})
		mustRenew(t, old, holder)
		for _, s := range c.Live() {
			if err := commit(s); !errors.As(err, new(*raftstore.ConflictError)) {
				t.Errorf("fence of a holder that has a lease again: %v", err)
			}
		}
		mustRenew(t, old, holder)
	})
}

// TestLostFence: when the leader does not learn what became of a fence, the holder is not
// refused for ever, and the fence does not happen after its next renewal.
func TestLostFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, holder := raftstoretest.New(t), boot("host9", "boot1")
		mustRenew(t, s, holder)
		time.Sleep(2 * leaseTTL)
		commit, err := raftstore.BeginFence(t.Context(), s, holder)
		if err != nil {
			t.Fatal(err)
		}
		if err := raftstore.LoseFence(t.Context(), s, holder); err != nil {
			t.Fatal(err)
		}
		mustRenew(t, s, holder)
		if err := commit(s); !errors.As(err, new(*raftstore.ConflictError)) {
			t.Errorf("lost fence of a holder that has a lease again: %v", err)
		}
		time.Sleep(2 * leaseTTL)
		if _, left := fence(t, s, holder); left > 0 {
			t.Errorf("after a lost fence, the holder cannot be fenced for %v", left)
		}
	})
}
