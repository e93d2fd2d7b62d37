package membership

import (
	"slices"

	"virtmesh/agent/identity"
	"virtmesh/gossip"
)

// SetFacts publishes this host's facts, such as its capacity, by gossip. What they say of CAs
// stays as announceTrust has it.
func (p *Peers) SetFacts(facts gossip.Facts) error {
	return p.changeFacts(func(own gossip.Facts) gossip.Facts {
		facts.Trust, facts.SignedBy = own.Trust, own.SignedBy
		return facts
	})
}

// announceTrust publishes which CAs this host trusts, and which has signed its certificate.
func (p *Peers) announceTrust(trust, signedBy string) error {
	return p.changeFacts(func(own gossip.Facts) gossip.Facts {
		own = own.Clone()
		own.Trust, own.SignedBy = trust, signedBy
		return own
	})
}

// changeFacts publishes this host's facts as change makes them from those of before.
func (p *Peers) changeFacts(change func(own gossip.Facts) gossip.Facts) error {
	g := p.gossip.Load()
	if g == nil {
		return errNotOpen
	}
	p.announcing.Lock()
	defer p.announcing.Unlock()
	var own gossip.Facts
	if self, ok := g.Member(p.self); ok {
		own = self.Facts
	}
	return g.SetFacts(change(own))
}

// byFacts returns the hosts of the mesh by what they gossip: those that are as a rotation wants
// them, those that are not yet, and those that are off: not heard, or waiting for a usable copy
// of the state, maybe for as long as nobody helps.
func (p *Peers) byFacts(done func(gossip.Facts) bool) (have, waiting, off []string) {
	live := map[string]bool{}
	for _, member := range p.members() {
		if is := done(member.Facts); member.State.Live() && (!member.Facts.Idle || is) {
			live[member.Name] = is
		}
	}
	recorded, _ := p.records.list()
	for _, record := range recorded {
		is, heard := live[record.Name]
		switch {
		case !heard:
			off = append(off, record.Name)
		case is:
			have = append(have, record.Name)
		default:
			waiting = append(waiting, record.Name)
		}
	}
	return have, waiting, off
}

// haveFollowed reports whether all hosts are as a rotation wants them, see byFacts: nobody is waited
// for, and who is off is off for certain. An agent that has just started hears nobody yet.
func (p *Peers) haveFollowed(waiting, off []string) bool {
	g := p.gossip.Load()
	return len(waiting) == 0 && (len(off) == 0 || g != nil && g.Settled())
}

// keeps reports whether a key is that of another host that keeps its key, by what this host
// knows of the others.
func (p *Peers) keeps(node identity.Node, key identity.Pin) bool {
	return slices.ContainsFunc(p.Seeds(), func(seed identity.Seed) bool { return seed.Is(node, key) })
}
