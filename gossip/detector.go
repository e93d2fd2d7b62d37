package gossip

import (
	"time"
)

// memberlist reports joins and deaths to its delegates, but no suspicions. It reports
// a death as soon as the suspicion timer of one member fires. On a member that is
// starved of CPU such timers fire while the answers wait in its socket. Its verdicts
// are therefore often wrong, and refuted a few gossip rounds later; now and then a
// refutation does not reach every member. The detector therefore keeps memberlist's
// opinion of each member (heard) apart from the state that it publishes itself. It
// publishes a death only when
//
//   - the member was suspected, and this process received nothing from it, for a time
//     that grows with the mesh, not counting time during which this process was
//     stalled, and
//   - the member left several probes of this process unanswered in that time.

const (
	// tickInterval is how often pending verdicts are checked.
	tickInterval = 100 * time.Millisecond
	// stallAfter is how late a tick must be to count as a stall of this process.
	stallAfter = 2 * tickInterval
	// lateFactor is how many times a probe and its answer together wait for CPU on
	// their way through two members.
	lateFactor = 10
	// healthHold is added to every hold for each point of a bad health score.
	healthHold = time.Second
	// settleTime is the least time between memberlist's verdict and the published
	// one: long enough for a refutation, or for the message that the member left.
	settleTime = 400 * time.Millisecond
	// unseenHold replaces the hold when a death is reported without an earlier
	// suspicion, because then other members have held the verdict already.
	unseenHold = time.Second
	// checksNeeded is how many probes of this process a member must leave
	// unanswered before it is published as Dead. The probes are sent every
	// checkEvery during the last Profile.Hold of the hold.
	checksNeeded = 2
	checkEvery   = 200 * time.Millisecond
	// meetEvery is how often this process syncs with a member that memberlist
	// considers dead or left although it sends packets.
	meetEvery = time.Second
	// goodbyeFresh is how long after a goodbye a departure counts as a leave.
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

// peer is a member and what the detector needs to decide its state.
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
	suspectAt time.Time // start of the suspicion, moved forward by stalls
	deadAt    time.Time // when memberlist declared the death, moved forward by stalls
	goodbyeAt time.Time // last goodbye received from the member itself
	seenAt    time.Time // last packet from the member while it was pending
	metAt     time.Time // last time tick asked to sync with the member
	checkedAt time.Time // last time tick asked to probe the member
	checks    int       // probes unanswered since the last packet from the member
}

// detector holds the member table. It is not safe for concurrent use. It never blocks
// and starts no goroutines; the caller passes the time.
type detector struct {
	self    string
	profile Profile
	peers   map[string]*peer
	// pending holds the peers whose packets must be noticed: those whose published
	// state may change by time alone, and those that left and may come back.
	pending map[string]*peer
	count   [Left + 1]int
	// late is how late the recent ticks were; it decays.
	late time.Duration
	// health is memberlist's score, 0 when all is well.
	health int
	// publish is called after every change of a published state.
	publish func(*peer)

	// retracted counts the deaths of memberlist that were refuted before they were
	// published.
	suspicions, deaths, retracted uint64
}

func newDetector(self string, p Profile, publish func(*peer)) *detector {
	return &detector{
		self: self, profile: p, publish: publish,
		peers:   make(map[string]*peer),
		pending: make(map[string]*peer),
	}
}

// live returns the number of members that are Alive or Suspect.
func (d *detector) live() int { return d.count[Alive] + d.count[Suspect] }

// holdTime returns how long a member stays Suspect before it is Dead. It is longer in
// a large mesh, and while there are signs that this process itself is slow.
func (d *detector) holdTime() time.Duration { return d.profile.HoldFor(d.live()) + d.selfDoubt() }

// selfDoubt returns what the condition of this process adds to every hold. If this
// process gets the CPU late, answers seem late. memberlist's health score counts the
// members that were asked for an indirect probe and did not even report its failure;
// if there are many, the fault is probably on this host. Two of them are not counted,
// because they may be lost packets. With only two members, no third one could report.
func (d *detector) selfDoubt() time.Duration {
	doubt := lateFactor * d.late
	if d.live() > 2 {
		doubt += time.Duration(max(0, d.health-2)) * healthHold
	}
	return doubt
}

// joined handles memberlist's report that a member is alive, for the first time or
// again.
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
		// Only a newer incarnation brings a member back, so older messages that
		// still arrive must not count.
		p.inc++
	}
	p.at, p.addr, p.meta = at, addr, meta
	p.heard = heardAlive
	p.goodbyeAt = time.Time{}
	d.updateState(now, p)
}

// updated handles memberlist's report that a live member changed its address or
// metadata.
func (d *detector) updated(name string, at endpoint, addr string, meta nodeMeta) *peer {
	p := d.peers[name]
	if p != nil {
		p.at, p.addr, p.meta = at, addr, meta
	}
	return p
}

// suspected handles a suspicion that memberlist accepted.
func (d *detector) suspected(now time.Time, name string, inc uint32) {
	p := d.peers[name]
	if p == nil || p.heard != heardAlive || inc < p.inc || name == d.self {
		return
	}
	d.suspicions++
	p.heard, p.inc, p.suspectAt, p.checks = heardSuspect, inc, now, 0
	d.updateState(now, p)
}

// refuted handles an alive message, with a newer incarnation, that memberlist
// accepted for a suspect.
func (d *detector) refuted(now time.Time, name string, inc uint32) {
	p := d.peers[name]
	if p == nil || p.heard != heardSuspect || inc <= p.inc {
		return
	}
	p.heard, p.inc = heardAlive, inc
	d.updateState(now, p)
}

// goodbye handles a received message in which the member itself says that it leaves.
// memberlist has not handled the message yet.
func (d *detector) goodbye(now time.Time, name string, inc uint32) {
	if p := d.peers[name]; p != nil && inc >= p.inc {
		p.goodbyeAt = now
	}
}

// departed handles memberlist's report that a member died or left. memberlist does
// not say which of the two.
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
	d.updateState(now, p)
}

// buried handles a dead message that memberlist passes on, and so has accepted. Its
// sender tells whether the departed member died or left: a member that leaves reports
// itself.
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
	d.updateState(now, p)
}

// checked handles the result of a probe that tick asked for.
func (d *detector) checked(now time.Time, name string, answered bool) {
	p := d.pending[name]
	if p == nil {
		return
	}
	if answered {
		d.signOfLife(now, p)
	} else {
		p.checks++
	}
	d.updateState(now, p)
}

// packetFrom handles the arrival of a packet from an address. Only pending members
// matter.
func (d *detector) packetFrom(now time.Time, addr string) {
	for _, p := range d.pending {
		if p.addr == addr {
			d.signOfLife(now, p)
		}
	}
}

// signOfLife handles a sign of life of a pending member. The hold starts over, but
// only memberlist ends the suspicion.
func (d *detector) signOfLife(now time.Time, p *peer) {
	p.checks, p.seenAt = 0, now
}

// verdictDue returns when the pending death of a peer may be published.
func (d *detector) verdictDue(p *peer) time.Time {
	from := p.suspectAt
	if p.seenAt.After(from) {
		from = p.seenAt
	}
	due := from.Add(d.holdTime())
	if settled := p.deadAt.Add(settleTime); settled.After(due) {
		return settled
	}
	return due
}

// tick checks the pending verdicts. It returns the members that the caller must probe
// (check), and those that it must sync with because they are alive and memberlist does
// not know it (meet). late is how late this tick is; a lateness above stallAfter does
// not count towards any hold. health is memberlist's health score.
func (d *detector) tick(now time.Time, late time.Duration, health int) (check, meet []*peer) {
	d.health = health
	// It decays by half in about three seconds.
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
			// memberlist ends every suspicion earlier than this, so this process
			// must have missed the refutation.
			p.heard = heardAlive
		}
		d.updateState(now, p)
		if p.returned() && now.Sub(p.metAt) >= meetEvery {
			p.metAt = now
			meet = append(meet, p)
		}
		if !p.heldVerdict() {
			continue
		}
		if now.Sub(p.checkedAt) >= checkEvery && d.verdictDue(p).Sub(now) <= d.profile.Hold+d.selfDoubt() {
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

// heldVerdict reports whether the peer's published state may change by time alone.
func (p *peer) heldVerdict() bool {
	return p.heard == heardSuspect || (p.heard == heardDead && p.state != Dead)
}

// returned reports whether packets have arrived from a member since it left, so that
// it may be back. memberlist accepts a member that comes back with a new address
// whatever its incarnation. A goodbye that still circulates can then make the member
// Left once more, and it is not certain that its refutation reaches every member.
func (p *peer) returned() bool {
	return p.heard == heardLeft && p.seenAt.After(p.since.Add(goodbyeFresh)) && p.seenAt.After(p.metAt)
}

// forgetGone removes the members that have been Dead for longer than dead or Left for
// longer than left, and returns them.
func (d *detector) forgetGone(now time.Time, dead, left time.Duration) []*peer {
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

// updateState derives the state of a peer from what was heard about it, and publishes
// a change.
func (d *detector) updateState(now time.Time, p *peer) {
	state := Alive
	switch p.heard {
	case heardSuspect:
		state = Suspect
	case heardLeft:
		state = Left
	case heardDead:
		state = Suspect
		if p.state == Dead || (p.checks >= checksNeeded && !now.Before(d.verdictDue(p))) {
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
