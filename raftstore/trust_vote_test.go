package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// Nobody is elected by configurations that a feeder has made up, not even if another voter
// of them is hostile.
func TestAFeederMakesNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		mustCommit(t, c.Live()[0], put("/k", "v"))
		voter := c.Node(c.Leader())
		f, liar := openFed(t, c), openFedAs(t, c, "host7")
		if err := raftstore.FeedWithVoters(f.Store, voter, "host8", f.Store); err == nil || !strings.Contains(err.Error(), "only voter") {
			t.Errorf("it is told that it is the only voter: %v", err)
		}
		for _, s := range []*raftstore.Store{f.Store, liar.Store} {
			if err := raftstore.FeedWithVoters(s, voter, "host8", f.Store, liar.Store); err != nil {
				t.Fatal(err)
			}
		}
		nobodyLeads := func(when string) {
			t.Helper()
			for range 50 {
				time.Sleep(100 * time.Millisecond)
				if f.IsLeader() || liar.IsLeader() {
					t.Fatalf("%s: a feeder has made a leader", when)
				}
			}
		}
		nobodyLeads("both doubt it")
		f.restart()
		if err := raftstore.BelieveVote(liar.Store); err != nil {
			t.Fatal(err)
		}
		nobodyLeads("one is hostile, the other has been restarted")
		mustNotConfirm(t, f.Store, 3*time.Second)
	})
}

// A replica that learns by a feed that it votes does so once the voters have confirmed it.
func TestAConfirmedVoterVotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 4)
		f := openFed(t, c)
		f.feed()
		c.Net.Cut("host9:7000")
		leader := c.Leader()
		if err := raftstore.AddVoter(c.Node(leader), f.Store); err != nil {
			t.Fatal(err)
		}
		raftstoretest.Eventually(t, func() error {
			if voters := c.Node(leader).Status(t.Context()).Voters; len(voters) != 5 {
				return fmt.Errorf("voters are %v", voters)
			}
			return nil
		})
		if err := raftstore.FeedWithVoters(f.Store, c.Node(leader), "host8"); err != nil {
			t.Fatal(err)
		}
		if !raftstore.DoubtsVote(f.Store) {
			t.Fatal("it believes at once that it votes")
		}
		c.Net.Heal()
		raftstoretest.Eventually(t, func() error {
			mustConfirm(t, f.Store)
			if raftstore.DoubtsVote(f.Store) {
				return errors.New("the voters have confirmed its state, and it still doubts that it votes")
			}
			return nil
		})
		other := "host1"
		if leader == other {
			other = "host2"
		}
		c.Kill(leader)
		c.Kill(other)
		mustCommit(t, f.Store, put("/k", "elected by three of five"))
	})
}

// What a replica was fed it does not sign before it is confirmed, even if it voted once: a
// feeder and its own signature would make a majority.
func TestAFollowerThatVotedSignsNothingUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 3)
		mustCommit(t, c.Live()[0], put("/k", "v"))
		voter := c.Node(c.Leader())
		f := &fedReplica{t: t, c: c, config: func() raftstore.Config {
			cfg := raftstoretest.Config(c.Net, "host9")
			raftstore.AllowFollowers(&cfg)
			cfg.Signer, cfg.Timing.Compare, cfg.Timing.Rejoin = c.Keys.Signer("host9"), 0, 0
			cfg.Members = func() []raftstore.MemberHealth { return nil }
			return cfg
		}}
		f.open()
		t.Cleanup(f.stop)
		if err := raftstore.BelieveVoters(f.Store, voter, "host9", "host1", "host2"); err != nil {
			t.Fatal(err)
		}
		f.feed()
		c.Net.Cut("host9:7000")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := raftstore.AskForStatement(ctx, f.Store); err == nil {
			t.Error("it signs what it was fed")
		}
	})
}

// Nobody gets a feed, or is added, in the name of another host.
func TestNobodySpeaksForAnotherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 5)
		awaitTree(t, c, 5)
		var followers []string
		for name, p := range peers(t, c) {
			if p.Follower {
				followers = append(followers, name)
			}
		}
		slices.Sort(followers)
		hostile, other := c.Node(followers[0]), c.Node(followers[1])
		for what, err := range raftstore.SpeakFor(t.Context(), hostile, c.Node(c.Leader()), other) {
			if !errors.Is(err, raftstore.ErrInvalidTxn) || !strings.Contains(err.Error(), followers[0]) {
				t.Errorf("%s in the name of another host: %v", what, err)
			}
		}
		if err := raftstore.SpeakFor(t.Context(), other, c.Node(c.Leader()), other)["pull"]; err != nil {
			t.Errorf("a pull in its own name: %v", err)
		}
	})
}

// A follower most of whose voters were removed says that nobody can confirm its state, and
// what to do.
func TestVotersThatAreGoneConfirmNothing(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3)
	members := []string{"host1", "host2", "host3", "host9"}
	f := openFedWith(t, c, "host9", func(cfg *raftstore.Config) {
		cfg.Members = func() (list []raftstore.MemberHealth) {
			for _, name := range members {
				list = append(list, raftstore.MemberHealth{ID: name, Addr: name + ":7000", Alive: true})
			}
			return list
		}
	})
	mustCommit(t, c.Live()[0], put("/k", "v"))
	f.feed()
	c.Net.Cut("host9:7000")
	if err := mustNotConfirm(t, f.Store, 300*time.Millisecond); errors.Is(err, raftstore.ErrVotersGone) {
		t.Errorf("the voters are members, and do not answer: %v", err)
	}
	if failure := f.Status(t.Context()).Failure; failure != "" {
		t.Errorf("a failure is shown: %s", failure)
	}
	f.restartWith(func() { members = []string{"host1", "host9"} })
	err := mustNotConfirm(t, f.Store, 5*time.Second)
	if !errors.Is(err, raftstore.ErrVotersGone) || !strings.HasSuffix(err.Error(), "; "+raftstore.DefaultConfig().Remedy) {
		t.Errorf("the voters are gone for good: %v", err)
	}
	if failure := f.Status(t.Context()).Failure; !strings.Contains(failure, "host2 host3") {
		t.Errorf("the status shows %q", failure)
	}
}

// A follower that was away during a recovery learns that its group was replaced, and comes
// back with an empty directory.
func TestAFollowerOfAReplacedGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 4, raftstoretest.WithConfig(quickRejoin))
		name := follower(t, c)
		base := c.Leader()
		mustCommit(t, c.Node(base), put("/k", "before"))
		for _, id := range []string{"host1", "host2", "host3", "host4"} {
			c.Kill(id)
		}
		if _, err := raftstore.RecoverCluster(t.Context(), c.Config(base), nil); err != nil {
			t.Fatal(err)
		}
		present := c.Restart(base)
		raftstoretest.WaitServing(t, present)
		mustCommit(t, present, put("/k", "after"))
		waitReplaced(t, c.Restart(name))
		c.Kill(name)
		if err := raftstore.Empty(c.Config(name).DataDir); err != nil {
			t.Fatal(err)
		}
		back := c.Restart(name)
		if err := back.Join(t.Context(), []string{c.Addr(base)}); err != nil {
			t.Fatal(err)
		}
		sees(t, back, "/k", "after")
		mustConfirm(t, back)
	})
}

// A source that says that its snapshot ends where the group never gets is not believed: the
// follower would wait for what follows, and take no part in elections, until it was emptied.
func TestASnapshotEndsWhereTheVotersHaveSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 4)
		name := follower(t, c)
		s, source := c.Node(name), c.Node(sourceOf(t, c, name))
		mustCommit(t, s, put("/k", "v"))
		if err := source.Snapshot(); err != nil {
			t.Fatal(err)
		}
		for range 2 { // before the voters' statements have gone round, and after that
			if err := raftstore.OfferBeyond(t.Context(), s, source, source); err == nil || !strings.Contains(err.Error(), "have signed up to") {
				t.Errorf("a snapshot that ends beyond what the voters have signed: %v", err)
			}
			if raftstore.DoubtsVote(s) {
				t.Error("it takes no part in elections")
			}
			mustCommit(t, s, put("/k", "w"))
			time.Sleep(6 * time.Second)
		}
	})
}
