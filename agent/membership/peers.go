package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/stewards"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// Peers knows the other hosts: from gossip, from the records in the store, and
// from what the identity remembers of them. What is not open yet is left out, so
// it can be asked at any time of the start. Its methods may be called at once.
type Peers struct {
	self     string
	identity *identity.Identity
	log      *slog.Logger

	gossip atomic.Pointer[gossip.Gossip]
	hosts  atomic.Pointer[identity.Hosts]
}

var _ stewards.Members = (*Peers)(nil)

// members are those that gossip knows, this host too.
func (p *Peers) members() []gossip.Member {
	g := p.gossip.Load()
	if g == nil {
		return nil
	}
	return g.Members()
}

// seeds are members to find the mesh by: the ones known now from the store's
// copy on this host's disk, before those that were known when there was one.
func (p *Peers) seeds() []identity.Seed {
	if others, _ := p.recorded(); len(others) > 0 {
		return others
	}
	return p.identity.Info().Seeds
}

// recorded are the other members as the store's copy here has them; false if it
// does not even have this one.
func (p *Peers) recorded() (others []identity.Seed, ok bool) {
	hosts := p.hosts.Load()
	if hosts == nil {
		return nil, false
	}
	records, err := hosts.List(context.Background(), raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		p.log.Warn("the records of the mesh's hosts cannot be read", "err", err)
	}
	for _, record := range records {
		if record.Name == p.self {
			ok = true
			continue
		}
		others = append(others, identity.Seed{Host: record.Name, MeshAddress: record.MeshAddress, GossipAddress: record.GossipAddress})
	}
	return others, ok
}

// saveSeeds keeps the other hosts' addresses in the identity: they are what is
// left to find the mesh by when the copy of the store is lost.
func (p *Peers) saveSeeds() {
	others, ok := p.recorded()
	if !ok {
		return // it is being taken out, or has no copy yet
	}
	if err := p.identity.SetSeeds(others); err != nil {
		p.log.Warn("the other hosts' addresses could not be kept", "err", err)
	}
}

// meshAddresses lists the mesh ports of the other hosts, live ones first.
func (p *Peers) meshAddresses() []string {
	var live, other []string
	for _, member := range p.members() {
		switch {
		case member.Name == p.self || member.Facts.MeshAddr == "":
		case member.State.Live():
			live = append(live, member.Facts.MeshAddr)
		default:
			other = append(other, member.Facts.MeshAddr)
		}
	}
	for _, seed := range p.seeds() {
		other = append(other, seed.MeshAddress)
	}
	return append(live, other...)
}

// Resolve finds the mesh port of a host by name.
func (p *Peers) Resolve(ctx context.Context, name string) (string, error) {
	if g := p.gossip.Load(); g != nil {
		if member, ok := g.Member(name); ok && member.Facts.MeshAddr != "" {
			return member.Facts.MeshAddr, nil
		}
	}
	hosts := p.hosts.Load()
	if hosts == nil {
		return "", fmt.Errorf("find host %s: %w", name, errNotOpen)
	}
	record, err := hosts.Get(ctx, name, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return "", fmt.Errorf("find host %s: %w", name, err)
	}
	return record.MeshAddress, nil
}

// hostAt names the host that lives at a mesh address, "" if none does.
func (p *Peers) hostAt(address string) string {
	for _, member := range p.members() {
		if member.Facts.MeshAddr == address {
			return member.Name
		}
	}
	return ""
}

// health is what the choice of voters goes by.
func (p *Peers) health() []raftstore.MemberHealth {
	var health []raftstore.MemberHealth
	for _, member := range p.members() {
		health = append(health, raftstore.MemberHealth{
			ID: member.Name, Addr: member.Facts.MeshAddr, Zone: member.Facts.Zone,
			Alive: member.State.Live(), FeatureLevel: uint32(member.Facts.FeatureLevel),
		})
	}
	return health
}

// ProtectedAddresses are the hosts' own, which guests have no business with.
func (p *Peers) ProtectedAddresses() []netip.Prefix {
	var prefixes []netip.Prefix
	for _, member := range p.members() {
		if address, err := netip.ParseAddrPort(member.Addr); err == nil {
			prefixes = append(prefixes, netip.PrefixFrom(address.Addr(), address.Addr().BitLen()))
		}
	}
	return prefixes
}

// SetFacts tells the other hosts what this one can carry.
func (p *Peers) SetFacts(facts gossip.Facts) error {
	g := p.gossip.Load()
	if g == nil {
		return errNotOpen
	}
	return g.SetFacts(facts)
}

// Removed tells whether a host is a member no more. The local replica is asked
// first: mostly the host is there, and it is only late in showing who went.
func (p *Peers) Removed(ctx context.Context, name string) (bool, error) {
	hosts := p.hosts.Load()
	if hosts == nil {
		return false, errNotOpen
	}
	for _, consistency := range []raftstore.ReadOptions{{Consistency: raftstore.Local}, {}} {
		switch _, err := hosts.Get(ctx, name, consistency); {
		case err == nil:
			return false, nil
		case !errors.Is(err, fault.NoHost):
			return false, err
		}
	}
	return true, nil
}

// Members names the live members, this host too.
func (p *Peers) Members() []string {
	var names []string
	for _, member := range p.members() {
		if member.State.Live() {
			names = append(names, member.Name)
		}
	}
	return names
}

// otherLive names the other members that gossip reaches.
func (p *Peers) otherLive() []string {
	return slices.DeleteFunc(p.Members(), func(name string) bool { return name == p.self })
}

// Subscribe calls fn after the membership may have changed, until cancel. It must
// not be called before gossip has started.
func (p *Peers) Subscribe(fn func()) (cancel func()) {
	subscription := p.gossip.Load().Subscribe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range subscription.Events() {
			if event.Type != gossip.EventFacts {
				fn()
			}
		}
	}()
	return func() {
		subscription.Close()
		<-done
	}
}

// neededLevel is the feature level that a host must have to follow the mesh's log:
// the leader accepts entries that need a level once all live members have it, so
// a host below the lowest of them would stop at the first such entry. During an
// upgrade the lowest is the old level, and old hosts may still join.
func neededLevel(members []gossip.Member) uint32 {
	lowest := FeatureLevel
	for _, member := range members {
		if member.State.Live() {
			lowest = min(lowest, max(member.Facts.FeatureLevel, 0))
		}
	}
	return uint32(lowest)
}
