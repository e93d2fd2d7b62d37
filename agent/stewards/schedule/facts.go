package schedule

import (
	"virtmesh/gossip"
)

// Facts is the source of what placement knows of the hosts.
type Facts interface {
	// Members returns the known hosts, including dead ones. Nobody changes the
	// returned values.
	Members() []gossip.Member
	// Subscribe calls fn after something may have changed, until cancel is
	// called. fn does not block; calls may be merged.
	Subscribe(fn func()) (cancel func())
}

// FromGossip returns the facts that g gathers.
func FromGossip(g *gossip.Gossip) Facts { return gossipFacts{g} }

type gossipFacts struct{ *gossip.Gossip }

var _ Facts = gossipFacts{}

// Subscribe implements Facts.
func (g gossipFacts) Subscribe(fn func()) (cancel func()) {
	sub := g.Gossip.Subscribe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range sub.Events() {
			fn()
		}
	}()
	return func() {
		sub.Close()
		<-done
	}
}
