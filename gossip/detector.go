package gossip

import (
	"time"
)

// memberlist tells its delegates of joins and deaths, and nothing of suspicion;
// and it tells of a death the moment one member's timer fires. A member whose
// CPU is starved fires such timers while the answers wait in its socket, so
// its verdicts are often wrong, and refuted a few gossip rounds later; and now
// and then a refutation misses somebody. The detector therefore listens to
// memberlist (heard), publishes a state of its own, and lets a death become
// public only when
//
//   - the member was suspected, and nothing at all was heard from it here, for
//     a time that grows with the mesh, counting only time during which this
//     process itself was running, and
//   - it left several probes from here unanswered in that time.

const (
	// tickInterval is how often held verdicts are looked at.
	tickInterval = 100 * time.Millisecond
	// stallAfter is the lateness of a tick from which on this process is taken
	// to have been stalled.
	stallAfter = 2 * tickInterval
	// lateFactor is how often a probe and its answer wait for CPU on their way
	// through two members.
	lateFactor = 10
	// healthHold is what a bad health score adds to a hold, by the point.
	healthHold = time.Second
	// settle is the least time between memberlist's verdict and ours: long
	// enough for a refutation, or for the news that the member left.
	settle = 400 * time.Millisecond
	// unseenHold replaces the hold when a death is heard of without a
	// suspicion before it: others have held it already.
	unseenHold = time.Second
	// checksNeeded is how many probes of ours a member must leave unanswered.
	// They are sent every checkEvery in the last Profile.Hold of its hold.
	checksNeeded = 2
	checkEvery   = 200 * time.Millisecond
	// meetEvery is how often we compare everything with a member that
	// memberlist has for dead or gone and that we hear from.
	meetEvery = time.Second
	// goodbyeFresh is how long a goodbye explains a following departure.
	goodbyeFresh = time.Second
)

// heard is memberlist's opinion of a member.
type heard uint8

const (
	heardAlive heard = iota
	heardSuspect
	heardDead
	heardLeft
)

// peer is a member and what the detector needs to judge it.
type peer struct {
	name  string
	at    endpoint
	addr  string
	meta  nodeMeta
	state State
	since time.Time

	heard heard
	// inc is the highest incarnation seen in a message about the member.
	inc       uint32
	suspectAt time.Time // start of the suspicion, moved on by stalls
	deadAt    time.Time // when memberlist declared the death, likewise
	goodbyeAt time.Time // last goodbye received from the member itself
	seenAt    time.Time // last packet from it while it was suspected
	metAt     time.Time // last attempt to set things right with it
	checkedAt time.Time // when the last probe of ours began
	checks    int       // probes unanswered since it was last seen
}

// detector holds the member table. It is not safe for concurrent use, never
// blocks and starts nothing; time is passed in.
type detector struct {
	self    string
	profile Profile
	peers   map[string]*peer
	// pending are the peers whose packets are of interest: those whose published
	// state may change by time alone, and those that left and may be back.
	pending map[string]*peer
	count   [Left + 1]int
	// late is by how much this process was woken too late of late.
	late time.Duration
	// health is memberlist's score, 0 when all is well.
	health int
	// publish is called for every change of a published state.
	publish func(*peer)

	// retracted counts verdicts of memberlist that were taken back in time.
	suspicions, deaths, retracted uint64
}

func newDetector(self string, p Profile, publish func(*peer)) *detector {
	return &detector{
		self: self, profile: p, publish: publish,
		peers:   make(map[string]*peer),
		pending: make(map[string]*peer),
	}
}

// live is the number of members that are Alive or Suspect.
func (d *detector) live() int { return d.count[Alive] + d.count[Suspect] }

// hold is how long a member is held suspect: longer in a large mesh, and longer
// while we have reason to doubt ourselves.
func (d *detector) hold() time.Duration { return d.profile.HoldFor(d.live()) + d.doubt() }

// doubt is what our own condition adds to every hold. When this process gets
// its CPU late, answers seem late. When other members do not even report that
// they got no answer either, which is what memberlist's health score counts,
// the fault is likely here; two of them may be lost packets, and with no third
// member there is nobody to report.
func (d *detector) doubt() time.Duration {
	doubt := lateFactor * d.late
	if d.live() > 2 {
		doubt += time.Duration(max(0, d.health-2)) * healthHold
	}
	return doubt
}

// joined: memberlist has (again) an alive member of that name.
func (d *detector) joined(now time.Time, name string, at endpoint, addr string, meta nodeMeta) {
	p := d.peers[name]
	if p == nil {
		p = &peer{name: name}
		d.peers[name] = p
		d.count[Alive]++
		p.since = now
		p.at, p.addr, p.meta = at, addr, meta
		d.publish(p)
		return
	}
	if p.heard == heardDead && p.state != Dead {
		d.retracted++
	}
	if p.heard != heardAlive {
		// Only a newer incarnation brings a member back, so older messages
		// still under way must not count.
		p.inc++
	}
	p.at, p.addr, p.meta = at, addr, meta
	p.heard = heardAlive
	p.goodbyeAt = time.Time{}
	d.judge(now, p)
}

// updated: a living member changed its metadata.
func (d *detector) updated(name string, at endpoint, addr string, meta nodeMeta) *peer {
	p := d.peers[name]
	if p != nil {
		p.at, p.addr, p.meta = at, addr, meta
	}
	return p
}

// suspected: memberlist accepted a suspicion.
func (d *detector) suspected(now time.Time, name string, inc uint32) {
	p := d.peers[name]
	if p == nil || p.heard != heardAlive || inc < p.inc || name == d.self {
		return
	}
	d.suspicions++
	p.heard, p.inc, p.suspectAt, p.checks = heardSuspect, inc, now, 0
	d.judge(now, p)
}

// refuted: memberlist accepted a newer life sign of a suspect.
func (d *detector) refuted(now time.Time, name string, inc uint32) {
	p := d.peers[name]
	if p == nil || p.heard != heardSuspect || inc <= p.inc {
		return
	}
	p.heard, p.inc = heardAlive, inc
	d.judge(now, p)
}

// goodbye: a message arrived in which the member itself says that it leaves.
// memberlist has not judged it yet.
func (d *detector) goodbye(now time.Time, name string, inc uint32) {
	if p := d.peers[name]; p != nil && inc >= p.inc {
		p.goodbyeAt = now
	}
}

// departed: memberlist declared the member dead or gone, without saying which.
func (d *detector) departed(now time.Time, name string) {
	p := d.peers[name]
	if p == nil || p.heard == heardDead || p.heard == heardLeft {
		return
	}
	if name == d.self || (!p.goodbyeAt.IsZero() && now.Sub(p.goodbyeAt) < goodbyeFresh) {
		p.heard = heardLeft
	} else {
		if p.heard != heardSuspect {
			p.suspectAt = now.Add(unseenHold - d.profile.HoldFor(d.live()))
		}
		p.heard, p.deadAt, p.checks = heardDead, now, 0
	}
	d.judge(now, p)
}

// buried: memberlist passes on a death it accepted, and says who reported it.
// That settles whether a departed member died or left.
func (d *detector) buried(now time.Time, name string, inc uint32, byItself bool) {
	p := d.peers[name]
	if p == nil || inc < p.inc || name == d.self {
		return
	}
	switch {
	case byItself && p.heard == heardDead:
		p.heard = heardLeft
	case !byItself && p.heard == heardLeft:
		p.heard, p.deadAt, p.checks = heardDead, now, 0
		p.suspectAt = now.Add(unseenHold - d.profile.HoldFor(d.live()))
	default:
		return
	}
	p.inc = inc
	d.judge(now, p)
}

// checked: a probe of ours that tick asked for has ended.
func (d *detector) checked(now time.Time, name string, answered bool) {
	p := d.pending[name]
	if p == nil {
		return
	}
	if answered {
		d.alive(now, p)
	} else {
		p.checks++
	}
	d.judge(now, p)
}

// seen: a packet arrived from an address. Only suspects and members that left
// are of interest.
func (d *detector) seen(now time.Time, addr string) {
	for _, p := range d.pending {
		if p.addr == addr {
			d.alive(now, p)
		}
	}
}

// alive: a pending member gave a sign of life. Whether memberlist's suspicion ends is
// for memberlist to say, but the hold starts over.
func (d *detector) alive(now time.Time, p *peer) {
	p.checks, p.seenAt = 0, now
}

// due is when a held verdict may be published.
func (d *detector) due(p *peer) time.Time {
	from := p.suspectAt
	if p.seenAt.After(from) {
		from = p.seenAt
	}
	due := from.Add(d.hold())
	if settled := p.deadAt.Add(settle); settled.After(due) {
		return settled
	}
	return due
}

// tick looks at the held verdicts. It returns the members to probe from here,
// and those to compare everything with: they live, and memberlist does not know
// it. late is the time by which this tick itself is late; when that is much, it
// does not count towards any hold. health is memberlist's score.
func (d *detector) tick(now time.Time, late time.Duration, health int) (check, meet []*peer) {
	d.health = health
	// Half of it is forgotten every three seconds or so.
	d.late = max(late, d.late-d.late/50)
	stalled := time.Duration(0)
	if late > stallAfter {
		stalled = late
	}
	limit := d.profile.suspicionLimit(d.live()) + 5*time.Second
	for _, p := range d.pending {
		p.suspectAt = p.suspectAt.Add(stalled)
		p.deadAt = p.deadAt.Add(stalled)
		p.seenAt = p.seenAt.Add(stalled)
		if p.heard == heardSuspect && now.Sub(p.suspectAt) > limit {
			// memberlist ends every suspicion before this; the refutation must
			// have passed us by.
			p.heard = heardAlive
		}
		d.judge(now, p)
		if p.returned() && now.Sub(p.metAt) >= meetEvery {
			p.metAt = now
			meet = append(meet, p)
		}
		if !p.heldVerdict() {
			continue
		}
		if now.Sub(p.checkedAt) >= checkEvery && d.due(p).Sub(now) <= d.profile.Hold+d.doubt() {
			p.checkedAt = now
			check = append(check, p)
		}
		if p.heard == heardDead && p.seenAt.After(p.deadAt) && now.Sub(p.metAt) >= meetEvery {
			p.metAt = now
			meet = append(meet, p)
		}
	}
	return check, meet
}

// heldVerdict reports whether the peer's state may change by time alone.
func (p *peer) heldVerdict() bool {
	return p.heard == heardSuspect || (p.heard == heardDead && p.state != Dead)
}

// returned reports whether a member that left has been heard from since, so that
// it may be back. memberlist takes back a member that comes with a new address
// whatever its incarnation, so a goodbye that is still under way can bury it once
// more, and its refutation reaches each member only probably.
func (p *peer) returned() bool {
	return p.heard == heardLeft && p.seenAt.After(p.since.Add(goodbyeFresh)) && p.seenAt.After(p.metAt)
}

// forget removes the members that have been gone for long enough and returns
// them.
func (d *detector) forget(now time.Time, dead, left time.Duration) []*peer {
	var gone []*peer
	for name, p := range d.peers {
		age := now.Sub(p.since)
		if (p.state == Dead && age > dead) || (p.state == Left && age > left && name != d.self) {
			d.count[p.state]--
			delete(d.peers, name)
			delete(d.pending, name)
			gone = append(gone, p)
		}
	}
	return gone
}

// judge publishes the state that follows from what was heard.
func (d *detector) judge(now time.Time, p *peer) {
	state := Alive
	switch p.heard {
	case heardSuspect:
		state = Suspect
	case heardLeft:
		state = Left
	case heardDead:
		state = Suspect
		if p.state == Dead || (p.checks >= checksNeeded && !now.Before(d.due(p))) {
			state = Dead
		}
	}
	changed := state != p.state
	if changed {
		d.count[p.state]--
		d.count[state]++
		p.state, p.since = state, now
	}
	if p.heldVerdict() || (state == Left && p.name != d.self) {
		d.pending[p.name] = p
	} else {
		delete(d.pending, p.name)
	}
	if state == Dead && changed {
		d.deaths++
	}
	if changed {
		d.publish(p)
	}
}
