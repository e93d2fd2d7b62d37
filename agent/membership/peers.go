package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/manifest"
	"virtmesh/agent/stewards"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// Peers lists the other hosts, according to gossip, the records in the store, and the
// addresses saved in the identity. It skips any of these sources that is not open yet,
// so it can be used at any time during the start. Its methods may be called
// concurrently.
type Peers struct {
	self  string
	seeds SeedBook
	log   *slog.Logger

	gossip  atomic.Pointer[gossip.Gossip]
	hosts   atomic.Pointer[identity.Hosts]
	records *records
	// voters returns those that the list of the mesh's voters names and this host's copy of the
	// state may not know yet.
	voters atomic.Pointer[func() []manifest.Voter]
	// announcing serialises changes of the facts that this host gossips.
	announcing sync.Mutex
	// addresses follows the records; readAddresses fills it.
	addresses addresses
}

// SeedBook keeps the addresses by which a host finds its mesh when it has lost its copy
// of the store. *identity.Identity is one.
type SeedBook interface {
	// Info returns what is saved, the seeds among it.
	Info() identity.Info
	// SetSeeds replaces the seeds.
	SetSeeds(seeds []identity.Seed) error
}

var _ SeedBook = (*identity.Identity)(nil)

// NewPeers returns the list of the other hosts of the host self. It knows the saved
// seeds; OpenGossip and OpenRecords add what they know.
func NewPeers(self string, seeds SeedBook, log *slog.Logger) *Peers {
	p := &Peers{self: self, seeds: seeds, log: log, records: &records{self: self, log: log}}
	// Who is told of a change may ask for the addresses at once.
	p.records.onRead = p.readAddresses
	p.readAddresses()
	return p
}

// OpenGossip makes the hosts that g lists known to p.
func (p *Peers) OpenGossip(g *gossip.Gossip) { p.gossip.Store(g) }

// OpenRecords makes the records in the store known to p.
func (p *Peers) OpenRecords(hosts *identity.Hosts) {
	p.hosts.Store(hosts)
	p.records.open(hosts)
}

var _ stewards.Members = (*Peers)(nil)

// members returns the hosts that gossip lists, including this one.
func (p *Peers) members() []gossip.Member {
	g := p.gossip.Load()
	if g == nil {
		return nil
	}
	return g.Members()
}

// Seeds returns the members by which to find the mesh: first those in the local copy of
// the store, then those saved earlier.
func (p *Peers) Seeds() []identity.Seed {
	if others, _ := p.recordedSeeds(); len(others) > 0 {
		return others
	}
	return p.seeds.Info().Seeds
}

// recorded reports whether this host's copy of the state has a record of a host.
func (p *Peers) recorded(host string) bool {
	records, _ := p.records.list()
	return slices.ContainsFunc(records, func(r identity.HostRecord) bool { return r.Name == host })
}

// seedAddress returns the mesh address of a host among the Seeds; "" if it is not there.
func (p *Peers) seedAddress(host string) string {
	for _, seed := range p.Seeds() {
		if seed.Host == host {
			return seed.MeshAddress
		}
	}
	return ""
}

// GossipSeeds returns the other members in the form that gossip uses. Gossip contacts
// those that it does not list as live, for as long as the mesh has a record of them.
func (p *Peers) GossipSeeds() []gossip.Seed {
	var seeds []gossip.Seed
	for _, seed := range p.Seeds() {
		seeds = append(seeds, gossip.Seed{Name: seed.Host, Addr: seed.GossipAddress})
	}
	return seeds
}

// recordedSeeds returns the other members that the local copy of the store lists; ok is
// false if the copy does not even have a record of this host.
func (p *Peers) recordedSeeds() (others []identity.Seed, ok bool) {
	records, ok := p.records.list()
	for _, record := range records {
		if record.Name != p.self {
			others = append(others, record.Seed())
		}
	}
	return others, ok
}

// FollowRecords reads the records again whenever one changes, until ctx ends or the store
// stops, and saves the other hosts' addresses.
func (p *Peers) FollowRecords(ctx context.Context, store *raftstore.Store) {
	for ctx.Err() == nil {
		watch, err := store.Watch(ctx, raftstore.WatchRequest{Prefix: identity.HostsPrefix})
		if err != nil {
			return // the store has stopped, and the agent stops with it
		}
		p.readRecords()
		for range watch.Events() {
			p.readRecords()
		}
	}
}

// readRecords reads the records again and saves the other hosts' addresses. If the copy
// of the store is lost, the host can find the mesh only by these addresses.
func (p *Peers) readRecords() {
	p.records.read()
	others, ok := p.recordedSeeds()
	if !ok {
		return // this host is being removed, or has no copy yet
	}
	if err := p.seeds.SetSeeds(others); err != nil {
		p.log.Warn("the other hosts' addresses could not be saved", "err", err)
	}
}

// MeshAddresses returns the mesh addresses of the other hosts: live hosts first, and then the
// voters of a list that is newer than this host's copy. All others may be gone by then.
func (p *Peers) MeshAddresses() []string {
	var live, other []string
	for _, voter := range p.namedVoters() {
		if voter.Address != "" {
			other = append(other, voter.Address)
		}
	}
	for _, member := range p.members() {
		switch {
		case member.Name == p.self || member.Facts.MeshAddr == "":
		case member.State.Live():
			live = append(live, member.Facts.MeshAddr)
		default:
			other = append(other, member.Facts.MeshAddr)
		}
	}
	for _, seed := range p.Seeds() {
		other = append(other, seed.MeshAddress)
	}
	return append(live, other...)
}

// Resolve returns the mesh address of a host, by its name. A voter of a list that is newer than
// this host's copy comes before the record, which may be that of an earlier machine.
func (p *Peers) Resolve(ctx context.Context, name string) (string, error) {
	if g := p.gossip.Load(); g != nil {
		if member, ok := g.Member(name); ok && member.Facts.MeshAddr != "" {
			return member.Facts.MeshAddr, nil
		}
	}
	if voter, ok := p.namedVoters()[name]; ok && voter.Address != "" {
		return voter.Address, nil
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

// hostAt returns the name of the host at a mesh address, or "" if there is none. The
// records come first: gossip remembers dead members for a day, and one of them may have
// had the address before.
func (p *Peers) hostAt(address string) string {
	recorded, _ := p.records.list()
	for _, record := range recorded {
		if record.MeshAddress == address {
			return record.Name
		}
	}
	for _, member := range p.members() {
		if member.State.Live() && member.Facts.MeshAddr == address && p.records.has(member.Name) {
			return member.Name
		}
	}
	return ""
}

// MemberHealth returns the health of the members, by which raftstore chooses the
// voters. A member that gossip does not know is not alive.
func (p *Peers) MemberHealth() []raftstore.MemberHealth {
	var health []raftstore.MemberHealth
	gossiped := map[string]bool{}
	named := p.namedVoters()
	for _, member := range p.members() {
		if _, votes := named[member.Name]; !votes && !p.records.has(member.Name) {
			continue
		}
		gossiped[member.Name] = true
		health = append(health, raftstore.MemberHealth{
			ID: member.Name, Addr: member.Facts.MeshAddr, Zone: member.Facts.Zone,
			Alive: member.State.Live(),
		})
	}
	recorded, _ := p.records.list()
	for _, record := range recorded {
		if !gossiped[record.Name] {
			health = append(health, raftstore.MemberHealth{ID: record.Name, Addr: record.MeshAddress})
		}
		delete(named, record.Name)
	}
	for name, voter := range named {
		if !gossiped[name] {
			health = append(health, raftstore.MemberHealth{ID: name, Addr: voter.Address})
		}
	}
	return health
}

// OpenVoters makes the voters known to p that voters returns: a host that was off finds by them
// those of today, of which its copy of the state knows nothing.
func (p *Peers) OpenVoters(voters func() []manifest.Voter) { p.voters.Store(&voters) }

// namedVoters returns the other voters that the list of the mesh's voters names, by name.
func (p *Peers) namedVoters() map[string]manifest.Voter {
	named := map[string]manifest.Voter{}
	if voters := p.voters.Load(); voters != nil {
		for _, v := range (*voters)() {
			if v.Name != p.self {
				named[v.Name] = v
			}
		}
	}
	return named
}

// Removed reports whether a host is no longer a member. It asks the local replica
// first: usually the host has a record there, and then no linearizable read is needed.
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

// Members returns the names of the live members, including this host. A machine that
// gossips and has no record, because it was removed, is not a member.
func (p *Peers) Members() []string {
	var names []string
	for _, member := range p.members() {
		if member.State.Live() && p.records.has(member.Name) {
			names = append(names, member.Name)
		}
	}
	return names
}

// Deciders returns the members that can decide about objects. A host that has no usable
// copy of the mesh's state gossips while it waits for one, and decides nothing: as a
// steward it would leave its share of the objects to nobody.
func (p *Peers) Deciders() stewards.Members { return deciders{p} }

type deciders struct{ *Peers }

var _ stewards.Members = deciders{}

// Members returns the names of the live members that are not idle.
func (d deciders) Members() []string {
	var names []string
	for _, member := range d.members() {
		if member.State.Live() && !member.Facts.Idle && d.records.has(member.Name) {
			names = append(names, member.Name)
		}
	}
	return names
}

// Subscribe calls fn after the members that can decide may have changed, until cancel.
func (d deciders) Subscribe(fn func()) (cancel func()) {
	idle := map[string]bool{}
	return d.subscribe(func(event gossip.Event) {
		if event.Type == gossip.EventResync {
			clear(idle)
			for _, member := range d.members() {
				idle[member.Name] = member.Facts.Idle
			}
			fn()
			return
		}
		name, now := event.Member.Name, event.Member.Facts.Idle
		if event.Type != gossip.EventFacts || idle[name] != now {
			fn()
		}
		idle[name] = now
	}, fn)
}

// otherLive returns the names of the other members that gossip considers alive.
func (p *Peers) otherLive() []string {
	return slices.DeleteFunc(p.Members(), func(name string) bool { return name == p.self })
}

// heardHosts returns the names of the other hosts that gossip hears, also of one whose record
// is gone because it leaves.
func (p *Peers) heardHosts() (names []string) {
	for _, member := range p.members() {
		if member.Name != p.self && member.State.Live() {
			names = append(names, member.Name)
		}
	}
	return names
}

// Subscribe calls fn after the membership may have changed, until cancel is called. It
// must not be called before gossip has started.
func (p *Peers) Subscribe(fn func()) (cancel func()) {
	return p.subscribe(func(event gossip.Event) {
		if event.Type != gossip.EventFacts {
			fn()
		}
	}, fn)
}

// subscribe calls onEvent for each event of gossip, one at a time, and onRecords after a
// host came or went according to the records.
func (p *Peers) subscribe(onEvent func(gossip.Event), onRecords func()) (cancel func()) {
	subscription := p.gossip.Load().Subscribe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range subscription.Events() {
			onEvent(event)
		}
	}()
	unsubscribe := p.records.onChange(onRecords)
	return func() {
		unsubscribe()
		subscription.Close()
		<-done
	}
}
