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

// Speak makes a member speak versions of the protocol from lowest to highest.
func Speak(cfg *Config, lowest, highest uint8) { cfg.protocol = protocolRange{lowest, highest} }

// LaterSection is a section that a later version may have.
const LaterSection = sectionSlots - 1

// AnnounceLater makes g announce a section that only later versions have.
func AnnounceLater(g *Gossip, text string) {
	var w fieldWriter
	w.str(200, text)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.own.secs[LaterSection], g.own.dirty[LaterSection] = w.buf, true
	g.own.announced = time.Time{}
	g.announceFacts(time.Now())
}

// LaterOf returns what g knows of that section of a member.
func LaterOf(g *Gossip, name string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, rec := range g.facts.appendNewer(nil, name, versions{}) {
		if r := (reader{b: rec.raw}); rec.sec == LaterSection && r.uvarint() == 200 {
			return string(r.bytes())
		}
	}
	return ""
}

// What strangers are let do.
const (
	StrangerStreams          = strangerStreams
	StrangerStreamsPerSource = strangerStreamsPerSource
	StrangerMessage          = strangerMessage
	StrangerPackets          = strangerPackets
	StreamTimeout            = streamTimeout
)

// Refused returns how much g refused, by channel and reason.
func Refused(g *Gossip) map[string]uint64 {
	all := map[string]uint64{}
	for why := range refusals {
		channel, reason := why.labels()
		all[channel+" "+reason] = g.net.gate.refused[why].Load()
	}
	return all
}
