package gossip

import "time"

// AdvanceFactVersions makes a member announce its next facts as if its clock were
// ahead by the given time.
func AdvanceFactVersions(g *Gossip, by time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.own.floor {
		g.own.floor[i] += uint64(by.Milliseconds())
	}
}
