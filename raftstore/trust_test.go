package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// fedReplica opens a replica that is in no Raft configuration and is fed by the test.
type fedReplica struct {
	*raftstore.Store
	t      *testing.T
	c      *raftstoretest.Cluster
	dir    string
	config func() raftstore.Config
}

// openFed opens a replica named host9.
func openFed(t *testing.T, c *raftstoretest.Cluster) *fedReplica {
	t.Helper()
	return openFedAs(t, c, "host9")
}

// openFedAs opens a replica with data in a directory of its own.
func openFedAs(t *testing.T, c *raftstoretest.Cluster, id string) *fedReplica {
	t.Helper()
	return openFedWith(t, c, id, func(*raftstore.Config) {})
}

// openFedWith does so with another configuration.
func openFedWith(t *testing.T, c *raftstoretest.Cluster, id string, change raftstoretest.Option) *fedReplica {
	t.Helper()
	dir := filepath.Join(t.TempDir(), id)
	f := &fedReplica{t: t, c: c, dir: dir, config: func() raftstore.Config {
		cfg := raftstoretest.Config(c.Net, id)
		cfg.DataDir, cfg.Members, cfg.Signer, cfg.Timing.Compare = dir, c.Members, c.Keys.Signer(id), 0
		cfg.Timing.Rejoin = 0
		change(&cfg)
		return cfg
	}}
	f.open()
	t.Cleanup(f.stop)
	if err := raftstore.Introduce(f.Store, c.Node(c.Leader())); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fedReplica) open() {
	f.t.Helper()
	s, err := raftstore.Open(f.t.Context(), f.config())
	if err != nil {
		f.t.Fatal(err)
	}
	f.Store = s
}

// stop closes the replica and its connections.
func (f *fedReplica) stop() {
	if err := f.Close(); err != nil {
		f.t.Error(err)
	}
	f.c.Net.Hangup(f.config().Addr)
}

// restart closes the replica and opens it again.
func (f *fedReplica) restart() {
	f.t.Helper()
	f.restartWith(func() {})
}

// restartWith does something while the replica is closed.
func (f *fedReplica) restartWith(do func()) {
	f.t.Helper()
	if err := f.Close(); err != nil {
		f.t.Fatal(err)
	}
	do()
	f.c.Net.Hangup(f.config().Addr)
	f.open()
}

// feed hands the replica what a voter has, untouched.
func (f *fedReplica) feed() {
	f.t.Helper()
	if err := raftstore.Feed(f.Store, f.c.Node(f.c.Leader()), "host8", nil); err != nil {
		f.t.Fatal(err)
	}
}

// mustConfirm fails the test unless s confirms its state in time.
func mustConfirm(t *testing.T, s *raftstore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.ReadyTimeout)
	defer cancel()
	if err := s.Confirm(ctx); err != nil {
		t.Fatal(err)
	}
}

// mustNotConfirm fails the test if s confirms its state although it cannot be sure.
func mustNotConfirm(t *testing.T, s *raftstore.Store, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	err := s.Confirm(ctx)
	if err == nil || !errors.Is(err, raftstore.ErrUnconfirmed) && !errors.Is(err, raftstore.ErrHalted) {
		t.Fatalf("Confirm: %v", err)
	}
	return err
}

// A replica that has its log from the leader confirms at once, even when nobody answers.
func TestAReplicaInRaftConfirmsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		mustCommit(t, c.Live()[0], put("/k", "v"))
		c.Net.Partition([]string{c.Addr("host1")}, []string{c.Addr("host2")}, []string{c.Addr("host3")})
		for _, s := range c.Live() {
			began := time.Now()
			mustConfirm(t, s)
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("it took %s", took)
			}
		}
	})
}

// A replica that was fed the truth confirms what it has, after more was fed and after a
// restart too; and not while the voters do not answer.
func TestAFedReplicaConfirms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		f := openFed(t, c)
		for i := range 3 {
			mustCommit(t, c.Live()[0], put("/k", fmt.Sprint(i)))
			f.feed()
			mustConfirm(t, f.Store)
		}
		f.restart()
		mustConfirm(t, f.Store)
		mustCommit(t, c.Live()[0], put("/k", "later"))
		f.feed()
		c.Net.Cut("host9:7000")
		err := mustNotConfirm(t, f.Store, 300*time.Millisecond)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it does not say that the time was up: %v", err)
		}
		if r, _, err := f.Get(t.Context(), "/k", raftstore.ReadOptions{Consistency: raftstore.Local}); err != nil || string(r.Value) != "later" {
			t.Errorf("a local read meanwhile: %s, %v", r.Value, err)
		}
		c.Net.Heal()
		mustConfirm(t, f.Store)
	})
}

// A minority of the voters confirms nothing.
func TestAMinorityConfirmsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		f := openFed(t, c)
		mustCommit(t, c.Live()[0], put("/k", "v"))
		f.feed()
		leader := c.Leader()
		for _, id := range []string{"host1", "host2", "host3"} {
			if id != leader {
				c.Kill(id)
			}
		}
		if err := mustNotConfirm(t, f.Store, 300*time.Millisecond); !strings.Contains(err.Error(), "1 answer") {
			t.Errorf("it does not say who is missing: %v", err)
		}
	})
}

// The signature of a host that was removed counts no more.
func TestARemovedHostConfirmsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		f := openFed(t, c)
		mustCommit(t, c.Live()[0], put("/k", "v"))
		f.feed()
		c.Keys.End("host2")
		c.Keys.End("host3")
		if err := mustNotConfirm(t, f.Store, 300*time.Millisecond); !strings.Contains(err.Error(), "no member any more") {
			t.Errorf("it does not say why: %v", err)
		}
	})
}

// A feeder that changes an entry is found out before anything was done, and named. The
// replica stays stopped.
func TestAFeederThatForgesEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		f := openFed(t, c)
		f.feed()
		mustConfirm(t, f.Store)
		mustCommit(t, c.Live()[0], put("/k", "honest"))
		if err := raftstore.Feed(f.Store, c.Node(c.Leader()), "host8", raftstore.ForgeValue("honest", "forged")); err != nil {
			t.Fatal(err)
		}
		checkFoundOut(t, f)
	})
}

// checkFoundOut checks that f halts and names host8.
func checkFoundOut(t *testing.T, f *fedReplica) {
	t.Helper()
	err := mustNotConfirm(t, f.Store, raftstoretest.ReadyTimeout)
	if !errors.Is(err, raftstore.ErrDiverged) || !errors.Is(err, raftstore.ErrHalted) || !strings.Contains(err.Error(), "fed by host8") {
		t.Errorf("the forgery was not found out, or not in full: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := raftstore.Open(t.Context(), f.config()); !errors.Is(err, raftstore.ErrDiverged) {
		t.Errorf("opened again: %v", err)
	}
}

// A fed snapshot is believed only once the voters have signed the hash of a state behind it.
func TestAFedSnapshotIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		f := openFed(t, c)
		for i := range 5 {
			mustCommit(t, c.Live()[0], put("/k", fmt.Sprint(i)))
		}
		leader := c.Node(c.Leader())
		if err := raftstore.FeedSnapshot(f.Store, leader, "host8", nil); err != nil {
			t.Fatal(err)
		}
		// Its digest is right, but the records may be others than those that have led to it. It
		// does not get the entries behind the snapshot, so no checkpoint either.
		mustNotConfirm(t, f.Store, time.Second)
		f.restart()
		mustNotConfirm(t, f.Store, time.Second)
		stop := keepFeeding(f)
		mustConfirm(t, f.Store)
		stop()
		f.restart()
		mustConfirm(t, f.Store)
	})
}

// keepFeeding feeds f until the function that it returns is called.
func keepFeeding(f *fedReplica) (stop func()) {
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan struct{})
	s, from := f.Store, f.c.Node(f.c.Leader())
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := raftstore.Feed(s, from, "host8", nil); err != nil {
				if s.Err() == nil && ctx.Err() == nil {
					f.t.Errorf("feed: %v", err)
				}
				return
			}
			<-tick.C
		}
	}()
	return func() { cancel(); <-done }
}

// A feeder that changes a record of a snapshot, and leaves the digest as it was, is found
// out by the next checkpoint.
func TestAFeederThatForgesASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		f := openFed(t, c)
		mustCommit(t, c.Live()[0], put("/k", "honest"))
		err := raftstore.FeedSnapshot(f.Store, c.Node(c.Leader()), "host8", func(key string) []byte {
			if key == "/k" {
				return []byte("forged")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		stop := keepFeeding(f)
		defer stop()
		checkFoundOut(t, f)
	})
}

// Statements that were passed on confirm without a question to the voters, and a forgery is
// found out by them alone.
func TestStatementsArePassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(quickCompare))
		f, liar := openFed(t, c), openFedAs(t, c, "host7")
		mustCommit(t, c.Live()[0], put("/k", "honest"))
		f.feed()
		if err := raftstore.Feed(liar.Store, c.Node(c.Leader()), "host8", raftstore.ForgeValue("honest", "forged")); err != nil {
			t.Fatal(err)
		}
		voter := c.Live()[0]
		index := voter.Status(t.Context()).AppliedIndex
		raftstoretest.Eventually(t, func() error {
			if got := raftstore.StatementsIndex(voter); got < index {
				return fmt.Errorf("a voter has statements on %d, want %d", got, index)
			}
			return nil
		})
		for _, id := range []string{"host7", "host9"} {
			c.Net.Cut(id + ":7000")
		}
		raftstore.PassStatements(f.Store, voter)
		mustConfirm(t, f.Store)
		raftstore.PassStatements(liar.Store, f.Store)
		if err := liar.Err(); !errors.Is(err, raftstore.ErrDiverged) {
			t.Errorf("the forgery was not found out: %v", err)
		}
	})
}
