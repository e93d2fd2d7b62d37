package membership

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// contradictions returns the hosts that gossip has lost and that answer the leader: their
// agents run, and something blocks gossip. Where that concerns many hosts, the stewards
// hold still. lost says for how long gossip has had each host for dead: one that the leader
// has heard since then runs, while one that has just lost its power was heard before. Of one
// that a new leader has not heard yet nothing is known.
func contradictions(status *admin.Status, replica raftstore.Status, lost map[string]time.Duration, limit time.Duration, port int) (list []string) {
	unknown := map[string]bool{}
	for _, member := range status.Members {
		unknown[member.Name] = member.State == stateUnknown
	}
	for _, peer := range replica.Peers {
		since, dead := lost[peer.ID]
		if peer.Heard && peer.Silence < limit && (unknown[peer.ID] || dead && peer.Silence < since) {
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

// outdatedBundle warns of a recovery bundle that would not bring the mesh back. That there is
// none is not a warning: nothing is lost then with the voters.
func outdatedBundle(k *admin.KeyringStatus) []string {
	if k == nil || k.Bundle == nil || k.Bundle.Current {
		return nil
	}
	return []string{fmt.Sprintf("the recovery bundle of %s does not hold the present keys, so the loss of the voters would be that of the mesh: "+
		"make a new one as root on a voter, with 'virtmesh keyring bundle --output FILE'", k.Bundle.Made.Format(time.DateOnly))}
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

// hostWarnings says which live hosts lack their hypervisor, storage or room, and what they say
// of it. Many hosts may lack the same shared pool, which is one warning.
func hostWarnings(nodes []*corev1.Node) []string {
	hosts := map[string][]string{} // by what they say
	for _, node := range nodes {
		if objects.NodeCondition(node, corev1.NodeReady).Status == corev1.ConditionUnknown {
			continue
		}
		if hypervisor := objects.NodeCondition(node, objects.NodeHypervisorReady); hypervisor.Status == corev1.ConditionFalse {
			hosts[hypervisor.Message] = append(hosts[hypervisor.Message], node.Name)
		}
		if pools := objects.NodeCondition(node, objects.NodePoolsUsable); pools.Status == corev1.ConditionFalse {
			hosts[pools.Message] = append(hosts[pools.Message], node.Name)
		}
		if disk := objects.NodeCondition(node, corev1.NodeDiskPressure); disk.Status == corev1.ConditionTrue {
			hosts[disk.Message] = append(hosts[disk.Message], node.Name)
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
		list = append(list, leaderless(replica.Voters))
	}
	if status.Leader != "" && replica.Peers == nil {
		list = append(list, fmt.Sprintf("%s leads, and does not answer %s: changes wait until it does or another host leads, which takes seconds; "+
			"if this goes on, see to the agent on %s (journalctl -u virtmesh) and to the network between the two", status.Leader, status.Host, status.Leader))
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
		if warning := stateWarning(m, status.Host); warning != "" {
			list = append(list, warning)
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

// leaderless says what it means that there is no leader, and what to do.
func leaderless(voters []string) string {
	majority := "a majority of the voters"
	if len(voters) > 0 { // a host that waits for its first copy knows none
		majority += " (" + strings.Join(voters, ", ") + ")"
	}
	return "there is no leader: running VMs continue, but nothing can be changed until " + majority + " is back: start their hosts; " +
		"only if a majority is gone for good, make one host the only voter with 'virtmesh agent recover'"
}

// stateWarning says what is wrong with a member that is not alive to the host that was asked,
// and what to do.
func stateWarning(m admin.Member, asked string) string {
	const startIt = "start it there (systemctl start virtmesh), or, if the host will not come back, take it out with 'virtmesh node remove %s'"
	switch m.State {
	case gossip.Alive.String():
		return ""
	case gossip.Suspect.String():
		return fmt.Sprintf("%s is suspect: it did not answer a moment ago, and is dead to %s if it does not within seconds", m.Name, asked)
	case gossip.Dead.String():
		return fmt.Sprintf("%s is dead: its agent does not answer, and its machines wait for it: "+startIt, m.Name, m.Name)
	case stateUnknown:
		return fmt.Sprintf("%s is unknown: the agent on %s has heard nothing of that host's agent since its own start: "+startIt, m.Name, asked, m.Name)
	case stateRemoved:
		return fmt.Sprintf("%s was removed from the mesh, and its agent runs: stop it there (systemctl disable --now virtmesh)", m.Name)
	}
	return fmt.Sprintf("%s is %s", m.Name, m.State)
}
