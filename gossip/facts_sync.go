package gossip

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"
)

// Facts travel in three ways. A change is gossiped, in one message per section (or
// per fragment of a large one), and every member to which it is new passes it on.
// Every push-pull carries a digest, which lists the versions of every member's
// sections, and each side then sends the other over a stream what it lacks. This
// repairs what gossip lost, and it never sends what the other side has. A joining
// member gets all facts in the push-pull itself.

const (
	// factsTransmits is how often a member retransmits a message of facts, whatever
	// the size of the mesh. Three in ten thousand members then miss it and get it
	// with the next push-pull. Membership messages are retransmitted more often.
	factsTransmits = 8
	// factsEvery and factsPerMember bound the rate of announcements: with n
	// members each may announce itself once in max(factsEvery,
	// n*factsPerMember), so that the whole mesh makes at most 50 announcements a
	// second once it has 50 members.
	factsEvery     = time.Second
	factsPerMember = 20 * time.Millisecond
	// relayLimit is the most new records of one push-pull that are also gossiped.
	// More than that means that two parts of a mesh have met again; further
	// push-pulls then spread the records without a flood of messages.
	relayLimit = 32
	// maxJoinState and maxBatch bound the facts in one push-pull and in one batch,
	// in bytes.
	maxJoinState = 2 << 20
	maxBatch     = 1 << 20
	// maxAhead is how far the version of a record, which is a time, may lie ahead of
	// the clock of the member that receives it. A member can therefore always find a
	// version that is higher than one that somebody has forged, or that was written
	// while its clock was wrong: the limit moves on with the clocks. The certificates
	// of hosts whose clocks differ by more than this are not valid for each other.
	maxAhead = 24 * time.Hour
)

// versionHorizon returns the highest version of facts that a member accepts now.
func (g *Gossip) versionHorizon() uint64 {
	return uint64(max(1, g.config.Clock().Add(maxAhead).UnixMilli()))
}

// ErrFactsTooLarge is returned for facts that are too large to gossip.
var ErrFactsTooLarge = errors.New("facts are too large to gossip")

// SetFacts replaces the facts of this member. It copies f and never blocks on the
// network. Changes that come faster than announcements are allowed are merged into
// the next announcement. Of facts that are too large it leaves out the least useful
// part, see Facts.fit. Facts.Keys is what this member's keyring says, whatever f says.
func (g *Gossip) SetFacts(f Facts) error {
	g.keyring.mu.Lock()
	defer g.keyring.mu.Unlock()
	f.Keys = Fingerprint(g.keyring.keys())
	return g.setFacts(f)
}

// setFacts is SetFacts with the caller's Keys. The caller holds the lock of the keyring.
func (g *Gossip) setFacts(f Facts) error {
	f = f.Clone()
	f.fit()
	secs, err := encodeFacts(&f)
	if err != nil {
		return err
	}
	meta := metaOf(&f)
	if len(meta.encode()) > memberlist.MetaMaxSize {
		return fmt.Errorf("MeshAddr of %d bytes: %w", len(f.MeshAddr), ErrFactsTooLarge)
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.own.facts
	urgent := f.Unschedulable != was.Unschedulable || f.Idle != was.Idle || f.Keys != was.Keys || f.Trust != was.Trust || f.SignedBy != was.SignedBy
	changed := false
	for i := range secs {
		if string(secs[i]) != string(g.own.secs[i]) {
			changed = true
			g.own.dirty[i] = true
		}
	}
	metaChanged := meta != g.own.meta
	g.own.facts, g.own.meta = f, meta
	copy(g.own.secs[:], secs[:])
	if !changed {
		return nil
	}
	if p := g.detector.peers[g.name]; p != nil {
		g.emitEvent(EventFacts, p)
	}
	if urgent {
		g.own.announced = time.Time{}
	}
	g.announceFacts(now)
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

// ownFacts holds the facts of this member and the state of their announcements.
type ownFacts struct {
	facts     Facts
	meta      nodeMeta
	secs      [sectionSlots][]byte
	dirty     [sectionSlots]bool // the section must be announced
	floor     versions           // highest versions of these facts seen anywhere in the mesh
	announced time.Time
}

// announceFacts gossips the changed sections, unless the last announcement was too
// recent; tickLoop then calls it again. The caller holds the lock.
func (g *Gossip) announceFacts(now time.Time) {
	n := time.Duration(g.detector.live())
	if now.Sub(g.own.announced) < max(factsEvery, n*factsPerMember) {
		return
	}
	for i := range g.own.secs {
		if !g.own.dirty[i] {
			continue
		}
		g.own.dirty[i] = false
		g.own.announced = now
		// The clock orders the versions across restarts. If the clock was set
		// back, the floor does. Nobody with a right clock has a floor above the
		// horizon, and all of them would refuse a version above it.
		version := max(uint64(max(1, g.config.Clock().UnixMilli())), min(g.own.floor[i]+1, g.versionHorizon()))
		g.own.floor[i] = version
		rec := record{name: g.name, sec: section(i), version: version, count: 1, raw: g.own.secs[i]}
		g.facts.applyRecord(now, rec)
		for j, msg := range splitRecord(rec) {
			g.queueFacts(rec.name, rec.sec, j, msg)
		}
	}
}

// queueFacts queues a message to be gossiped. It replaces an older message of the
// same member, section and fragment.
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

// receiveMessage handles a message from another member. It must not keep msg.
func (g *Gossip) receiveMessage(msg []byte) error {
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
		if g.mergeRecord(time.Now(), rec) != stale {
			g.queueFacts(rec.name, rec.sec, rec.index, msg)
		}
	case kindBatch:
		recs, err := parseBatch(append([]byte(nil), msg[1:]...))
		if err != nil {
			return err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.mergeRecords(time.Now(), recs)
	}
	return nil
}

// mergeRecord merges one received record. The caller holds the lock.
func (g *Gossip) mergeRecord(now time.Time, rec record) outcome {
	if rec.name == g.name {
		var v versions
		if rec.sec < sectionSlots {
			v[rec.sec] = rec.version
		}
		g.outbidVersions(now, v)
		return stale
	}
	if rec.version > g.versionHorizon() {
		return stale
	}
	out := g.facts.applyRecord(now, rec)
	if out == applied {
		if p := g.detector.peers[rec.name]; p != nil {
			g.emitEvent(EventFacts, p)
		}
	}
	return out
}

// outbidVersions makes sure that the versions of this member's facts are higher than
// those that other members have. Only this member writes its facts, so a higher
// version was written before a restart, and the clock has been set back since. Other
// members would ignore the new facts. A section that this version does not know was
// written before a downgrade, and is emptied. The caller holds the lock.
func (g *Gossip) outbidVersions(now time.Time, theirs versions) {
	for i, v := range theirs {
		if v > g.own.floor[i] && v <= g.versionHorizon() {
			g.own.floor[i] = v
			g.own.dirty[i] = true
			g.own.announced = time.Time{}
		}
	}
	g.announceFacts(now)
}

// mergeRecords merges the records of one message and gossips the new ones, unless
// there are more than relayLimit. The caller holds the lock.
func (g *Gossip) mergeRecords(now time.Time, recs []record) {
	var fresh []record
	for _, rec := range recs {
		if g.mergeRecord(now, rec) == applied {
			fresh = append(fresh, rec)
		}
	}
	if len(fresh) > relayLimit {
		return
	}
	for _, rec := range fresh {
		for i, msg := range splitRecord(rec) {
			g.queueFacts(rec.name, rec.sec, i, msg)
		}
	}
}

// localState returns this member's half of a push-pull.
func (g *Gossip) localState(join bool) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := digest{from: g.name, entries: make(map[string]versions, len(g.detector.peers))}
	recs := g.facts.appendNewer(nil, g.name, versions{})
	full := join && g.facts.bytes <= maxJoinState
	for name, p := range g.detector.peers {
		d.entries[name] = g.facts.versions(name)
		// Facts of dead members are not spread, or they would never be forgotten.
		if full && name != g.name && p.state.Live() {
			recs = g.facts.appendNewer(recs, name, versions{})
		}
	}
	return encodeState(d, recs, 2*maxJoinState)
}

// mergeState merges the other member's half of a push-pull and sends the other member
// the facts that it lacks.
func (g *Gossip) mergeState(buf []byte, join bool) error {
	if len(buf) == 0 || buf[0] != kindState {
		return nil // a kind of message that a later version added
	}
	theirs, recs, err := parseState(buf[1:])
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var lacking []record
	if !join || g.facts.bytes > maxJoinState { // otherwise localState sent all facts
		for name, p := range g.detector.peers {
			// This member's own records were part of its half of the push-pull.
			if p.state.Live() && name != g.name && name != theirs.from {
				lacking = g.facts.appendNewer(lacking, name, theirs.entries[name])
			}
		}
	}
	now := time.Now()
	g.outbidVersions(now, theirs.entries[g.name])
	g.mergeRecords(now, recs)
	if p := g.detector.peers[theirs.from]; p != nil && len(lacking) > 0 {
		g.sendBatch(p, lacking)
	}
	return nil
}

// sendBatch sends records to a member over a stream, in the background. Records
// beyond maxBatch are left to the next push-pull.
func (g *Gossip) sendBatch(p *peer, recs []record) {
	msg, _ := appendBatch([]byte{kindBatch}, recs, maxBatch)
	to := &memberlist.Node{Name: p.name, Addr: p.at.ip, Port: p.at.port}
	g.startBackground(g.sends, func() {
		if err := g.list.SendReliable(to, msg); err != nil {
			g.log.Debug("could not send facts", "member", to.Name, "err", err)
		}
	})
}
