package schedule

import (
	"virtmesh/gossip"
)

// Facts is the source of what placement knows of the hosts.
type Facts interface {
	// Members returns the known hosts, including dead ones. Nobody changes the
	// returned values.
	Members() []gossip.Member
	// Member returns one of them, and false if it is not known.
	Member(name string) (gossip.Member, bool)
	// Subscribe calls fn with the name of a host after something about it may have
	// changed, and with an empty name after that may be so for any of them, until
	// cancel is called. fn does not block; calls may be merged.
	Subscribe(fn func(host string)) (cancel func())
}

// FromGossip returns the facts that g gathers.
func FromGossip(g *gossip.Gossip) Facts { return gossipFacts{g} }

type gossipFacts struct{ *gossip.Gossip }

var _ Facts = gossipFacts{}

// Subscribe implements Facts.
func (g gossipFacts) Subscribe(fn func(host string)) (cancel func()) {
	sub := g.Gossip.Subscribe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev := range sub.Events() {
			fn(ev.Member.Name) // empty for EventResync
		}
	}()
	return func() {
		sub.Close()
		<-done
	}
}
