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

// MaxAhead is how far ahead of the clock versions of facts may lie.
const MaxAhead = maxAhead

// ForgeFacts makes g receive facts of another member, or of itself, with a version that
// lies ahead of the clock.
func ForgeFacts(g *Gossip, of string, ahead time.Duration, f Facts) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for i := range sectionCount {
		version := uint64(now.UnixMilli()) + uint64(ahead.Milliseconds())
		g.mergeRecord(now, record{name: of, sec: i, version: version, count: 1, raw: encodeSection(i, &f)})
	}
}
