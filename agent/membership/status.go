package membership

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
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
)

// Status returns the mesh as this host sees it: its members according to the records,
// gossip and the replica, and warnings for the operator.
func (m *Member) Status(ctx context.Context) (*admin.Status, error) {
	if m.store == nil {
		return m.gossipStatus(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	replica := m.store.Status(ctx)
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
	for _, member := range m.gossip.Members() {
		addMember(members, member)
		if !m.peers.records.has(member.Name) && members[member.Name] != nil {
			members[member.Name].State = stateRemoved
		}
	}
	addReplicas(members, replica)
	status.Members = sortMembers(members)
	if status.Level, err = m.levelStatus(ctx); err != nil {
		return nil, err
	}
	status.Warnings = append(warnings(status, replica), contradictions(status, replica, m.store.SilenceLimit(), m.config.GossipPort)...)
	status.Warnings = append(status.Warnings, belowLevel(status)...)
	quarantined, err := claims.ListQuarantine(ctx, objects.FromRaft(m.store, nil), raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nil, fmt.Errorf("read which hosts are in quarantine: %w", err)
	}
	status.Warnings = append(status.Warnings, quarantineWarnings(quarantined)...)
	nodes, _, err := objects.List[*corev1.Node](ctx, objects.FromRaft(m.store, nil), "", raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nil, fmt.Errorf("read the Nodes of the mesh's hosts: %w", err)
	}
	status.Warnings = append(status.Warnings, storageWarnings(nodes)...)
	return status, nil
}

// gossipStatus returns what this host knows of the mesh without a replica.
func (m *Member) gossipStatus() *admin.Status {
	members := map[string]*admin.Member{}
	for _, member := range m.gossip.Members() {
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
			m.Role = "voter"
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
		m.Role = "leader"
	}
}

// contradictions returns the hosts that gossip has lost and that answer the leader: their
// agents run, and something blocks gossip. Where that concerns many hosts, the stewards
// hold still.
func contradictions(status *admin.Status, replica raftstore.Status, limit time.Duration, port int) (list []string) {
	lost := map[string]bool{}
	for _, member := range status.Members {
		lost[member.Name] = member.State == gossip.Dead.String() || member.State == stateUnknown
	}
	for _, peer := range replica.Peers {
		if lost[peer.ID] && peer.Silence < limit {
			list = append(list, fmt.Sprintf("%s answers the leader, and does not gossip with %s: is port %d (TCP and UDP) blocked between them?", peer.ID, status.Host, port))
		}
	}
	return list
}

// belowLevel names the hosts whose version does not know the feature level of the mesh.
func belowLevel(status *admin.Status) (list []string) {
	for _, m := range status.Members {
		if m.FeatureLevel > 0 && m.FeatureLevel < status.Level.Mesh {
			list = append(list, fmt.Sprintf("%s runs version %s, which knows feature levels up to %d, and the mesh is at %d: it does nothing until a newer version is installed there",
				m.Name, m.Version, m.FeatureLevel, status.Level.Mesh))
		}
	}
	return list
}

// quarantineWarnings says which hosts keep machines from starting after a recovery.
func quarantineWarnings(quarantined []claims.Quarantine) []string {
	if len(quarantined) == 0 {
		return nil
	}
	names := make([]string, len(quarantined))
	for i, q := range quarantined {
		names[i] = q.Host
	}
	return []string{fmt.Sprintf("the mesh was recovered from a copy, and %s may still run machines that the copy shows elsewhere or does not know: "+
		"machines that existed before are not started until each of these hosts has the recovered state "+
		"(stop its agent, run 'virtmesh agent resync --yes' there and start it), or was removed ('virtmesh node remove NAME')", strings.Join(names, ", "))}
}

// storageWarnings says which live hosts lack storage, and what they say of it. Many hosts
// may lack the same shared pool, which is one warning.
func storageWarnings(nodes []*corev1.Node) []string {
	hosts := map[string][]string{} // by what they say
	for _, node := range nodes {
		pools := objects.NodeCondition(node, objects.NodePoolsUsable)
		if pools.Status == corev1.ConditionFalse && objects.NodeCondition(node, corev1.NodeReady).Status != corev1.ConditionUnknown {
			hosts[pools.Message] = append(hosts[pools.Message], node.Name)
		}
	}
	var list []string
	for message, names := range hosts {
		slices.Sort(names)
		list = append(list, fmt.Sprintf("%s: %s", strings.Join(names, ", "), message))
	}
	slices.Sort(list)
	return list
}

// warnings returns what needs an operator's attention.
func warnings(status *admin.Status, replica raftstore.Status) []string {
	var list []string
	if status.Leader == "" {
		list = append(list, "there is no leader: running VMs continue, but nothing can be changed until a majority of the voters is back")
	}
	if replica.Failure != "" {
		list = append(list, fmt.Sprintf("the replica on %s: %s", status.Host, replica.Failure))
	}
	for _, peer := range replica.Peers {
		if peer.Failure != "" && peer.Alive && peer.ID != status.Host {
			list = append(list, fmt.Sprintf("the replica on %s does not keep up: %s", peer.ID, peer.Failure))
		}
	}
	versions := map[string]bool{}
	for _, m := range status.Members {
		switch {
		case m.State == stateUnknown && m.Role == roleNone:
			list = append(list, fmt.Sprintf("%s has joined, and its agent was never heard of: start it there (systemctl start virtmesh), or take the host out with 'virtmesh node remove %s'", m.Name, m.Name))
		case m.State == stateRemoved:
			list = append(list, fmt.Sprintf("%s was removed from the mesh, and its agent runs: stop it there (systemctl disable --now virtmesh)", m.Name))
		case m.State != gossip.Alive.String():
			list = append(list, fmt.Sprintf("%s is %s", m.Name, m.State))
		}
		if m.Version != "" {
			versions[m.Version] = true
		}
	}
	if len(versions) > 1 {
		list = append(list, fmt.Sprintf("%d different versions are running", len(versions)))
	}
	return list
}
