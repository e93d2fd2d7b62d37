package raftstore_test

import (
	"strings"
	"testing"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

func TestConfigValidate(t *testing.T) {
	good := raftstoretest.Config(raftstoretest.NewNetwork(), "host1")
	if err := good.Validate(); err != nil {
		t.Fatalf("good config: %v", err)
	}
	for _, tc := range []struct {
		want string
		bad  func(*raftstore.Config)
	}{
		{"NodeID", func(c *raftstore.Config) { c.NodeID = "" }},
		{"Addr", func(c *raftstore.Config) { c.Addr = "" }},
		{"Raft", func(c *raftstore.Config) { c.Raft = nil }},
		{"RPC", func(c *raftstore.Config) { c.RPC = nil }},
		{"Logger", func(c *raftstore.Config) { c.Logger = nil }},
		{"Heartbeat", func(c *raftstore.Config) { c.Timing.Heartbeat = time.Millisecond }},
		{"Dial", func(c *raftstore.Config) { c.Timing.Dial = 0 }},
		{"Rejoin", func(c *raftstore.Config) { c.Timing.Rejoin = -1 }},
		{"Compare", func(c *raftstore.Config) { c.Timing.Compare = -1 }},
		{"MaxTxnBytes", func(c *raftstore.Config) { c.Limits.MaxTxnBytes = 1 << 30 }},
		{"BatchTxns", func(c *raftstore.Config) { c.Limits.BatchTxns = 0 }},
		{"HistoryEvents", func(c *raftstore.Config) { c.Limits.HistoryEvents = 0 }},
		{"SegmentBytes", func(c *raftstore.Config) { c.Limits.SegmentBytes = 1 }},
		{"SnapshotEntries", func(c *raftstore.Config) { c.Limits.SnapshotEntries = 0 }},
		{"Voters.Max 4", func(c *raftstore.Config) { c.Voters.Max = 4 }},
		{"Voters.Update", func(c *raftstore.Config) { c.Voters.Update = 0 }},
		{"no name", func(c *raftstore.Config) { c.Constraints = make([]raftstore.Constraint, 1) }},
		{"registered twice", func(c *raftstore.Config) { c.Constraints = []raftstore.Constraint{unique, unique} }},
	} {
		t.Run(tc.want, func(t *testing.T) {
			cfg := good
			tc.bad(&cfg)
			if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v does not name %s", err, tc.want)
			}
			if s, err := raftstore.Open(t.Context(), cfg); err == nil {
				_ = s.Close()
				t.Error("opened")
			}
		})
	}
}
