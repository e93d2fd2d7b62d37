package gossip

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"
)

// Facts travel in three ways. A change is gossiped, in one message per section,
// and passed on by everyone to whom it was news. Every push-pull carries a
// digest, a name and a version each, and both sides then send over a stream
// what the other lacks; that repairs what gossip lost and is bounded, because
// it never sends what is known. A joining member gets everything at once.

const (
	// factsTransmits is how often a member passes a message on, whatever the
	// size of the mesh: three in ten thousand members miss it then, and get it
	// from the next comparison. Membership is passed on more often.
	factsTransmits = 8
	// factsEvery and factsPerMember bound the rate of announcements: with n
	// members each may announce itself once in max(factsEvery,
	// n*factsPerMember), so that the mesh stays at 50 announcements a second.
	factsEvery     = time.Second
	factsPerMember = 20 * time.Millisecond
	// refreshEvery is when unchanged facts are announced again, likewise at
	// least; their age then shows that the member still looks at them.
	refreshEvery     = time.Minute
	refreshPerMember = 600 * time.Millisecond
	// relayLimit is the number of records from one sync that are also
	// gossiped. More than that means that whole parts of the mesh have met,
	// and syncs spread it without flooding.
	relayLimit = 32
	// maxJoinState and maxBatch bound what one push-pull and one reply carry.
	maxJoinState = 2 << 20
	maxBatch     = 1 << 20
)

// ErrFactsTooLarge is returned for facts that could not be gossiped.
var ErrFactsTooLarge = errors.New("facts are too large to gossip")

// SetFacts replaces what this member says about itself. It never blocks on the
// network; announcements are merged when they come faster than the mesh can
// take. The facts are copied.
func (g *Gossip) SetFacts(f Facts) error {
	f = f.Clone()
	secs, err := encodeFacts(&f)
	if err != nil {
		return err
	}
	meta := nodeMeta{MeshAddr: f.MeshAddr, FeatureLevel: f.FeatureLevel}
	if len(meta.encode()) > memberlist.MetaMaxSize {
		return fmt.Errorf("MeshAddr of %d bytes: %w", len(f.MeshAddr), ErrFactsTooLarge)
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	urgent := f.Unschedulable != g.own.facts.Unschedulable
	changed := false
	for i := range secs {
		if string(secs[i]) != string(g.own.secs[i]) {
			changed = true
			g.own.dirty[i] = true
		}
	}
	metaChanged := meta != g.own.meta
	g.own.facts, g.own.secs, g.own.meta = f, secs, meta
	if !changed {
		return nil
	}
	g.own.at = now
	if p := g.detector.peers[g.name]; p != nil {
		g.emit(EventFacts, p)
	}
	if urgent {
		g.own.announced = time.Time{}
	}
	g.announce(now)
	if metaChanged {
		g.pushMeta()
	}
	return nil
}

func encodeFacts(f *Facts) (secs [sectionCount][]byte, err error) {
	for i := range secs {
		secs[i] = encodeSection(section(i), f)
		if len(secs[i]) > maxSection {
			return secs, fmt.Errorf("%d bytes of at most %d: %w", len(secs[i]), maxSection, ErrFactsTooLarge)
		}
	}
	return secs, nil
}

// ownFacts is what this member says about itself.
type ownFacts struct {
	facts     Facts
	at        time.Time
	meta      nodeMeta
	secs      [sectionCount][]byte
	dirty     [sectionCount]bool // differs from what was announced
	floor     versions           // highest version seen of ours, by whomever
	announced time.Time
	refreshed time.Time
}

// announce gossips the changed sections, unless it did so a moment ago. The
// caller holds the lock; the ticker calls again.
func (g *Gossip) announce(now time.Time) {
	n := time.Duration(g.detector.live())
	if now.Sub(g.own.refreshed) >= max(refreshEvery, n*refreshPerMember) {
		g.own.dirty[sectionLoad] = true
		g.own.refreshed = now
	}
	if now.Sub(g.own.announced) < max(factsEvery, n*factsPerMember) {
		return
	}
	for i := range g.own.secs {
		if !g.own.dirty[i] {
			continue
		}
		g.own.dirty[i] = false
		g.own.announced = now
		// The clock orders our versions across restarts. Where it does not,
		// because it was set back, the floor does.
		version := max(uint64(max(1, now.UnixMilli())), g.own.floor[i]+1)
		g.own.floor[i] = version
		rec := record{name: g.name, sec: section(i), version: version, count: 1, raw: g.own.secs[i]}
		g.facts.apply(now, rec)
		for j, msg := range split(rec) {
			g.queueFacts(rec.name, rec.sec, j, msg)
		}
	}
}

// queueFacts hands a message to the gossip queue, where it replaces an older
// one of the same member, section and fragment.
func (g *Gossip) queueFacts(name string, sec section, index int, msg []byte) {
	g.queue.QueueBroadcast(&factsBroadcast{fmt.Sprintf("%s/%d/%d", name, sec, index), msg})
}

type factsBroadcast struct {
	name string
	msg  []byte
}

var _ memberlist.NamedBroadcast = (*factsBroadcast)(nil)

func (b *factsBroadcast) Invalidates(memberlist.Broadcast) bool { return false }
func (b *factsBroadcast) Name() string                          { return b.name }
func (b *factsBroadcast) Message() []byte                       { return b.msg }
func (b *factsBroadcast) Finished()                             {}

// receive takes in a message from another member. It must not keep msg.
func (g *Gossip) receive(msg []byte) error {
	if len(msg) == 0 {
		return errMalformed
	}
	switch msg[0] {
	case kindRecord:
		msg = append([]byte(nil), msg...)
		rec, err := parseRecord(msg[1:])
		if err != nil {
			return err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.merge(time.Now(), rec) != stale {
			g.queueFacts(rec.name, rec.sec, rec.index, msg)
		}
	case kindBatch:
		recs, err := parseBatch(append([]byte(nil), msg[1:]...))
		if err != nil {
			return err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.mergeAll(time.Now(), recs)
	}
	return nil
}

// merge takes in one record. The caller holds the lock.
func (g *Gossip) merge(now time.Time, rec record) outcome {
	if rec.name == g.name {
		var v versions
		if rec.sec < sectionCount {
			v[rec.sec] = rec.version
		}
		g.outbid(now, v)
		return stale
	}
	out := g.facts.apply(now, rec)
	if out == applied {
		if p := g.detector.peers[rec.name]; p != nil {
			g.emit(EventFacts, p)
		}
	}
	return out
}

// outbid makes sure that our facts are newer than what others have for ours.
// Nobody else writes them, so what is newer was written before a restart, with
// a clock that has been set back since; ours would be ignored. The caller holds
// the lock.
func (g *Gossip) outbid(now time.Time, theirs versions) {
	for i, v := range theirs {
		if v > g.own.floor[i] && v <= maxVersion {
			g.own.floor[i] = v
			g.own.dirty[i] = true
			g.own.announced = time.Time{}
		}
	}
	g.announce(now)
}

func (g *Gossip) mergeAll(now time.Time, recs []record) {
	var fresh []record
	for _, rec := range recs {
		if g.merge(now, rec) == applied {
			fresh = append(fresh, rec)
		}
	}
	if len(fresh) > relayLimit {
		return
	}
	for _, rec := range fresh {
		for i, msg := range split(rec) {
			g.queueFacts(rec.name, rec.sec, i, msg)
		}
	}
}

// localState is our half of a push-pull.
func (g *Gossip) localState(join bool) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := digest{from: g.name, entries: make(map[string]versions, len(g.detector.peers))}
	recs := g.facts.newer(nil, g.name, versions{})
	full := join && g.facts.bytes <= maxJoinState
	for name, p := range g.detector.peers {
		d.entries[name] = g.facts.versions(name)
		// Facts of the dead are not spread, or they would never be forgotten.
		if full && name != g.name && p.state.Live() {
			recs = g.facts.newer(recs, name, versions{})
		}
	}
	return encodeState(d, recs, 2*maxJoinState)
}

// mergeState takes in the other half of a push-pull and sends what the other
// member lacks.
func (g *Gossip) mergeState(buf []byte, join bool) error {
	if len(buf) == 0 || buf[0] != kindState {
		return nil // a kind of a later version
	}
	theirs, recs, err := parseState(buf[1:])
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var lacking []record
	if !join || g.facts.bytes > maxJoinState { // else localState sent it all
		for name, p := range g.detector.peers {
			// Our own records were part of our half.
			if p.state.Live() && name != g.name && name != theirs.from {
				lacking = g.facts.newer(lacking, name, theirs.entries[name])
			}
		}
	}
	now := time.Now()
	g.outbid(now, theirs.entries[g.name])
	g.mergeAll(now, recs)
	if p := g.detector.peers[theirs.from]; p != nil && len(lacking) > 0 {
		g.sendBatch(p, lacking)
	}
	return nil
}

// sendBatch sends records to a member over a stream, in the background. What
// does not fit is left to the next push-pull.
func (g *Gossip) sendBatch(p *peer, recs []record) {
	msg, _ := appendBatch([]byte{kindBatch}, recs, maxBatch)
	to := &memberlist.Node{Name: p.name, Addr: p.at.ip, Port: p.at.port}
	g.background(g.sends, func() {
		if err := g.list.SendReliable(to, msg); err != nil {
			g.log.Debug("sending facts failed", "member", to.Name, "err", err)
		}
	})
}
