package gossip

import (
	"testing"
	"time"
)

// TestMissingMembersAreContactedLessAndLess: a host that is switched off for good, or
// whose record nobody removes, must cost next to nothing, and one that has just been
// cut off must be contacted often.
func TestMissingMembersAreContactedLessAndLess(t *testing.T) {
	cfg := DefaultConfig()
	g := &Gossip{config: cfg}
	now := time.Now()
	for _, live := range []int{1, 5, 100} {
		for _, c := range []struct{ gone, every time.Duration }{
			{0, cfg.ReconnectInterval},
			{30 * time.Second, cfg.ReconnectInterval},
			{5 * time.Minute, 30 * time.Second},
			{1000 * time.Hour, cfg.ReconnectMax},
		} {
			list := []missing{{"a", now.Add(-c.gone)}, {"b", now.Add(-c.gone)}}
			const rounds = 20000
			contacts := 0
			for range rounds * live {
				if _, ok := g.pickMissing(list, live, now); ok {
					contacts++
				}
			}
			want := float64(rounds) * float64(cfg.ReconnectInterval) / float64(c.every) * float64(min(len(list), live))
			if got := float64(contacts); got < want*0.8 || got > want*1.2 {
				t.Errorf("%d live members, gone for %v: %d contacts in %d intervals, want about %.0f", live, c.gone, contacts, rounds, want)
			}
		}
	}
	if _, ok := g.pickMissing(nil, 5, now); ok {
		t.Error("chose one of none")
	}
}
