package raftstore

import (
	"cmp"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// The tree of feeds. Voters are its roots. A source feeds at most feedSlots followers. A
// follower that looks for a source asks the voters first; a full one names those below it
// that have room. What is in this file is pure: it decides, and follow_feed.go acts.

// feedSlots is how many followers one replica feeds.
const feedSlots = 4

// slots are the followers that one replica feeds, by their nodes.
type slots map[string]*slot

type slot struct {
	id       string // raft ID
	addr     string
	zone     string
	heard    time.Time // when the follower last asked
	report   []reportLine
	reported time.Time // when it sent the report
}

// admit gives a follower a slot, or keeps the one that it has, and reports whether it has
// one. Where spares come first, a spare takes the slot of a follower that is none.
func (s slots) admit(q *pullRequest, spares []string, now time.Time) bool {
	node := nodeOf(raft.ServerID(q.ID))
	own := s[node]
	if own == nil {
		if len(s) >= feedSlots && !s.displaceFor(node, spares) {
			return false
		}
		own = new(slot)
		s[node] = own
	}
	own.id, own.addr, own.zone, own.heard = q.ID, q.Addr, q.Zone, now
	if q.Report != nil {
		own.report, own.reported = q.Report, now
	}
	return true
}

// hasRoom reports whether admit would give node a slot, without doing it.
func (s slots) hasRoom(node string, spares []string) bool {
	return s[node] != nil || len(s) < feedSlots || s.victim(node, spares) != ""
}

// displaceFor frees a slot for a spare.
func (s slots) displaceFor(node string, spares []string) bool {
	victim := s.victim(node, spares)
	delete(s, victim)
	return victim != ""
}

// victim returns the node that loses its slot to a spare: the one that feeds the fewest.
func (s slots) victim(node string, spares []string) (victim string) {
	if !slices.Contains(spares, node) {
		return ""
	}
	for other, o := range s {
		if slices.Contains(spares, other) {
			continue
		}
		if v := s[victim]; v == nil || len(o.report) < len(v.report) || len(o.report) == len(v.report) && other < victim {
			victim = other
		}
	}
	return victim
}

// lapse frees the slots of followers that have not asked since a time.
func (s slots) lapse(since time.Time) {
	for node, o := range s {
		if o.heard.Before(since) {
			delete(s, node)
		}
	}
}

// below reports on everything below this replica, which is called self. A follower that has
// moved is named by its earlier source too, for a while: the younger line counts.
func (s slots) below(self string, now time.Time) []reportLine {
	youngest := map[string]reportLine{}
	for node, o := range s {
		for i, line := range o.report {
			if line.Age < 0 {
				continue // no clock says so
			}
			line.Depth++
			if i == 0 { // the follower itself
				line.ID, line.Addr, line.Zone, line.Source, line.Depth = o.id, o.addr, o.zone, self, 1
				line.Age += now.Sub(o.heard)
			} else if n := nodeOf(raft.ServerID(line.ID)); s[n] == nil && n != node && n != self {
				line.Age += now.Sub(o.reported)
			} else {
				continue // it has moved
			}
			if line.Age < o.report[i].Age {
				continue // longer ago than can be said
			}
			if known, ok := youngest[line.ID]; !ok || line.Age < known.Age {
				youngest[line.ID] = line
			}
		}
	}
	list := slices.SortedFunc(maps.Values(youngest), func(a, b reportLine) int {
		return cmp.Or(cmp.Compare(a.Depth, b.Depth), cmp.Compare(a.ID, b.ID))
	})
	return list[:min(len(list), maxReport-1)]
}

// offersBelow names replicas below one at a depth that may have room for a follower in a zone:
// those that have some, in its zone and high up first, and then the followers of this one.
func offersBelow(below []reportLine, depth int, zone, asker string) []offer {
	var list []offer
	for _, line := range below {
		node := nodeOf(raft.ServerID(line.ID))
		if node != asker && (line.Room > 0 || line.Depth == 1) {
			list = append(list, offer{Node: node, Addr: line.Addr, Zone: line.Zone, Depth: depth + line.Depth, Room: line.Room})
		}
	}
	sortOffers(list, zone, asker)
	return list[:min(len(list), maxOffers)]
}

// sortOffers sorts the best offer for a node in a zone first: one with room, in its zone,
// high up in the tree. Equal ones are spread over the nodes that choose.
func sortOffers(list []offer, zone, node string) {
	slices.SortFunc(list, func(a, b offer) int {
		return cmp.Or(
			order(a.Room > 0)-order(b.Room > 0),
			order(a.Zone == zone)-order(b.Zone == zone),
			cmp.Compare(a.Depth, b.Depth),
			cmp.Compare(spread(node, a.Node), spread(node, b.Node)),
			cmp.Compare(a.Node, b.Node))
	})
}

func spread(a, b string) uint32 { return crc32.Checksum([]byte(a+"|"+b), castagnoli) }

// isBetter reports whether a follower in a zone should move from one source to another.
func isBetter(to, from offer, zone string) bool {
	if near := to.Zone == zone; near != (from.Zone == zone) {
		return near
	}
	return to.Depth < from.Depth
}

// search is one search for a source.
type search struct {
	node, zone string
	open       []offer
	asked      map[string]bool
}

// newSearch begins with the offers that are known.
func newSearch(node, zone string, known []offer) *search {
	s := &search{node: node, zone: zone, asked: map[string]bool{node: true}}
	s.add(known)
	return s
}

func (s *search) add(offers []offer) {
	for _, o := range offers {
		if !s.asked[o.Node] && o.Addr != "" && o.Depth >= 0 && o.Depth < maxPath {
			s.open = append(s.open, o)
		}
	}
}

// next returns the best replica that has not been asked yet.
func (s *search) next() (offer, bool) {
	sortOffers(s.open, s.zone, s.node)
	for len(s.open) > 0 {
		best := s.open[0]
		s.open = s.open[1:]
		if !s.asked[best.Node] {
			s.asked[best.Node] = true
			return best, true
		}
	}
	return offer{}, false
}
