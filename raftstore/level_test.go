package raftstore_test

import (
	"bytes"
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

// version makes a host run a version that knows the feature levels from lowest to highest.
func version(name string, lowest, highest uint32) raftstoretest.Option {
	return raftstoretest.WithConfig(func(cfg *raftstore.Config) {
		cfg.Version, cfg.FeatureLevel = name, raftstore.LevelRange{Lowest: lowest, Highest: highest}
		rule := unique
		rule.Version, rule.FeatureLevel = 2, 2
		if cfg.Constraints = []raftstore.Constraint{unique}; highest >= 2 {
			cfg.Constraints = append(cfg.Constraints, rule)
		}
	})
}

var (
	v1 = version("v1", 1, 1)
	v2 = version("v2", 1, 2)
	v3 = version("v3", 3, 3)
)

// change stops a host and starts it with another version.
func change(c *raftstoretest.Cluster, id string, version raftstoretest.Option) *raftstore.Store {
	c.Kill(id)
	c.Use(id, version)
	return c.Restart(id)
}

// raisedCluster returns three replicas of v2 whose group was founded by v1 and raised to
// level 2. before is called just before it is raised.
func raisedCluster(t *testing.T, before func(*raftstoretest.Cluster)) *raftstoretest.Cluster {
	t.Helper()
	c := raftstoretest.NewCluster(t, 3, v1)
	for _, id := range []string{"host1", "host2", "host3"} {
		raftstoretest.WaitServing(t, change(c, id, v2))
	}
	before(c)
	// A host that has just started may not answer the first time.
	raftstoretest.Eventually(t, func() error { return c.Node("host2").RaiseFeatureLevel(t.Context(), 2) })
	raftstoretest.Eventually(t, func() error {
		for _, s := range c.Live() {
			if got := s.FeatureLevel(); got != 2 {
				return fmt.Errorf("a replica is at level %d", got)
			}
		}
		return nil
	})
	return c
}

// wantError fails the test unless err is of a class and its text has all parts.
func wantError(t *testing.T, what string, err, class error, parts ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: %v, want %v", what, err, class)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: the error does not say %q: %v", what, part, err)
		}
	}
}

// commitEverywhere writes at every replica and waits until all have the writes.
func commitEverywhere(t *testing.T, c *raftstoretest.Cluster) {
	t.Helper()
	var last raftstore.TxnResult
	for i, s := range c.Live() {
		last = mustCommit(t, s, put(fmt.Sprint("/k/", i), "v"))
	}
	c.WaitRevision(last.Revision)
}

// TestRollingUpgrade changes the version of one host after the other, back and forth, and
// raises the feature level once all hosts know the new one.
func TestRollingUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, v1)
		newer := put("/mac/a", "02:00")
		newer.Constraints = []raftstore.ConstraintCall{{Name: "unique", Version: 2, Args: []byte("/mac/")}}
		for _, id := range []string{"host1", "host2"} {
			raftstoretest.WaitServing(t, change(c, id, v2))
			commitEverywhere(t, c)
		}
		err := c.Node("host2").RaiseFeatureLevel(t.Context(), 2)
		wantError(t, "raised while host3 is old", err, raftstore.ErrHeldUp, `host "host3" (version "v1") knows feature level 1`)
		if strings.Contains(err.Error(), `"host1"`) || strings.Contains(err.Error(), `"host2"`) {
			t.Errorf("a host that does not hold the level up is named: %v", err)
		}
		raftstoretest.WaitServing(t, change(c, "host1", v1)) // within the level, a host may go back
		commitEverywhere(t, c)
		change(c, "host1", v2)
		change(c, "host3", v2)
		commitEverywhere(t, c)
		_, err = c.Node("host1").Commit(t.Context(), newer)
		wantError(t, "a rule of level 2 at level 1", err, raftstore.ErrUnknownConstraint, "needs feature level 2, and the mesh is at level 1")
		c.Kill("host2")
		err = c.Node("host1").RaiseFeatureLevel(t.Context(), 2)
		wantError(t, "raised while host2 is away", err, raftstore.ErrHeldUp, `host "host2" does not answer`, "start it, or take it out of the mesh")
		if strings.Contains(err.Error(), "not the leader") {
			t.Errorf("a host that is away is told as a fault of the leader: %v", err)
		}
		c.Restart("host2")
		raftstoretest.Eventually(t, func() error { return c.Node("host2").RaiseFeatureLevel(t.Context(), 2) })
		if got := c.Node("host2").FeatureLevel(); got != 2 {
			t.Errorf("raised to 2, and the level is %d", got)
		}
		for _, s := range c.Live() {
			mustCommit(t, s, newer)
			if got := s.FeatureLevel(); got != 2 {
				t.Errorf("%s has applied a write of level 2 at level %d", s.Status(t.Context()).NodeID, got)
			}
		}
		if err := c.Node("host1").RaiseFeatureLevel(t.Context(), 2); err != nil {
			t.Errorf("raised to where it is: %v", err)
		}
		wantError(t, "lowered", c.Node("host1").RaiseFeatureLevel(t.Context(), 1), raftstore.ErrInvalidTxn, "cannot be lowered")
		wantError(t, "raised too high", c.Node("host1").RaiseFeatureLevel(t.Context(), 3), raftstore.ErrHeldUp, "host1", "host2", "host3", "knows feature levels 1 to 2")
	})
}

// TestMemberHoldsUpLevel: a host that is recorded and has no replica yet must be asked too.
func TestMemberHoldsUpLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raisedCluster(t, func(c *raftstoretest.Cluster) {
			c.Add("host4")
			if err := c.Node("host4").Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
			change(c, "host4", v1)
			err := c.Node("host1").RaiseFeatureLevel(t.Context(), 2)
			wantError(t, "raised while a member is old", err, raftstore.ErrHeldUp, `host "host4" (version "v1")`)
			c.SetHealth("host4", func(m *raftstore.MemberHealth) { m.Addr = "host1:7000" })
			err = c.Node("host1").RaiseFeatureLevel(t.Context(), 2)
			wantError(t, "raised while another host answers for a member", err, raftstore.ErrHeldUp, `host "host4"`)
			c.SetHealth("host4", func(m *raftstore.MemberHealth) { m.Addr = "host4:7000" })
			change(c, "host4", v2)
		})
	})
}

// TestDeadHostsAreToldFromOthers: hosts that do not answer take no time from those that do,
// however many they are, and the raise ends in time.
func TestDeadHostsAreToldFromOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, v1)
		for _, id := range []string{"host1", "host2", "host3"} {
			raftstoretest.WaitServing(t, change(c, id, v2))
		}
		for _, from := range []string{"host1", "host2", "host3"} {
			for _, to := range []string{"host1", "host2", "host3"} {
				c.Net.Slow(c.Addr(from), c.Addr(to), func() time.Duration { return 10 * time.Millisecond })
			}
		}
		const dead = 300
		for i := range dead {
			id := fmt.Sprint("dead", i)
			c.Net.Silence(id + ":7000")
			c.SetHealth(id, func(m *raftstore.MemberHealth) { m.Addr = id + ":7000" })
		}
		begin := time.Now()
		err := c.Node(c.Leader()).RaiseFeatureLevel(t.Context(), 2)
		wantError(t, "raised while hosts are dead", err, raftstore.ErrHeldUp, `host "dead0" does not answer`, fmt.Sprintf("and %d more", dead-10))
		if took := time.Since(begin); took > c.Config("host1").Timing.RPC {
			t.Errorf("the raise was refused after %s", took)
		}
	})
}

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

// TestLevelOfBackup: a backup keeps the level, and a version that does not know it
// restores nothing.
func TestLevelOfBackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raisedCluster(t, func(*raftstoretest.Cluster) {})
		mustCommit(t, c.Node("host1"), put("/k", "v"))
		var backup bytes.Buffer
		if _, err := c.Node("host1").Backup(t.Context(), &backup); err != nil {
			t.Fatal(err)
		}
		c.Kill("host1")
		c.Kill("host2")
		for _, tc := range []struct {
			version raftstoretest.Option
			want    error
			says    string
		}{
			{v1, raftstore.ErrFeatureLevel, `feature level 2, and this version knows feature level 1: install version "v2" or newer`},
			{v3, raftstore.ErrFeatureLevel, "feature level 2, and this version knows feature level 3"},
			{v2, nil, ""},
		} {
			c.Use("host1", tc.version)
			_, err := raftstore.RecoverCluster(t.Context(), c.Config("host1"), nil)
			c.Use("host2", tc.version)
			cfg := c.Config("host2")
			cfg.DataDir += "-restored"
			_, rerr := raftstore.RestoreBackup(t.Context(), cfg, bytes.NewReader(backup.Bytes()), nil)
			if tc.want == nil {
				if err != nil || rerr != nil {
					t.Fatalf("recovered: %v; restored: %v", err, rerr)
				}
				break
			}
			wantError(t, "recovered", err, tc.want, tc.says)
			wantError(t, "restored", rerr, tc.want, tc.says)
			if !raftstore.IsEmpty(cfg.DataDir) {
				t.Error("a restore that was refused has written state")
			}
		}
		c.Net.Cut(c.Addr("host3"))
		for _, id := range []string{"host1", "host2"} {
			cfg := c.Config(id)
			if id == "host2" {
				cfg.DataDir += "-restored"
			}
			s, err := raftstore.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			raftstoretest.WaitServing(t, s)
			if got := s.FeatureLevel(); got != 2 {
				t.Errorf("%s: level %d after a recovery or a restore", id, got)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestLevelIsReserved: nobody writes the record of the level but RaiseFeatureLevel.
func TestLevelIsReserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 1, v2)
		for _, op := range []raftstore.Op{{Key: "/featurelevel", Value: []byte("3")}, {Key: "/featurelevel", Delete: true}} {
			_, err := c.Node("host1").Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{op}})
			wantError(t, "written", err, raftstore.ErrInvalidTxn, "RaiseFeatureLevel")
			err = raftstore.CommitAsPeer(c.Node("host1"), raftstore.Txn{Ops: []raftstore.Op{op}})
			wantError(t, "written by a peer", err, raftstore.ErrInvalidTxn, "RaiseFeatureLevel")
		}
	})
}

// TestWrongWordOfAPeer: a peer that says that the group's level is beyond this version, while
// the leader's entries arrive, is not believed.
func TestWrongWordOfAPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		for _, s := range c.Live() {
			raftstore.HearLevel(s, 9)
		}
		for _, s := range c.Live() {
			if failure := s.Status(t.Context()).Failure; failure != "" {
				t.Errorf("%s does not work: %s", s.Status(t.Context()).NodeID, failure)
			}
		}
		if err := c.Node(c.Leader()).TransferLeadership(t.Context()); err != nil {
			t.Fatal(err)
		}
		commitEverywhere(t, c)
	})
}

// TestNobodyFollowsBelowTheLevel: what only followers ask is refused before it is read.
func TestNobodyFollowsBelowTheLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, v1)
		for name, err := range raftstore.AskAsFollower(c.Node(c.Leader()), []byte("[{},{}]")) {
			wantError(t, name, err, raftstore.ErrInvalidTxn, "replicas follow from feature level 2 on")
		}
	})
}
