package raftstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
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
