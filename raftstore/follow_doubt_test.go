package raftstore_test

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestOddFollowerDoesNotVote: a follower whose state is not the group's never votes, however
// much a voter is missing. One whose state is the group's does.
func TestOddFollowerDoesNotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var odd atomic.Value
		odd.Store([]string{})
		c := following(t, 6, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Timing.Compare = 0 // it is not found by comparing at intervals
			id := cfg.NodeID
			cfg.Constraints = append(cfg.Constraints, raftstore.Constraint{Name: "never", Version: 1, Check: func(raftstore.View, *raftstore.Txn, []byte) error {
				if slices.Contains(odd.Load().([]string), id) {
					return nil
				}
				return errors.New("never")
			}})
		}))
		awaitTree(t, c, 6)
		var followers []string
		leader := c.Leader()
		lost := ""
		for name, p := range peers(t, c) {
			switch {
			case p.Follower:
				followers = append(followers, name)
			case name != leader:
				lost = name
			}
		}
		slices.Sort(followers)
		odd.Store(followers[:2])
		if _, err := c.Node(leader).Commit(t.Context(), raftstore.Txn{
			Ops:         []raftstore.Op{{Key: "/forbidden", Value: []byte("x")}},
			Constraints: []raftstore.ConstraintCall{{Name: "never", Version: 1}},
		}); err == nil {
			t.Fatal("the leader takes what is forbidden")
		}
		time.Sleep(time.Second)
		c.Kill(lost)
		raftstoretest.Eventually(t, func() error {
			voters := c.Node(leader).Status(t.Context()).Voters
			for _, name := range followers[:2] {
				if slices.Contains(voters, name) {
					t.Fatalf("%s votes, and its state is not the group's", name)
				}
			}
			if !slices.Contains(voters, followers[2]) || len(voters) != 3 {
				return fmt.Errorf("voters are %v, %s should be one", voters, followers[2])
			}
			return nil
		})
	})
}
