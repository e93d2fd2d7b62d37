package raftstore_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
)

// The log of the copy that is recovered may end with an entry that is no command, such as the
// first one of a leader, or a change of who votes. The new group knows who votes all the same, so that
// others get the state from it.
func TestRecoveryOfALogThatEndsWithNoCommand(t *testing.T) {
	for times := 1; times <= 2; times++ { // who repeats it does no harm
		t.Run(fmt.Sprint(times), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := following(t, 4)
				last := mustCommit(t, c.Live()[0], put("/k", "before"))
				c.WaitRevision(last.Revision)
				lost := c.Leader()
				c.Kill(lost)
				time.Sleep(20 * time.Second)
				host := c.Leader()
				for i := range 4 {
					c.Kill(fmt.Sprintf("host%d", i+1))
				}
				for range times {
					time.Sleep(time.Second)
					if _, err := raftstore.RecoverCluster(t.Context(), c.Config(host), nil); err != nil {
						t.Fatal(err)
					}
				}
				s := c.Restart(host)
				mustCommit(t, s, put("/k", "after"))
				if err := raftstore.Empty(c.Config(lost).DataDir); err != nil {
					t.Fatal(err)
				}
				back := c.Restart(lost)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := back.Join(ctx, []string{c.Addr(host)}); err != nil {
					t.Fatal(err)
				}
				sees(t, back, "/k", "after")
				mustConfirm(t, back)
			})
		})
	}
}
