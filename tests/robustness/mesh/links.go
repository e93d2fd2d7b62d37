package mesh

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"virtmesh/gossip/gossiptest"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// Traffic is what a link carries.
type Traffic int

// The kinds of traffic.
const (
	// Gossip is UDP and TCP of the gossip port.
	Gossip Traffic = iota
	// Calls is everything on the mesh port: Raft, the calls of the store, and the calls
	// between agents.
	Calls
	kindsOfTraffic
)

// String returns the kind's name.
func (t Traffic) String() string { return [...]string{"gossip", "calls"}[t] }

// AllTraffic names both kinds.
func AllTraffic() []Traffic { return []Traffic{Gossip, Calls} }

// links are the links between hosts: two simulated networks with the same faults.
type links struct {
	gossip *gossiptest.Network
	calls  *raftstoretest.Network
	keys   *raftstoretest.Keys

	mu    sync.Mutex
	hosts []*Host
	cut   [kindsOfTraffic]map[[2]string]bool // directed, by names
	bad   map[[2]string]Weather              // the same
	off   map[string]bool                    // hosts without power, or whose agent ends
}

func newLinks() *links {
	l := &links{gossip: gossiptest.NewNetwork(), calls: raftstoretest.NewNetwork(), keys: raftstoretest.NewKeys(), off: map[string]bool{}, bad: map[[2]string]Weather{}}
	for k := range l.cut {
		l.cut[k] = map[[2]string]bool{}
	}
	return l
}

// add connects a host.
func (l *links) add(h *Host) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.gossipAddress = l.gossip.Host(h.Name).Addr()
	l.hosts = append(l.hosts, h)
	l.off[h.Name] = true
	l.apply()
}

// all returns all hosts.
func (l *links) all() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.hosts)
}

// at returns the host at a mesh address, nil if there is none.
func (l *links) at(address string) *Host {
	for _, h := range l.all() {
		if h.address == address {
			return h
		}
	}
	return nil
}

// peerOf returns the name of the host at the other end of a connection.
func (l *links) peerOf(conn net.Conn) string {
	if h := l.at(raftstoretest.PeerAddr(conn)); h != nil {
		return h.Name
	}
	return ""
}

// named returns the host of a name, nil if there is none.
func (l *links) named(name string) *Host {
	for _, h := range l.all() {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// setOff says that a host can neither send nor receive, or that it can again.
func (l *links) setOff(name string, off bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.off[name] = off
	l.apply()
}

// cutLink cuts what from sends to to.
func (l *links) cutLink(from, to string, traffic ...Traffic) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(traffic) == 0 {
		traffic = AllTraffic()
	}
	for _, kind := range traffic {
		l.cut[kind][[2]string{from, to}] = true
	}
	l.apply()
}

// heal mends all links.
func (l *links) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, cut := range l.cut {
		clear(cut)
	}
	clear(l.bad)
	l.apply()
}

// apply tells the networks the faults. The caller holds l.mu.
func (l *links) apply() {
	for _, from := range l.hosts {
		for _, to := range l.hosts {
			if from != to {
				l.gossip.Cut(from.Name, to.Name, l.broken(Gossip, from, to))
				l.calls.Lose(from.address, to.address, l.broken(Calls, from, to))
				l.applyWeather(from, to)
			}
		}
	}
}

// broken reports whether what from sends to to is lost. The caller holds l.mu.
func (l *links) broken(kind Traffic, from, to *Host) bool {
	return l.off[from.Name] || l.off[to.Name] || l.cut[kind][[2]string{from.Name, to.Name}]
}

// reach reports whether two hosts can call each other.
func (l *links) reach(a, b *Host) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return a == b || !l.broken(Calls, a, b) && !l.broken(Calls, b, a)
}

// Cut cuts a host off from all others, for the given traffic; all traffic if none is given.
func (m *Mesh) Cut(name string, traffic ...Traffic) {
	for _, other := range m.names {
		if other != name {
			m.links.cutLink(name, other, traffic...)
			m.links.cutLink(other, name, traffic...)
		}
	}
}

// CutOneWay loses what one host sends to another, of the given traffic; all of it if none
// is given. The other way stays open.
func (m *Mesh) CutOneWay(from, to string, traffic ...Traffic) {
	if from == to {
		return
	}
	m.links.cutLink(from, to, traffic...)
}

// Split cuts the links between hosts of different groups, for the given traffic; all
// traffic if none is given. A host that is in no group
// keeps its links.
func (m *Mesh) Split(groups [][]string, traffic ...Traffic) {
	for i, group := range groups {
		for j, other := range groups {
			for _, a := range group {
				for _, b := range other {
					if i != j {
						m.links.cutLink(a, b, traffic...)
					}
				}
			}
		}
	}
}

// Heal mends all links. Hosts that are switched off stay off.
func (m *Mesh) Heal() { m.links.heal() }

// layer is the mesh port of a host for one protocol. As the port does, it refuses
// machines that one of the two hosts no longer admits.
type layer struct {
	*raftstoretest.Layer
	agent *agent
	proto string
}

var _ raftstore.StreamLayer = layer{}

// Dial implements raftstore.StreamLayer.
func (l layer) Dial(address string, timeout time.Duration) (net.Conn, error) {
	self := l.agent.host
	other := self.mesh.links.at(address)
	if other != nil && other != self {
		if err := l.agent.admits(other, l.proto, true); err != nil {
			return nil, err
		}
		if peer := other.running(); peer != nil {
			if err := peer.admits(self, l.proto, false); err != nil {
				return nil, fmt.Errorf("%s refuses %s: %w", other.Name, self.Name, err)
			}
		}
	}
	return l.Layer.Dial(address, timeout)
}
