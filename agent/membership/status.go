package membership

import (
	"context"
	"fmt"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// What a host is shown as that gossip has not heard of, that gossips although the mesh
// has no record of it, and that is in no replica's list.
const (
	stateUnknown = "unknown"
	stateRemoved = "removed"
	roleNone     = "none"
	roleVoter    = "voter"
	roleLeader   = "leader"
)

// leaderPatience is how long Status waits for the leader to say how far the others are. A
// leader that hangs must not keep an operator from seeing what this host knows by itself.
const leaderPatience = 2 * time.Second

// askReplica returns the status of the replica, with what the leader says of the others if
// it answers soon.
func (m *Member) askReplica(ctx context.Context) raftstore.Status {
	ctx, cancel := context.WithTimeout(ctx, leaderPatience)
	defer cancel()
	return m.store.Status(ctx)
}

// Status returns the mesh as this host sees it: its members according to the records,
// gossip and the replica, and warnings for the operator.
func (m *Member) Status(ctx context.Context) (*admin.Status, error) {
	if m.store == nil {
		return m.gossipStatus(), nil
	}
	replica := m.askReplica(ctx)
	status := &admin.Status{
		Host: m.config.Name, MeshID: m.identity.MeshID(), Version: m.options.Version,
		Leader: replica.Leader, Term: replica.Term, Revision: replica.Revision,
	}
	members := map[string]*admin.Member{}
	records, err := identity.NewHosts(m.store).List(ctx, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nil, fmt.Errorf("read the records of the mesh's hosts: %w", err)
	}
	for _, record := range records {
		members[record.Name] = &admin.Member{
			Name: record.Name, MeshAddress: record.MeshAddress, State: stateUnknown, Role: roleNone, Version: record.Version, FeatureLevel: record.FeatureLevel, Lag: -1,
		}
	}
	lost := map[string]time.Duration{}
	for _, member := range m.gossip.Members() {
		addMember(members, member)
		if member.State == gossip.Dead {
			lost[member.Name] = time.Since(member.Since)
		}
		if !m.peers.records.has(member.Name) && members[member.Name] != nil {
			members[member.Name].State = stateRemoved
		}
	}
	addReplicas(members, replica)
	status.Members = sortMembers(members)
	if status.Level, err = m.levelStatus(ctx); err != nil {
		return nil, err
	}
	if status.Keyring, err = m.keyringStatus(ctx); err != nil {
		return nil, err
	}
	status.Warnings = append(warnings(status, replica), contradictions(status, replica, lost, m.store.SilenceLimit(), m.config.GossipPort)...)
	status.Warnings = append(status.Warnings, belowLevel(status)...)
	status.Warnings = append(status.Warnings, m.listWarnings()...)
	status.Warnings = append(status.Warnings, m.unnamedVoters(ctx)...)
	status.Warnings = append(status.Warnings, m.unfinishedCA(ctx)...)
	status.Warnings = append(status.Warnings, outdatedBundle(status.Keyring)...)
	status.Warnings = append(status.Warnings, sealWarnings(status.Host, status.Keyring)...)
	if err := m.addVoters(ctx, status); err != nil {
		return nil, err
	}
	quarantined, err := claims.ListQuarantine(ctx, objects.FromRaft(m.store, nil), raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nil, fmt.Errorf("read which hosts are in quarantine: %w", err)
	}
	status.Warnings = append(status.Warnings, quarantineWarnings(quarantined)...)
	nodes, _, err := objects.List[*corev1.Node](ctx, objects.FromRaft(m.store, nil), "", raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nil, fmt.Errorf("read the Nodes of the mesh's hosts: %w", err)
	}
	status.Warnings = append(status.Warnings, hostWarnings(nodes)...)
	return status, nil
}

// gossipStatus returns what this host knows of the mesh without a replica.
func (m *Member) gossipStatus() *admin.Status {
	members := map[string]*admin.Member{}
	for _, member := range m.peers.members() {
		addMember(members, member)
	}
	return &admin.Status{Host: m.config.Name, MeshID: m.identity.MeshID(), Version: m.options.Version, Members: sortMembers(members)}
}

func sortMembers(members map[string]*admin.Member) []admin.Member {
	list := make([]admin.Member, 0, len(members))
	for _, member := range members {
		list = append(list, *member)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

func addMember(members map[string]*admin.Member, member gossip.Member) {
	m := members[member.Name]
	if m == nil {
		if !member.State.Live() {
			// It left or was removed; gossip still lists it for a while.
			return
		}
		m = &admin.Member{Name: member.Name, Role: roleNone, Lag: -1}
		members[member.Name] = m
	}
	m.State = member.State.String()
	m.MeshAddress = member.Facts.MeshAddr
	m.Zone, m.KVM, m.Unschedulable = member.Facts.Zone, member.Facts.KVM, member.Facts.Unschedulable
	m.FeatureLevel = uint32(member.Facts.FeatureLevel)
	if member.Facts.Version != "" {
		m.Version = member.Facts.Version
	}
}

func addReplicas(members map[string]*admin.Member, replica raftstore.Status) {
	for _, id := range replica.Voters {
		if m := members[id]; m != nil {
			m.Role = roleVoter
		}
	}
	for _, peer := range replica.Peers {
		m := members[peer.ID]
		if m == nil {
			continue
		}
		m.Lag = int64(peer.Lag)
		switch {
		case peer.Follower:
			m.Role, m.Source = "follower", peer.Source
		case !peer.Voter:
			m.Role = "replica"
		}
	}
	if m := members[replica.Leader]; m != nil {
		m.Role = roleLeader
	}
}
