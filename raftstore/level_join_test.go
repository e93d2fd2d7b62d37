package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestVersionBelowLevel: after the level was raised, a version that does not know it
// opens nothing, joins nothing and is not spoken to, and is told what to install.
func TestVersionBelowLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		install := []string{"this mesh is at feature level 2", "feature level 1", `install version "v2" or newer`}
		c := raisedCluster(t, func(c *raftstoretest.Cluster) {
			c.Kill("host3")
			if err := os.CopyFS(c.Config("host3").DataDir+".before", os.DirFS(c.Config("host3").DataDir)); err != nil {
				t.Fatal(err)
			}
			raftstoretest.WaitServing(t, c.Restart("host3"))
		})
		for _, snapshot := range []bool{false, true} {
			if snapshot {
				commitEverywhere(t, c)
				if err := c.Node("host3").Snapshot(); err != nil {
					t.Fatal(err)
				}
			}
			c.Kill("host3")
			c.Use("host3", v1)
			s, err := raftstore.Open(t.Context(), c.Config("host3"))
			wantError(t, fmt.Sprint("opened by an old version, snapshot ", snapshot), err, raftstore.ErrFeatureLevel, install...)
			if s != nil {
				t.Fatal(s.Close())
			}
			c.Use("host3", v2)
			raftstoretest.WaitServing(t, c.Restart("host3"))
		}
		c.Kill("host3")
		dir := c.Config("host3").DataDir
		if err := errors.Join(os.RemoveAll(dir), os.Rename(dir+".before", dir)); err != nil {
			t.Fatal(err)
		}
		c.Use("host3", v1)
		old := c.Restart("host3") // on a copy from before the level was raised
		raftstoretest.Eventually(t, func() error {
			for _, part := range install {
				if failure := old.Status(t.Context()).Failure; !strings.Contains(failure, part) {
					return fmt.Errorf("host3 says of itself %q, without %q", failure, part)
				}
			}
			peers := c.Node(c.Leader()).Status(t.Context()).Peers
			i := slices.IndexFunc(peers, func(p raftstore.PeerStatus) bool { return p.ID == "host3" })
			if i < 0 || peers[i].Healthy || !strings.Contains(peers[i].Failure, install[2]) {
				return fmt.Errorf("the leader says of host3 %+v", peers)
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := old.Commit(ctx, put("/k", "v"))
		wantError(t, "commit at the old version", err, raftstore.ErrNoLeader, install...)
		if old.FeatureLevel() != 1 || old.Err() != nil {
			t.Errorf("the old version is at level %d, %v", old.FeatureLevel(), old.Err())
		}
		raftstoretest.WaitServing(t, change(c, "host3", v2))
		commitEverywhere(t, c)
	})
}

// TestJoinOutsideLevel: a host whose version does not know the level of the mesh is
// refused at once, with the reason, whichever seed it asks.
func TestJoinOutsideLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raisedCluster(t, func(*raftstoretest.Cluster) {})
		for id, tc := range map[string]struct {
			version raftstoretest.Option
			says    []string
		}{
			"old1": {v1, []string{`host "old1" (version "v1") knows feature level 1`, `install version "v2" or newer`}},
			"new1": {v3, []string{`host "new1" (version "v3") knows feature level 3`, "raise the level first"}},
		} {
			c.Use(id, tc.version)
			s, err := raftstore.Open(t.Context(), c.Config(id))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			for _, seed := range []string{"host1", "host2", "host3"} {
				err := s.Join(t.Context(), []string{c.Addr(seed)})
				wantError(t, id+" joins at "+seed, err, raftstore.ErrFeatureLevel, append(tc.says, "this mesh is at feature level 2")...)
			}
		}
		if peers := c.Node(c.Leader()).Status(t.Context()).Peers; len(peers) != 3 {
			t.Errorf("replicas: %+v", peers)
		}
		c.Use("host4", v2)
		if got := c.Add("host4").FeatureLevel(); got != 2 {
			t.Errorf("a host that joined is at level %d", got)
		}
	})
}

// lead makes a host the leader.
func lead(t *testing.T, c *raftstoretest.Cluster, id string) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		if leader := c.Leader(); leader != id {
			return raftstore.HandOver(c.Node(leader), c.Node(id))
		}
		return nil
	})
}

// TestJoinAtLeaderThatLags: a new leader applies what its predecessors committed before it
// judges who may join. Here its state machine stands still before the raise.
func TestJoinAtLeaderThatLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, v1)
		held := make(chan struct{})
		release := sync.OnceFunc(func() { close(held) })
		t.Cleanup(release)
		for _, id := range []string{"host1", "host2", "host3"} {
			c.Kill(id)
			c.Use(id, v2, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
				cfg.Constraints = append(cfg.Constraints, raftstore.Constraint{Name: "hold", Version: 1, Check: func(raftstore.View, *raftstore.Txn, []byte) error {
					if id == "host2" {
						<-held
					}
					return nil
				}})
			}))
			raftstoretest.WaitServing(t, c.Restart(id))
		}
		lagging := c.Node("host2")
		lead(t, c, "host1")
		hold := put("/k", "v")
		hold.Constraints = []raftstore.ConstraintCall{{Name: "hold", Version: 1}}
		mustCommit(t, c.Node("host3"), hold)
		raftstoretest.Eventually(t, func() error { return c.Node("host3").RaiseFeatureLevel(t.Context(), 2) })
		lead(t, c, "host2")
		c.Use("host4", v1)
		late, err := raftstore.Open(t.Context(), c.Config("host4"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = late.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		err = late.Join(ctx, []string{c.Addr("host2")})
		wantError(t, "joined while the leader lags", err, raftstore.ErrNoLeader)
		if lagging.FeatureLevel() != 1 || !lagging.IsLeader() {
			t.Fatal("the leader does not lag")
		}
		release()
		err = late.Join(t.Context(), []string{c.Addr("host2")})
		wantError(t, "joined at the old version", err, raftstore.ErrFeatureLevel, `install version "v2" or newer`)
		if peers := c.Node(c.Leader()).Status(t.Context()).Peers; len(peers) != 3 {
			t.Errorf("replicas: %+v", peers)
		}
	})
}

// TestFoundedAtHighestLevel: a new group begins at the highest level of its founder.
func TestFoundedAtHighestLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for range 2 {
			s := mustOpenSingle(t, dir, v2)
			if got := s.FeatureLevel(); got != 2 {
				t.Errorf("founded by a version that knows level 2, at level %d", got)
			}
			mustCommit(t, s, put("/k", "v"))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		_, err := openSingle(t, dir, v1)
		wantError(t, "opened by an old version", err, raftstore.ErrFeatureLevel, `install version "v2" or newer`)
		_, err = openSingle(t, dir, v3)
		wantError(t, "opened by a version that is too new", err, raftstore.ErrFeatureLevel, "this mesh is at feature level 2", "install a version that knows level 2")
	})
}
