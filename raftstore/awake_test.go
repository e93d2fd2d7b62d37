package raftstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestLeaderThatStoodStill: a leader that was stopped for a while, or got no CPU time, has
// asked nobody meanwhile, so nobody was silent.
func TestLeaderThatStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		s := &Store{cfg: cfg, awake: newAwakeClock(cfg.Voters.Update / awakeTicks)}
		s.followers = newFollowers(s.awake)
		a := newAutopilot(s)
		limit, heard, lost := a.silenceLimit(), raft.ServerID("host2/1"), raft.ServerID("host3/1")
		a.started = s.awake.now()
		s.followers.reset()
		runs := func(d time.Duration) { // while it runs, others answer it, but for one
			done := make(chan struct{})
			go s.awake.run(done)
			for range d / time.Second {
				time.Sleep(time.Second)
				a.noteAnswer(heard)
				s.followers.takeReport([]reportLine{{ID: "host4/1", Addr: "host4:1"}}, func(string) bool { return true })
			}
			close(done)
			synctest.Wait()
		}
		runs(limit / 2)
		for range 3 {
			before := a.silence(lost)
			time.Sleep(time.Hour) // nothing of it runs
			if silence := a.silence(heard); silence >= limit/2 {
				t.Errorf("a host that answered is taken to be silent for %s by a leader that stood still", silence)
			}
			if silence := s.followers.silence("host4"); silence >= limit/2 {
				t.Errorf("a follower that was heard is taken to be silent for %s by a leader that stood still", silence)
			}
			if silence := a.silence(lost) - before; silence >= limit/2 {
				t.Errorf("the silence of a host grew by %s while the leader stood still", silence)
			}
			if age := time.Since(s.followers.judge(limit, 0)["host4"].since); age < 0 || age > 4*time.Hour {
				t.Errorf("a follower is in its state for %s", age)
			}
		}
		runs(limit)
		if silence := a.silence(lost); silence < limit {
			t.Errorf("after %s in which the leader ran, a host that never answered is silent for %s", limit, silence)
		}
		if silence := s.followers.silence("host5"); silence < limit {
			t.Errorf("after %s in which the leader ran, a follower that nobody heard is silent for %s", limit, silence)
		}
	})
}
