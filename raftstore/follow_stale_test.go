package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestSourceSendsNothingStale: a former leader has entries that were never committed. A
// snapshot of the new leader's replaces its state, and Raft drops its log only after that.
// What it sends meanwhile to the follower that stayed with it must not be these entries.
func TestSourceSendsNothingStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Pointer[string] // the host whose log takes long to drop entries
		var waited atomic.Int32
		c := following(t, 4, raftstoretest.WithConfig(shortLog), raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			node := cfg.NodeID
			raftstore.WrapDeletes(cfg, func() {
				if host := slow.Load(); host != nil && *host == node {
					waited.Add(1)
					time.Sleep(2 * time.Second)
				}
			})
		}))
		name := follower(t, c)
		source := sourceOf(t, c, name)
		leadAt(t, c, source)
		hosts := slices.DeleteFunc([]string{"host1", "host2", "host3", "host4"}, func(host string) bool { return host == source || host == name })
		others := []*raftstore.Store{c.Node(hosts[0]), c.Node(hosts[1])}
		part(c, source, hosts, true)
		part(c, name, hosts, true)
		lost, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		for i := range 10 {
			go func() { _, _ = c.Node(source).Commit(lost, put(fmt.Sprint("/lost/", i), "v")) }()
		}
		<-lost.Done()
		for i := range 200 {
			mustCommit(t, others[0], put(fmt.Sprint("/won/", i), "0123456789012345678901234567890123456789"))
		}
		for _, s := range others {
			if err := s.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		watch, err := c.Node(name).Watch(t.Context(), raftstore.WatchRequest{Prefix: "/lost/"})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		slow.Store(&source)
		part(c, source, hosts, false)
		sees(t, c.Node(name), "/won/199", "0123456789012345678901234567890123456789")
		if waited.Load() == 0 {
			t.Fatal("the former leader got no snapshot: this test shows nothing")
		}
		for e := range watch.Events() { // until the snapshot, which the follower gets in turn, ends it
			t.Errorf("the follower shows %s, which was never committed", e.Record.Key)
		}
		c.Net.Heal()
		time.Sleep(5 * time.Second) // until all have compared what they have
		mustCommit(t, others[0], put("/after", "v"))
		for _, s := range c.Live() {
			sees(t, s, "/after", "v")
			if got, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/lost/"}); err != nil || len(got.Records) > 0 {
				t.Errorf("a replica has %v, which were never committed, %v", got.Records, err)
			}
			if !raftstore.AgreesWithVoters(s) {
				t.Error("a replica differs from the voters")
			}
		}
	})
}

// A source that got a snapshot of the leader's, and has not heard from it since, offers it to
// those that follow it.
func TestSourceHandsOnWhatItWasGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *raftstoretest.Cluster
		var cut atomic.Pointer[func()] // called when the source drops its log for the snapshot
		c = following(t, 4, raftstoretest.WithConfig(shortLog), raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			raftstore.WrapDeletes(cfg, func() {
				if do := cut.Load(); do != nil {
					(*do)()
				}
			})
		}))
		name := follower(t, c)
		source := sourceOf(t, c, name)
		if source == c.Leader() {
			leadAt(t, c, slices.DeleteFunc([]string{"host1", "host2", "host3", "host4"}, func(id string) bool { return id == source || id == name })[0])
		}
		hosts := slices.DeleteFunc([]string{"host1", "host2", "host3", "host4"}, func(id string) bool { return id == source || id == name })
		part(c, source, hosts, true)
		part(c, name, hosts, true)
		for i := range 200 {
			mustCommit(t, c.Node(hosts[0]), put(fmt.Sprint("/won/", i), "0123456789012345678901234567890123456789"))
		}
		for _, id := range hosts {
			if err := c.Node(id).Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		var given atomic.Bool
		do := func() {
			if s := c.Node(source); s.Revision() > 200 && given.CompareAndSwap(false, true) {
				part(c, source, hosts, true)
			}
		}
		cut.Store(&do)
		part(c, source, hosts, false)
		sees(t, c.Node(source), "/won/199", "0123456789012345678901234567890123456789")
		time.Sleep(time.Second)
		if !given.Load() {
			t.Fatal("the source got no snapshot: this test shows nothing")
		}
		after := c.Node(name).Status(t.Context()).AppliedIndex
		if offered := raftstore.OfferedTo(c.Node(source), c.Node(name)); offered <= after+100 {
			t.Errorf("a follower that has applied %d is offered a snapshot that ends at %d", after, offered)
		}
	})
}

// sourceOf returns the node that feeds a follower.
func sourceOf(t testing.TB, c *raftstoretest.Cluster, name string) (source string) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		for _, p := range c.Node(name).Status(t.Context()).Peers {
			if p.ID == name && p.Source != "" {
				source = p.Source
				return nil
			}
		}
		return errors.New("nobody feeds it")
	})
	return source
}

// leadAt makes a host's replica lead.
func leadAt(t testing.TB, c *raftstoretest.Cluster, host string) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		for _, s := range c.Live() {
			if s.IsLeader() && s != c.Node(host) {
				_ = s.TransferLeadership(t.Context())
			}
		}
		if !c.Node(host).IsLeader() {
			return errors.New("another replica leads")
		}
		return nil
	})
}
