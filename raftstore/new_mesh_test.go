package raftstore_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A new mesh of three soon has three voters: where hosts follow one step of autopilot later
// than where they do not.
func TestNewMeshHasVotersSoon(t *testing.T) {
	usual := raftstore.DefaultConfig()
	for _, level := range []uint32{raftstore.BaseLevel, raftstore.FollowersLevel} {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := raftstoretest.NewCluster(t, 1, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
					cfg.Timing, cfg.Voters = usual.Timing, usual.Voters
					cfg.FeatureLevel = raftstore.LevelRange{Lowest: raftstore.BaseLevel, Highest: level}
				}))
				began := time.Now()
				c.Add("host2")
				c.Add("host3")
				c.WaitVoters(3)
				took := time.Since(began)
				t.Logf("three voters after %s", took)
				if most := 2*usual.Voters.Reconcile + usual.Voters.Update; took > most {
					t.Errorf("three voters after %s, want %s", took, most)
				}
			})
		})
	}
}

// A host that joins a mesh later votes once it was healthy for long enough, and not sooner.
func TestLaterHostVotesOnceStable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		usual := raftstore.DefaultConfig()
		c := raftstoretest.NewCluster(t, 1, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Timing, cfg.Voters = usual.Timing, usual.Voters
		}))
		time.Sleep(time.Minute)
		began := time.Now()
		c.Add("host2")
		c.Add("host3")
		c.WaitVoters(3)
		took := time.Since(began)
		t.Logf("three voters after %s", took)
		if least, most := usual.Voters.Stabilization, usual.Voters.Stabilization+2*usual.Voters.Reconcile+usual.Voters.Update; took < least || took > most {
			t.Errorf("three voters after %s, want %s to %s", took, least, most)
		}
	})
}

// A replica that signs nothing does not join a mesh whose hosts follow: it could never vote,
// nor confirm what it was fed.
func TestNobodyFollowsWithoutSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unsigned := raftstoretest.WithConfig(func(cfg *raftstore.Config) { cfg.Signer = nil })
		for _, who := range []string{"joiner", "leader"} {
			c := raftstoretest.NewCluster(t, 1, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
				if cfg.NodeID == "host1" && who == "leader" {
					cfg.Signer = nil
				}
			}))
			if who == "joiner" {
				c.Use("host2", unsigned)
			}
			cfg := c.Config("host2")
			c.SetHealth("host2", func(m *raftstore.MemberHealth) { m.Addr, m.Alive = cfg.Addr, true })
			s, err := raftstore.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := s.Join(t.Context(), []string{c.Addr("host1")}); err == nil || !strings.Contains(err.Error(), "no Signer") || time.Since(began) > time.Second {
				t.Errorf("the %s has no Signer: %v after %s", who, err, time.Since(began))
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
