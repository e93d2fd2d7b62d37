package raftstore_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestHearsLeader: every replica of a group with a leader reports one, also to a stranger
// who cannot reach the leader. Those that the leader was taken from soon report none.
func TestHearsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		stranger := c.Net.Listen("rpc", "stranger:1")
		limit := 3 * raftstoretest.Config(c.Net, "any").Timing.Heartbeat
		hears := func(id string) (bool, error) {
			conn, err := stranger.Dial(c.Addr(id), time.Second)
			if err != nil {
				return false, err
			}
			heard, err := raftstore.HearsLeader(conn, limit)
			return heard, errors.Join(err, conn.Close())
		}
		for _, id := range []string{"host1", "host2", "host3"} {
			if heard, err := hears(id); err != nil || !heard {
				t.Errorf("%s reports a leader: %v, %v", id, heard, err)
			}
		}
		c.Kill("host1")
		c.Kill("host2")
		raftstoretest.Eventually(t, func() error {
			if heard, err := hears("host3"); err != nil || heard {
				return fmt.Errorf("host3, alone, reports a leader: %v, %w", heard, err)
			}
			return nil
		})
		if _, err := hears("host1"); err == nil {
			t.Error("a dead host answered")
		}
	})
}
