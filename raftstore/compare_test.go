package raftstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// quickCompare makes replicas compare their states often.
func quickCompare(cfg *raftstore.Config) { cfg.Timing.Compare = 50 * time.Millisecond }

// oddOne registers a rule that refuses, but on the host in odd accepts.
func oddOne(odd *atomic.Value) raftstoretest.Option {
	return raftstoretest.WithConfig(func(cfg *raftstore.Config) {
		id := cfg.NodeID
		cfg.Constraints = append(cfg.Constraints, raftstore.Constraint{Name: "never", Version: 1, Check: func(raftstore.View, *raftstore.Txn, []byte) error {
			if odd.Load() == id {
				return nil
			}
			return errors.New("never")
		}})
	})
}

// A replica that judges an entry unlike the others stops, whatever it is in its group,
// and the others go on. It stays stopped until it gets a new copy.
func TestTheOddReplicaStops(t *testing.T) {
	for name, choose := range map[string]func(t *testing.T, c *raftstoretest.Cluster) string{
		"a leader": func(_ *testing.T, c *raftstoretest.Cluster) string { return c.Leader() },
		"a voter": func(_ *testing.T, c *raftstoretest.Cluster) string {
			if c.Leader() == "host1" {
				return "host2"
			}
			return "host1"
		},
		"a replica that does not vote": func(t *testing.T, c *raftstoretest.Cluster) string {
			for _, p := range c.Node(c.Leader()).Status(t.Context()).Peers {
				if !p.Voter {
					return p.ID
				}
			}
			t.Fatal("all vote")
			return ""
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var odd atomic.Value
				odd.Store("nobody")
				c := raftstoretest.NewCluster(t, 4, raftstoretest.WithConfig(quickCompare), oddOne(&odd))
				host := choose(t, c)
				odd.Store(host)
				// If the odd one leads, it accepts what the others refuse.
				_, _ = c.Node(c.Leader()).Commit(t.Context(), raftstore.Txn{
					Ops:         []raftstore.Op{{Key: "/forbidden", Value: []byte("x")}},
					Constraints: []raftstore.ConstraintCall{{Name: "never", Version: 1}},
				})
				stopped := c.Node(host)
				raftstoretest.Eventually(t, func() error {
					if err := stopped.Err(); !errors.Is(err, raftstore.ErrHalted) || !errors.Is(err, raftstore.ErrDiverged) {
						return fmt.Errorf("the odd replica: %v", err)
					}
					return nil
				})
				wantRemedy(t, "its status", stopped.Status(t.Context()).Failure, c.Config(host))
				odd.Store("nobody")
				checkOthersGoOn(t, c, host)
				checkStaysStopped(t, c, host)
			})
		})
	}
}

// A peer that makes up statements about the future keeps nobody from comparing states.
func TestALiarDoesNotHoldUpTheComparison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var odd atomic.Value
		odd.Store("nobody")
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(quickCompare), oddOne(&odd),
			raftstoretest.WithConfig(func(cfg *raftstore.Config) { cfg.Timing.RPC = time.Minute }))
		stores := c.Live()
		lies := time.NewTicker(10 * time.Millisecond)
		defer lies.Stop()
		ended := make(chan struct{})
		defer close(ended)
		go func() {
			for {
				select {
				case <-lies.C:
				case <-ended:
					return
				}
				for _, s := range stores {
					raftstore.PutFutureStatement(s)
				}
			}
		}()
		time.Sleep(time.Second)
		leader := c.Node(c.Leader())
		odd.Store(c.Leader())
		begin := time.Now()
		_, _ = leader.Commit(t.Context(), raftstore.Txn{
			Ops:         []raftstore.Op{{Key: "/forbidden", Value: []byte("x")}},
			Constraints: []raftstore.ConstraintCall{{Name: "never", Version: 1}},
		})
		raftstoretest.Eventually(t, func() error {
			if leader.Err() == nil {
				return errors.New("the odd leader goes on")
			}
			return nil
		})
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("the odd leader stopped after %s", took)
		}
	})
}

// wantRemedy fails the test unless a text ends with the remedy and says it once.
func wantRemedy(t *testing.T, what, text string, cfg raftstore.Config) {
	t.Helper()
	if !strings.HasSuffix(text, "; "+cfg.Remedy) || strings.Count(text, "join again") != 1 {
		t.Errorf("%s does not say once, at its end, what to do: %s", what, text)
	}
}

func checkOthersGoOn(t *testing.T, c *raftstoretest.Cluster, odd string) {
	t.Helper()
	for _, s := range c.Live() {
		if s == c.Node(odd) {
			continue
		}
		mustCommit(t, s, put("/k", "after"))
		if _, _, err := s.Get(t.Context(), "/forbidden", raftstore.ReadOptions{}); !errors.Is(err, raftstore.ErrNotFound) {
			t.Errorf("what was refused is there: %v", err)
		}
		if s.Err() != nil {
			t.Errorf("another replica stopped: %v", s.Err())
		}
	}
}

func checkStaysStopped(t *testing.T, c *raftstoretest.Cluster, odd string) {
	t.Helper()
	c.Kill(odd)
	if _, err := raftstore.Open(t.Context(), c.Config(odd)); !errors.Is(err, raftstore.ErrDiverged) || !strings.Contains(err.Error(), "at log index") {
		t.Errorf("opened again: %v", err)
	} else {
		wantRemedy(t, "opened again", err.Error(), c.Config(odd))
	}
	if err := raftstore.Empty(c.Config(odd).DataDir); err != nil {
		t.Fatal(err)
	}
	var seeds []string
	for _, s := range c.Live() {
		id := s.Status(t.Context()).NodeID
		seeds = append(seeds, c.Addr(id))
	}
	back := c.Restart(odd)
	if err := back.Join(t.Context(), seeds); err != nil {
		t.Fatal(err)
	}
	if !raftstore.AgreesWithVoters(back) || back.Err() != nil {
		t.Errorf("with a new copy it does not agree with the voters: %v", back.Err())
	}
}

// A replica that hears of a digest which differs from its own, from a host that lies or is
// odd itself, stops only if the voters say so too.
func TestNoReplicaStopsOnTheWordOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 4)
		c.WaitRevision(mustCommit(t, c.Live()[0], put("/k", "v")).Revision)
		for _, s := range c.Live() {
			raftstore.TakeWrongDigest(s)
			if err := s.Err(); err != nil || !raftstore.AgreesWithVoters(s) {
				t.Errorf("%s stopped: %v", s.Status(t.Context()).NodeID, err)
			}
		}
	})
}

// Without a majority on either side nobody knows who is odd, and nobody stops.
func TestWithoutAMajorityNoReplicaStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var odd atomic.Value
		odd.Store("nobody")
		c := raftstoretest.NewCluster(t, 3, oddOne(&odd))
		host := "host1"
		if c.Leader() == host {
			host = "host2"
		}
		odd.Store(host)
		_, err := c.Node(c.Leader()).Commit(t.Context(), raftstore.Txn{
			Ops:         []raftstore.Op{{Key: "/forbidden", Value: []byte("x")}},
			Constraints: []raftstore.ConstraintCall{{Name: "never", Version: 1}},
		})
		if !errors.As(err, new(*raftstore.ConstraintError)) {
			t.Fatal(err)
		}
		leader := c.Leader()
		for _, id := range []string{"host1", "host2", "host3"} {
			if id != leader && id != host {
				c.Kill(id)
			}
		}
		c.WaitRevision(mustCommit(t, c.Node(leader), put("/k", "v")).Revision)
		for _, id := range []string{leader, host} {
			if s := c.Node(id); raftstore.AgreesWithVoters(s) || s.Err() != nil {
				t.Errorf("%s found a majority among two that differ, or stopped: %v", id, s.Err())
			}
		}
	})
}

// A copy that came as a snapshot, from a recovery or from a backup has the digest that
// goes with it.
func TestCopiesKeepTheDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Limits.SnapshotEntries, cfg.Limits.TrailingBytes = 8, 1
		})
		agree := func(what string, stores ...*raftstore.Store) {
			t.Helper()
			for _, s := range stores {
				mustCommit(t, s, put("/agree", what))
				if !raftstore.AgreesWithVoters(s) {
					t.Errorf("%s: %s does not agree with the voters", what, s.Status(t.Context()).NodeID)
				}
			}
		}
		c := raftstoretest.NewCluster(t, 3, small)
		c.Kill("host3")
		for i := range 50 {
			mustCommit(t, c.Live()[0], put("/k", fmt.Sprint(i)))
		}
		agree("while one is away", c.Live()...)
		c.Restart("host3")
		c.WaitRevision(c.Live()[0].Revision())
		agree("after a restart and a snapshot", c.Live()...)
		var backup bytes.Buffer
		if _, err := c.Live()[0].Backup(t.Context(), &backup); err != nil {
			t.Fatal(err)
		}
		recovered := recoverOn(t, c, "host2")
		agree("after a recovery", recovered)
		agree("joined after a recovery", rejoin(t, c, "host1", "host2"))
		for _, id := range []string{"host1", "host2"} {
			c.Kill(id)
			if err := raftstore.Empty(c.Config(id).DataDir); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := raftstore.RestoreBackup(t.Context(), c.Config("host1"), &backup, nil); err != nil {
			t.Fatal(err)
		}
		restored := c.Restart("host1")
		raftstoretest.WaitServing(t, restored)
		agree("restored", restored)
		agree("joined a restored mesh", rejoin(t, c, "host2", "host1"))
	})
}

// rejoin empties a host and lets it join the group of another one.
func rejoin(t *testing.T, c *raftstoretest.Cluster, host, seed string) *raftstore.Store {
	t.Helper()
	if err := raftstore.Empty(c.Config(host).DataDir); err != nil {
		t.Fatal(err)
	}
	s := c.Restart(host)
	if err := s.Join(t.Context(), []string{c.Addr(seed)}); err != nil {
		t.Fatal(err)
	}
	return s
}
