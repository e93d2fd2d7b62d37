package raftstore

import (
	"fmt"
	"sync/atomic"
	"time"
)

// A disk that takes a write and never answers stops the main loop of a leader's Raft, which
// writes the log itself. Nothing can be committed then, and the loop can neither hand over
// nor step down; but Raft sends heartbeats from other goroutines, so the voters would follow
// that leader for as long as its disk hangs. So its transport is silent once a write has
// taken longer than hungBeats, and the voters elect another leader.
//
// Nothing else can leave an entry without an outcome while Raft runs. Where a replica loses
// the lead, Raft answers all entries that are under way (runLeader); where a majority does
// not take them, the lead ends with its lease, or the disks of that majority do not answer,
// and then no leader could commit. Raft's way from a committed entry to its outcome is the
// state machine, which waits for nothing. What is left unanswered when Raft shuts down is
// guarded, see raftguard.go.

// hungBeats is for how many times Timing.Heartbeat a leader may write its log and lead on.
// A busy disk takes seconds now and then, and each election costs entries.
const hungBeats = 4

// writeClock knows for how long the write that is under way has taken. There is one at a
// time.
type writeClock struct{ began atomic.Pointer[time.Time] }

func (c *writeClock) begin() {
	now := time.Now()
	c.began.Store(&now)
}

func (c *writeClock) end() { c.began.Store(nil) }

// taken returns for how long the write has been under way, zero if there is none.
func (c *writeClock) taken() time.Duration {
	if began := c.began.Load(); began != nil {
		return time.Since(*began)
	}
	return 0
}

// hungFor returns for how long the disk has not answered, zero unless that is so long that
// this replica must not lead.
func (s *Store) hungFor() time.Duration {
	if taken := s.disk.logs.writing.taken(); taken > hungBeats*s.cfg.Timing.Heartbeat {
		return taken
	}
	return 0
}

// diskHangs returns an error while the disk does not answer.
func (s *Store) diskHangs() error {
	if hung := s.hungFor(); hung > 0 {
		return fmt.Errorf("the disk has not finished a write of the log for %s: see the kernel's log for %s", hung.Round(time.Second), s.cfg.DataDir)
	}
	return nil
}
