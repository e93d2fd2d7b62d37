package raftstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// All voters of a mesh are lost, and it is recovered from the copy of a host that never voted,
// or from a backup that was made there. That host leads; the other follower and the voters,
// which come back after all with a majority of the old group, are refused until they are
// emptied, and then follow and vote as before.
func TestRecoveryFromAFollower(t *testing.T) {
	for _, restore := range []bool{false, true} {
		t.Run(fmt.Sprint("backup=", restore), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testRecoveryFromAFollower(t, restore) })
		})
	}
}

func testRecoveryFromAFollower(t *testing.T, restore bool) {
	c := following(t, 5, raftstoretest.WithConfig(quickRejoin))
	base := follower(t, c)
	mustCommit(t, c.Node(base), put("/k", "before"))
	sees(t, c.Node(base), "/k", "before")
	past := c.Node(base).Revision()
	var backup bytes.Buffer
	if _, err := c.Node(base).Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	all := []string{"host1", "host2", "host3", "host4", "host5"}
	for _, id := range all {
		c.Kill(id)
	}
	cfg := c.Config(base)
	if restore {
		if err := raftstore.Empty(cfg.DataDir); err != nil {
			t.Fatal(err)
		}
		if _, err := raftstore.RestoreBackup(t.Context(), cfg, &backup, nil); err != nil {
			t.Fatal(err)
		}
	} else if got, err := raftstore.RecoverCluster(t.Context(), cfg, nil); err != nil || !got.Followed {
		t.Fatalf("recovered %+v, %v", got, err)
	}
	present := c.Restart(base)
	raftstoretest.WaitServing(t, present)
	mustCommit(t, present, put("/k", "after"))
	mustConfirm(t, present)
	if _, err := present.Watch(t.Context(), raftstore.WatchRequest{Revision: past}); !errors.Is(err, raftstore.ErrCompacted) {
		t.Errorf("a watch of before goes on: %v", err)
	}
	for _, id := range all {
		if id != base {
			c.Restart(id)
		}
	}
	for _, id := range all {
		if id == base {
			continue
		}
		waitReplaced(t, c.Node(id))
		c.Kill(id)
		if err := raftstore.Empty(c.Config(id).DataDir); err != nil {
			t.Fatal(err)
		}
		back := c.Restart(id)
		if err := back.Join(t.Context(), []string{c.Addr(base)}); err != nil {
			t.Fatal(err)
		}
		sees(t, back, "/k", "after")
		mustConfirm(t, back)
	}
	raftstoretest.Eventually(t, func() error {
		voters, followers := 0, 0
		for _, p := range c.Node(c.Leader()).Status(t.Context()).Peers {
			switch {
			case p.Voter:
				voters++
			case p.Follower:
				followers++
			}
		}
		if voters != 3 || followers != 2 {
			return fmt.Errorf("%d voters and %d followers", voters, followers)
		}
		return nil
	})
	mustCommit(t, c.Node(all[0]), put("/k", "together"))
	for _, s := range c.Live() {
		sees(t, s, "/k", "together")
		mustConfirm(t, s)
	}
}

// Followers that have lost all voters say that they hear no leader: 'agent recover' asks them,
// and would refuse for as long as one of them remembers a leader that is gone.
func TestOrphanedFollowersHearNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 6)
		name := follower(t, c)
		mustCommit(t, c.Node(name), put("/k", "v"))
		stranger := c.Net.Listen("rpc", "stranger:1")
		limit := 3 * raftstoretest.Config(c.Net, "any").Timing.Heartbeat
		var followers []string
		for _, p := range c.Node(c.Leader()).Status(t.Context()).Peers {
			if p.Follower {
				followers = append(followers, p.ID)
			}
		}
		if len(followers) != 3 {
			t.Fatalf("%v follow", followers)
		}
		hears := func(id string) (bool, error) {
			conn, err := stranger.Dial(c.Addr(id), time.Second)
			if err != nil {
				return false, err
			}
			heard, err := raftstore.HearsLeader(conn, limit)
			return heard, errors.Join(err, conn.Close())
		}
		for _, id := range followers {
			if heard, err := hears(id); err != nil || !heard {
				t.Errorf("%s hears a leader: %t, %v", id, heard, err)
			}
		}
		for _, p := range c.Node(name).Status(t.Context()).Voters {
			c.Kill(p)
		}
		for _, id := range followers {
			raftstoretest.Eventually(t, func() error {
				if heard, err := hears(id); err != nil || heard {
					return fmt.Errorf("%s, an orphan, hears a leader: %t, %w", id, heard, err)
				}
				return nil
			})
		}
		time.Sleep(time.Minute)
		for _, id := range followers {
			if heard, err := hears(id); err != nil || heard {
				t.Errorf("%s hears a leader a minute after all voters died: %t, %v", id, heard, err)
			}
		}
	})
}
