package membership

import (
	"maps"
	"sync"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port"
)

// Group is what an Admission asks of the replicated store's group; *raftstore.Store
// implements it. Its methods must not block.
type Group interface {
	// FeatureLevel returns the feature level of this host's copy of the state.
	FeatureLevel() uint32
	// HearsLeader reports whether the leader's entries reach this replica.
	HearsLeader() bool
}

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
// host that was off for long may know nobody who leads today. It takes machines that it
// does not know, but only for what brings its copy up to date: to be told by them as a
// replica, and to ask them. It serves them nothing. But one
// that somebody made with the CA's key can then feed its replica as a leader would, with records
// of the attacker's, and so take the host over.
//
// Below level.Apart every machine without a record is taken for newer, as earlier versions
// do. So it is on a host that has no copy yet.
type newcomers struct {
	group Group

	mu          sync.Mutex
	silentSince time.Time // zero: the leader is heard
	until       map[newcomer]time.Time
}

type newcomer struct {
	node identity.Node
	key  identity.Pin
}

func newNewcomers(group Group) *newcomers {
	n := &newcomers{group: group, until: map[newcomer]time.Time{}}
	n.look()
	return n
}

// look notes whether the leader is heard now.
func (n *newcomers) look() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookLocked(time.Now())
}

func (n *newcomers) lookLocked(now time.Time) {
	switch {
	case n.group.HearsLeader():
		n.silentSince = time.Time{}
	case n.silentSince.IsZero():
		n.silentSince = now
	}
	maps.DeleteFunc(n.until, func(_ newcomer, end time.Time) bool { return now.After(end) })
}

// takes reports whether a machine that the copy does not know may have a connection.
func (n *newcomers) takes(peer port.Peer) bool {
	if n.group.FeatureLevel() < level.Apart {
		return true
	}
	if peer.Proto != port.ProtoRaft && (peer.Proto != port.ProtoStore || !peer.Dialled) {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	n.lookLocked(now)
	who := newcomer{peer.Node, peer.Key}
	if _, ok := n.until[who]; ok {
		return true
	}
	if n.silentSince.IsZero() || now.Sub(n.silentSince) < newcomerSilence || len(n.until) >= maxNewcomers {
		return false
	}
	n.until[who] = now.Add(newcomerTime)
	return true
}

// keeps reports whether such a machine may keep the connections that it has.
func (n *newcomers) keeps(peer port.Peer) bool {
	if n.group.FeatureLevel() < level.Apart {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookLocked(time.Now())
	_, ok := n.until[newcomer{peer.Node, peer.Key}]
	return ok
}
