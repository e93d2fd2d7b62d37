package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A follower was off while all voters that it knows were replaced, and they are gone. It confirms
// nothing until somebody whom it trusts names the voters of today, and then it does, also after a
// restart; and it believes none that vote earlier, or in another group.
func TestVotersThatSomebodyVouchesFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 7)
		mustCommit(t, c.Node(c.Leader()), put("/k", "v"))
		name := follower(t, c)
		mustConfirm(t, c.Node(name))
		c.Kill(name)
		former := c.Node(c.Leader()).Electorate()
		for _, voter := range former.Voters {
			c.Kill(voter)
			raftstoretest.Eventually(t, func() error {
				if now := c.Node(c.Leader()).Status(t.Context()).Voters; len(now) != 3 || slices.Contains(now, voter) {
					return fmt.Errorf("voters are %v, %s is dead", now, voter)
				}
				return nil
			})
			time.Sleep(20 * time.Second)
		}
		today := c.Node(c.Leader()).Electorate()
		c.Restart(name)
		c.WaitRevision(mustCommit(t, c.Node(c.Leader()), put("/k", "again")).Revision)
		s := c.Node(name)
		confirm := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			return s.Confirm(ctx)
		}
		if err := confirm(); !errors.Is(err, raftstore.ErrUnconfirmed) {
			t.Fatalf("it confirms its state by voters that are gone: %v", err)
		}
		other := today
		other.Group = former.Group[1:] + "0"
		if err := s.BelieveVoters(other); err != nil || confirm() == nil {
			t.Errorf("it believes voters of another group: %v", err)
		}
		far := today
		far.Index = 1 << 60 // nobody would follow them
		if err := s.BelieveVoters(far); !errors.Is(err, raftstore.ErrInvalidTxn) {
			t.Errorf("voters from an index on that no log reaches: %v", err)
		}
		if err := s.BelieveVoters(today); err != nil {
			t.Fatal(err)
		}
		mustConfirm(t, s)
		if err := s.BelieveVoters(former); err != nil {
			t.Fatal(err)
		}
		c.Kill(name)
		c.Restart(name)
		c.WaitRevision(mustCommit(t, c.Node(c.Leader()), put("/k", "more")).Revision)
		mustConfirm(t, c.Node(name))
	})
}
