package robustness

import (
	"fmt"
	"testing"
	"time"

	"virtmesh/tests/robustness/mesh"
)

// A mesh at rest writes next to nothing when its hosts have too little CPU time, and stand
// still for a moment again and again: no agent writes, and there are few elections. Hosts
// that stand still for so long that they look dead cost little.
func TestStarvedMeshWritesNothing(t *testing.T) {
	for _, c := range []struct {
		still   time.Duration
		starved int // of three hosts
		writes  int // of agents, in half an hour
		entries int // of the log, those of Raft among them
	}{
		{time.Second, 3, 0, 60}, // 16 as a rule; 773 when a leader stepped down after 750 ms
		{4 * time.Second, 1, 0, 400},
		{4 * time.Second, 3, 0, 900},
		{10 * time.Second, 3, 60, 900},
		{20 * time.Second, 1, 60, 400},
	} {
		t.Run(fmt.Sprintf("%d hosts stand still for up to %s", c.starved, c.still), func(t *testing.T) {
			tellStory(t, mesh.DefaultConfig(), 3, func(s story) {
				for i := range 6 {
					s.create(fmt.Sprint("well", i))
				}
				time.Sleep(20 * time.Minute)
				before, writes := s.LogIndex(), len(s.History.Writes())
				for _, h := range s.Hosts()[:c.starved] {
					h.Starve(c.still)
				}
				time.Sleep(half)
				if n := int(s.LogIndex() - before); n > c.entries {
					t.Errorf("the log grows by %d entries in %s, want at most %d", n, half, c.entries)
				} else {
					t.Logf("the log grows by %d entries in %s", n, half)
				}
				if list := s.History.Writes()[writes:]; len(list) > c.writes {
					t.Errorf("agents write %d entries in %s, want at most %d:%s", len(list), half, c.writes, byWriter(list))
				}
				for _, h := range s.Hosts() {
					h.Starve(0)
				}
				s.awaitAgreement(settled)
				s.awaitReady("host1", "host2", "host3")
			})
		})
	}
}
