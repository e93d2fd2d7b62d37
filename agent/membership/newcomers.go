package membership

import (
	"maps"
	"sync"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/membership/succession"
	"virtmesh/agent/port"
)

// Group is what an Admission asks of the replicated store's group; *raftstore.Store
// implements it. Its methods must not block.
type Group interface {
	// FeatureLevel returns the feature level of this host's copy of the state.
	FeatureLevel() uint32
	// LeaderSilence returns for how long this replica has not heard the leader, and whether it
	// has ever heard it.
	LeaderSilence() (silence time.Duration, heard bool)
}

// VoterList is what an Admission asks of the list of the mesh's voters; *succession.Keeper
// implements it. It must not block.
type VoterList interface {
	// Judge says what the newest verified list says of a machine, and whether the list is newer
	// than this host's copy of the state.
	Judge(node identity.Node, key identity.Pin) (v succession.Verdict, newer bool)
	// InUse reports whether the mesh has lists of its voters.
	InUse() bool
}

// noList is the list of a host that has none.
type noList struct{}

// Judge implements VoterList.
func (noList) Judge(identity.Node, identity.Pin) (v succession.Verdict, newer bool) {
	return succession.Unnamed, false
}

// InUse implements VoterList.
func (noList) InUse() bool { return false }

const (
	// newcomerSilence is for how long this host must not have heard a leader before it
	// takes a machine that its copy does not know for one that is newer than the copy.
	// Elections take less.
	newcomerSilence = time.Minute
	// newcomerTime is how long such a machine has to bring the copy up to date.
	newcomerTime = 10 * time.Minute
	// maxNewcomers bounds how many there are at a time. More than a mesh has voters.
	maxNewcomers = 64
)

// newcomers decides about machines of which this host's copy of the state has no record.
//
// A host that hears the leader has the record of each new host as soon as that is one, so
// a machine without a record was made by somebody who has the CA's key, and is refused. A
// host that was off for long may know nobody who leads today. From level.Succession on it takes
// those machines that a verified list of the mesh's voters names, with ID and key, and no other.
//
// At level.Apart there is no such list. Then a host that has heard no leader for a while takes
// machines that it does not know, for some minutes. One that somebody made with the CA's key can
// so feed its replica as a leader would, with records of the attacker's, and take the host over.
//
// In both cases they are taken only for what brings the copy up to date: to be told by them as a
// replica, and to ask them. The host serves them nothing.
//
// Below level.Apart every machine without a record is taken for newer, as earlier versions
// do. So it is on a host that has no copy yet.
type newcomers struct {
	group  Group
	list   VoterList
	opened time.Time

	mu sync.Mutex
	// places holds who was taken, by the name of the host: one that claims a name takes the place
	// of another one that does.
	places map[string]place
}

// place is what a machine has among the newcomers.
type place struct {
	node  identity.Node
	key   identity.Pin
	until time.Time
}

func newNewcomers(group Group, list VoterList) *newcomers {
	return &newcomers{group: group, list: list, opened: time.Now(), places: map[string]place{}}
}

// forSuccession reports whether a connection can bring this host's copy up to date.
func forSuccession(peer port.Peer) bool {
	return peer.Proto == port.ProtoRaft || peer.Proto == port.ProtoStore && peer.Dialled
}

// takesAll reports whether every machine without a record is taken for newer than the copy.
func (n *newcomers) takesAll() bool { return n.group.FeatureLevel() < level.Apart && !n.list.InUse() }

// names reports whether the list of voters names a machine.
func (n *newcomers) names(peer port.Peer) bool {
	v, _ := n.list.Judge(peer.Node, peer.Key)
	return v == succession.Votes
}

// takes reports whether a machine that the copy does not know may have a connection.
func (n *newcomers) takes(peer port.Peer) bool {
	switch {
	case n.takesAll():
		return true
	case !forSuccession(peer):
		return false
	case n.list.InUse():
		return n.names(peer)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(n.places, func(_ string, p place) bool { return now.After(p.until) })
	have, taken := n.places[peer.Node.Name]
	if taken && have.node == peer.Node && have.key == peer.Key {
		return true
	}
	if n.silence(now) < newcomerSilence || !taken && len(n.places) >= maxNewcomers {
		return false
	}
	n.places[peer.Node.Name] = place{peer.Node, peer.Key, now.Add(newcomerTime)}
	return true
}

// silence returns for how long the leader has not been heard.
func (n *newcomers) silence(now time.Time) time.Duration {
	if silence, heard := n.group.LeaderSilence(); heard {
		return silence
	}
	return now.Sub(n.opened)
}

// keeps reports whether such a machine may keep the connections that it has.
func (n *newcomers) keeps(peer port.Peer) bool {
	switch {
	case n.takesAll():
		return true
	case n.list.InUse():
		return n.names(peer)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	have, taken := n.places[peer.Node.Name]
	return taken && have.node == peer.Node && have.key == peer.Key && !time.Now().After(have.until)
}

// overrules returns what the list of voters says of a machine although the copy may say
// otherwise: the list is newer, and a machine of that name votes. known is false if it says
// nothing.
func (n *newcomers) overrules(node identity.Node, key identity.Pin) (known bool, err error) {
	if !n.list.InUse() {
		return false, nil
	}
	switch v, newer := n.list.Judge(node, key); {
	case newer && v == succession.Votes:
		return true, nil
	case newer && v == succession.Impostor:
		return true, impostorFault(node)
	}
	return false, nil
}

// isImpostor reports whether another machine votes under the name of this one, by the newest list,
// also if the copy may be newer: the voters sign the list, and any host can write the records.
func (n *newcomers) isImpostor(node identity.Node, key identity.Pin) bool {
	v, _ := n.list.Judge(node, key)
	return v == succession.Impostor
}

func impostorFault(node identity.Node) error {
	return fault.New(fault.Forbidden, "%s: another machine has that name and votes, by the list of the mesh's voters", node).About(node.Name)
}
