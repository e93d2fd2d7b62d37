package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"virtmesh/agent/identity"
	"virtmesh/agent/stewards"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// seeds are members to find the mesh by: the ones known now from the store's
// copy on this host's disk, before those that were known when there was one.
func (a *Agent) seeds() []identity.Seed {
	if others, _ := a.others(); len(others) > 0 {
		return others
	}
	return a.identity.Info().Seeds
}

// others are the other members as the store's copy here has them; false if it
// does not even have this one.
func (a *Agent) others() (others []identity.Seed, ok bool) {
	if a.store == nil {
		return nil, false
	}
	records, err := identity.NewHosts(a.store).List(context.Background(), raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		a.log.Warn("the records of the mesh's hosts cannot be read", "err", err)
	}
	for _, record := range records {
		if record.Name == a.config.Name {
			ok = true
			continue
		}
		others = append(others, identity.Seed{Host: record.Name, MeshAddress: record.MeshAddress, GossipAddress: record.GossipAddress})
	}
	return others, ok
}

// rememberMembers keeps the other hosts' addresses in the identity, until ctx
// ends: they are what is left to find the mesh by when the copy is lost.
func (a *Agent) rememberMembers(ctx context.Context) {
	for ctx.Err() == nil {
		watch, err := a.store.Watch(ctx, raftstore.WatchRequest{Prefix: identity.HostsPrefix})
		if err != nil {
			return // the store has stopped, and with it the agent
		}
		a.saveSeeds()
		for range watch.Events() {
			a.saveSeeds()
		}
	}
}

func (a *Agent) saveSeeds() {
	others, ok := a.others()
	if !ok {
		return // it is being taken out, or has no copy yet
	}
	if err := a.identity.SetSeeds(others); err != nil {
		a.log.Warn("the other hosts' addresses could not be kept", "err", err)
	}
}

// meshAddresses lists the mesh ports of the other hosts, live ones first.
func (a *Agent) meshAddresses() []string {
	var live, other []string
	if a.gossip != nil {
		for _, member := range a.gossip.Members() {
			switch {
			case member.Name == a.config.Name || member.Facts.MeshAddr == "":
			case member.State.Live():
				live = append(live, member.Facts.MeshAddr)
			default:
				other = append(other, member.Facts.MeshAddr)
			}
		}
	}
	for _, seed := range a.seeds() {
		other = append(other, seed.MeshAddress)
	}
	return append(live, other...)
}

// resolve finds the mesh port of a host by name.
func (a *Agent) resolve(ctx context.Context, name string) (string, error) {
	if member, ok := a.gossip.Member(name); ok && member.Facts.MeshAddr != "" {
		return member.Facts.MeshAddr, nil
	}
	record, err := identity.NewHosts(a.store).Get(ctx, name, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return "", fmt.Errorf("find host %s: %w", name, err)
	}
	return record.MeshAddress, nil
}

// admit turns away machines that were removed while their certificates last.
// Before the replica is open nothing is known against anybody, so all must wait:
// who slipped in then would be served later.
func (a *Agent) admit(node identity.Node) error {
	hosts := a.hosts.Load()
	if hosts == nil {
		return errNotOpen
	}
	return hosts.Admit(node)
}

// askWhetherExpelled returns an error if the other hosts say that this machine was
// removed: their ports refuse it without a word, and its operator must learn why.
// Asking for a certificate is the one question that they answer to anybody.
func (a *Agent) askWhetherExpelled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	key, err := identity.NewKey()
	if err != nil {
		return err
	}
	csr, err := identity.NewCSR(key, a.config.Name)
	if err != nil {
		return err
	}
	if _, err := a.renewalByOthers().IssueNode(ctx, csr); errors.Is(err, identity.ErrExpelled) {
		return err
	}
	return nil
}

// errNotOpen refuses other hosts while this one starts.
var errNotOpen = errors.New("this host's replica is not open yet")

// hostAt names the host that lives at a mesh address.
func (a *Agent) hostAt(address string) string {
	if a.gossip == nil {
		return ""
	}
	for _, member := range a.gossip.Members() {
		if member.Facts.MeshAddr == address {
			return member.Name
		}
	}
	return ""
}

// memberHealth is what the choice of voters goes by.
func (a *Agent) memberHealth() []raftstore.MemberHealth {
	var health []raftstore.MemberHealth
	for _, member := range a.gossip.Members() {
		health = append(health, raftstore.MemberHealth{
			ID: member.Name, Addr: member.Facts.MeshAddr, Zone: member.Facts.Zone,
			Alive: member.State.Live(), FeatureLevel: uint32(member.Facts.FeatureLevel),
		})
	}
	return health
}

// protectedAddresses are the hosts' own, which guests have no business with.
func (a *Agent) protectedAddresses() []netip.Prefix {
	var prefixes []netip.Prefix
	for _, member := range a.gossip.Members() {
		if address, err := netip.ParseAddrPort(member.Addr); err == nil {
			prefixes = append(prefixes, netip.PrefixFrom(address.Addr(), address.Addr().BitLen()))
		}
	}
	return prefixes
}

// neededLevel is the feature level that a host must have to follow the mesh's log:
// the leader accepts entries that need a level once all live members have it, so
// a host below the lowest of them would stop at the first such entry. During an
// upgrade the lowest is the old level, and old hosts may still join.
func neededLevel(members []gossip.Member) uint32 {
	lowest := featureLevel
	for _, member := range members {
		if member.State.Live() {
			lowest = min(lowest, max(member.Facts.FeatureLevel, 0))
		}
	}
	return uint32(lowest)
}

// liveMembers is the membership that stewardship follows.
type liveMembers struct{ gossip *gossip.Gossip }

var _ stewards.Members = liveMembers{}

// Members implements controller.Members.
func (m liveMembers) Members() []string {
	var names []string
	for _, member := range m.gossip.Members() {
		if member.State.Live() {
			names = append(names, member.Name)
		}
	}
	return names
}

// Subscribe implements controller.Members.
func (m liveMembers) Subscribe(fn func()) (cancel func()) {
	subscription := m.gossip.Subscribe()
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
