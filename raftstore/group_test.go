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

// quickRejoin makes replicas that hear no leader ask soon to be added again.
func quickRejoin(cfg *raftstore.Config) { cfg.Timing.Rejoin = 300 * time.Millisecond }

// recoverOn stops all three replicas and makes host the only voter of a new group.
func recoverOn(t *testing.T, c *raftstoretest.Cluster, host string) *raftstore.Store {
	t.Helper()
	last := mustCommit(t, c.Live()[0], put("/k", "before"))
	c.WaitRevision(last.Revision)
	for _, id := range []string{"host1", "host2", "host3"} {
		c.Kill(id)
	}
	if _, err := raftstore.RecoverCluster(t.Context(), c.Config(host), nil); err != nil {
		t.Fatal(err)
	}
	s := c.Restart(host)
	raftstoretest.WaitServing(t, s)
	return s
}

// TestRecoveryEndsThePast: what clients read before a recovery holds no more, on the
// recovered replica and on those that join it again.
func TestRecoveryEndsThePast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		before := mustCommit(t, c.Live()[0], put("/kept", "v"))
		present := recoverOn(t, c, "host2")
		old := c.Config("host1").DataDir
		if err := raftstore.Empty(old); err != nil {
			t.Fatal(err)
		}
		back := c.Restart("host1")
		if err := back.Join(t.Context(), []string{c.Addr("host2")}); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*raftstore.Store{present, back} {
			stale := put("/kept", "by a client of before")
			stale.If = []raftstore.Condition{{Key: "/kept", ModRevision: before.Revision}}
			var conflict *raftstore.ConflictError
			if _, err := s.Commit(t.Context(), stale); !errors.As(err, &conflict) {
				t.Errorf("a write on condition of a revision of before: %v", err)
			}
			if _, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/", Revision: before.Revision}); !errors.Is(err, raftstore.ErrCompacted) {
				t.Errorf("a watch continued across the recovery: %v", err)
			}
			if _, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/", Revision: before.Revision}); !errors.Is(err, raftstore.ErrCompacted) {
				t.Errorf("a list continued across the recovery: %v", err)
			}
		}
	})
}

// waitReplaced waits until the replicas know that their group was replaced.
func waitReplaced(t *testing.T, stores ...*raftstore.Store) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		for i, s := range stores {
			if err := s.Err(); !errors.Is(err, raftstore.ErrReplaced) || !errors.Is(err, raftstore.ErrHalted) {
				return fmt.Errorf("old replica %d: %v", i, err)
			}
		}
		return nil
	})
}

// TestReplicaOfReplacedGroup: a replica that was away during a recovery must not be
// added with its old log, now or after a restart, until its data was deleted.
func TestReplicaOfReplacedGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(quickRejoin))
		present := recoverOn(t, c, "host2")
		mustCommit(t, present, put("/k", "after"))
		old := c.Restart("host1")
		waitReplaced(t, old)
		wantRemedy(t, "the error", old.Err().Error(), c.Config("host1"))
		if n := len(present.Status(t.Context()).Peers); n != 1 {
			t.Errorf("the new group has %d replicas", n)
		}
		c.Kill("host1")
		c.Net.Cut(c.Addr("host1"))
		if s, err := raftstore.Open(t.Context(), c.Config("host1")); !errors.Is(err, raftstore.ErrReplaced) {
			t.Errorf("opened again: %v, %v", s, err)
		} else {
			wantRemedy(t, "opened again", err.Error(), c.Config("host1"))
		}
		c.Net.Heal()
		if err := raftstore.Empty(c.Config("host1").DataDir); err != nil {
			t.Fatal(err)
		}
		back := c.Restart("host1")
		if err := back.Join(t.Context(), []string{c.Addr("host2")}); err != nil {
			t.Fatal(err)
		}
		if r, _, err := back.Get(t.Context(), "/k", raftstore.ReadOptions{Consistency: raftstore.Local}); err != nil || string(r.Value) != "after" {
			t.Errorf("emptied replica shows %q, %v", r.Value, err)
		}
		if err := present.Err(); err != nil {
			t.Errorf("the new group halted: %v", err)
		}
	})
}

// TestOldMajorityEndsItself: most of the old voters come back together and can
// elect a leader. They must not stay a second group.
func TestOldMajorityEndsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		present := recoverOn(t, c, "host2")
		waitReplaced(t, c.Restart("host1"), c.Restart("host3"))
		mustCommit(t, present, put("/k", "after"))
	})
}

// TestOldMajorityMeetsStrangers: the same, but no replica of the new group was in the
// old one.
func TestOldMajorityMeetsStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(quickRejoin))
		present := recoverOn(t, c, "host2")
		mustCommit(t, c.Add("host4"), put("/k", "after"))
		if err := present.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Kill("host2")
		mustCommit(t, c.Node("host4"), put("/k", "host4 leads"))
		waitReplaced(t, c.Restart("host1"), c.Restart("host3"))
		mustCommit(t, c.Node("host4"), put("/k", "later"))
	})
}

// TestRestoredGroupReplacesOld: a backup that is restored is a new group as well.
func TestRestoredGroupReplacesOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(quickRejoin))
		mustCommit(t, c.Live()[0], put("/k", "v"))
		var backup strings.Builder
		if _, err := c.Live()[0].Backup(t.Context(), &backup); err != nil {
			t.Fatal(err)
		}
		c.Kill("host1")
		c.Kill("host2")
		dir := c.Config("host1").DataDir
		if err := raftstore.Empty(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := raftstore.RestoreBackup(t.Context(), c.Config("host1"), strings.NewReader(backup.String()), nil); err != nil {
			t.Fatal(err)
		}
		s := c.Restart("host1")
		if !s.Joined() {
			t.Error("a restored replica does not count as whole")
		}
		raftstoretest.WaitServing(t, s)
		waitReplaced(t, c.Node("host3"), c.Restart("host2"))
		mustCommit(t, s, put("/k", "w"))
	})
}

func TestInterruptedRecoveryIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 1)
		last := mustCommit(t, c.Node("host1"), put("/k", "v"))
		c.Kill("host1")
		if err := raftstore.InterruptRecovery(c.Config("host1")); err != nil {
			t.Fatal(err)
		}
		if _, err := raftstore.Open(t.Context(), c.Config("host1")); err == nil || !strings.Contains(err.Error(), "repeat it") {
			t.Errorf("opened in the middle of a recovery: %v", err)
		}
		got, err := raftstore.RecoverCluster(t.Context(), c.Config("host1"), nil)
		if err != nil || got.Copy != last.Revision {
			t.Fatalf("recovered %+v, %v", got, err)
		}
		mustCommit(t, c.Restart("host1"), put("/k", "w"))
	})
}

func TestRecoverNeedsState(t *testing.T) {
	cfg := raftstoretest.Config(raftstoretest.NewNetwork(), "host1")
	cfg.DataDir = t.TempDir()
	if _, err := raftstore.RecoverCluster(t.Context(), cfg, nil); err == nil || !strings.Contains(err.Error(), "holds no state") {
		t.Errorf("recovered nothing: %v", err)
	}
}

// TestInterruptedBootstrap: a founder that stopped in the middle founds its group
// at the next start, and a later start founds no other one.
func TestInterruptedBootstrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cfg := raftstoretest.Config(raftstoretest.NewNetwork(), "host1")
		cfg.DataDir = dir
		if err := raftstore.InterruptBootstrap(cfg); err != nil {
			t.Fatal(err)
		}
		s := mustOpenSingle(t, dir)
		last := mustCommit(t, s, put("/k", "v"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s = mustOpenSingle(t, dir); s.Revision() != last.Revision || !s.Joined() {
			t.Errorf("second bootstrap: at %d, want %d, joined %v", s.Revision(), last.Revision, s.Joined())
		}
	})
}

// TestJoinedOnlyOnceWhole: until a replica has joined, Joined must say that its state
// is not complete.
func TestJoinedOnlyOnceWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 1)
		cfg := c.Config("host2")
		c.SetHealth("host2", func(m *raftstore.MemberHealth) { m.Addr, m.Alive = cfg.Addr, true })
		s, err := raftstore.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := s.Join(ctx, []string{"nobody:7000"}); err == nil || s.Joined() {
			t.Errorf("joined nobody: %v, %v", err, s.Joined())
		}
		if err := s.Join(t.Context(), []string{c.Addr("host1")}); err != nil || !s.Joined() {
			t.Errorf("join: %v, %v", err, s.Joined())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		cfg = c.Config("host2")
		if s, err = raftstore.Open(t.Context(), cfg); err != nil || !s.Joined() {
			t.Errorf("forgot at a restart that it had joined: %v", err)
		}
		t.Cleanup(func() { _ = s.Close() })
	})
}

func TestEmptyRefusesRunningReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		mustOpenSingle(t, dir)
		if err := raftstore.Empty(dir); !errors.Is(err, raftstore.ErrLocked) {
			t.Errorf("emptied under a running replica: %v", err)
		}
		if err := raftstore.Empty(dir + "/none"); err != nil {
			t.Errorf("nothing to empty: %v", err)
		}
	})
}
