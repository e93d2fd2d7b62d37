package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A leader whose disk takes a write and does not come back from it, as a failing disk or a
// dead file server does, gives up the lead: the other hosts write on, and what the entry came
// to is the same everywhere once the disk answers.
func TestLeaderWhoseDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disks := map[string]*raftstoretest.Disk{}
		for i := range 3 {
			disks[fmt.Sprint("host", i+1)] = raftstoretest.NewDisk()
		}
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.LogFiles = disks[cfg.NodeID].LogFiles
		}))
		leader := c.Leader()
		mustCommit(t, c.Node(leader), put("/k", "before"))
		const hang = 10 * time.Minute
		disks[leader].Slow(hang)
		begin := time.Now()
		lost := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := c.Node(leader).Commit(ctx, put("/lost", "v"))
			lost <- err
		}()
		synctest.Wait() // until the disk has it
		for _, s := range c.Live() {
			if s == c.Node(leader) {
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			if _, err := s.Commit(ctx, put("/k", "after")); err != nil {
				t.Fatalf("another host cannot write %s after the leader's disk hung: %v", time.Since(begin).Round(time.Second), err)
			}
			cancel()
		}
		if c.Node(leader).HearsLeader() {
			t.Error("the host whose disk hangs says that it hears a leader")
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("the others wrote %s after the leader's disk hung", took)
		}
		if err := <-lost; !errors.Is(err, raftstore.ErrUnknownOutcome) {
			t.Errorf("the write that hung: %v", err)
		}
		if status := c.Node(leader).Status(t.Context()); !strings.Contains(status.Failure, "has not finished a write") {
			t.Errorf("the status does not say that the disk hangs: %q", status.Failure)
		}
		disks[leader].Slow(0)
		time.Sleep(hang)
		mustCommit(t, c.Node(leader), put("/k", "again"))
		for _, s := range c.Live() {
			sees(t, s, "/k", "again")
			if !raftstore.AgreesWithVoters(s) {
				t.Error("a replica differs from the voters")
			}
		}
	})
}

// A follower that a hung leader feeds hears that the leader's word ages, and goes to the next
// leader; it would otherwise be fed, and wait, for as long as the disk hangs.
func TestFollowerLeavesLeaderWhoseDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disks := map[string]*raftstoretest.Disk{}
		for i := range 4 {
			disks[fmt.Sprint("host", i+1)] = raftstoretest.NewDisk()
		}
		c := following(t, 4, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.LogFiles = disks[cfg.NodeID].LogFiles
		}))
		name := follower(t, c)
		raftstoretest.Eventually(t, func() error {
			leader := c.Node(c.Leader())
			for _, p := range leader.Status(t.Context()).Peers {
				switch {
				case p.ID != name || p.Source == "":
				case p.Source == c.Leader():
					return nil
				default:
					return errors.Join(fmt.Errorf("%s feeds %s", p.Source, name), leader.TransferLeadership(t.Context()))
				}
			}
			return fmt.Errorf("nobody feeds %s", name)
		})
		const hang = 10 * time.Minute
		leader := c.Leader()
		disks[leader].Slow(hang)
		begin := time.Now()
		for i := range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			if _, err := c.Node(name).Commit(ctx, put(fmt.Sprint("/k", i), "v")); err != nil {
				t.Fatalf("the follower cannot write %s after the disk of its source hung: %v", time.Since(begin).Round(time.Second), err)
			}
			cancel()
		}
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("the follower wrote %s after the disk of its source hung", took)
		}
		disks[leader].Slow(0)
		time.Sleep(hang)
		sees(t, c.Node(leader), "/k2", "v")
	})
}

// An only voter has nobody to hand over to. It says that it does not hear a leader, so that
// its host promises nothing, and goes on when its disk does.
func TestOnlyVoterWhoseDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := raftstoretest.NewDisk()
		c := raftstoretest.NewCluster(t, 1, raftstoretest.WithConfig(func(cfg *raftstore.Config) { cfg.LogFiles = disk.LogFiles }))
		s := c.Node(c.Leader())
		mustCommit(t, s, put("/k", "before"))
		disk.Slow(time.Minute)
		done := make(chan error, 1)
		go func() {
			_, err := s.Commit(t.Context(), put("/k", "late"))
			done <- err
		}()
		time.Sleep(50 * time.Second)
		if s.HearsLeader() {
			t.Error("its word counts while it can store nothing")
		}
		disk.Slow(0)
		if err := <-done; err != nil {
			t.Errorf("the write that hung for a minute: %v", err)
		}
		if !s.HearsLeader() || s.Status(t.Context()).Failure != "" {
			t.Errorf("it does not lead on: %q", s.Status(t.Context()).Failure)
		}
	})
}
