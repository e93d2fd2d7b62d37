package raftstore

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// feedTree is a mesh of the pure parts: slots and searches, without time passing within a step.
type feedTree struct {
	voters  []string
	spares  []string
	zones   map[string]string
	slots   map[string]slots
	sources map[string]string // of each follower that is fed
	now     time.Time
	asks    int
}

func newFeedTree(voters, followers int, zones func(int) string) *feedTree {
	m := &feedTree{zones: map[string]string{}, slots: map[string]slots{}, sources: map[string]string{}, now: time.Now()}
	for i := range voters + followers {
		name := fmt.Sprintf("h%03d", i)
		m.zones[name], m.slots[name] = zones(i), slots{}
		if i < voters {
			m.voters = append(m.voters, name)
		}
	}
	return m
}

// path returns the replicas from a node up to a voter, nil if it is not fed.
func (m *feedTree) path(node string) (path []string) {
	for !slices.Contains(m.voters, node) {
		path = append(path, node)
		if node = m.sources[node]; node == "" || len(path) > len(m.slots) {
			return nil
		}
	}
	return append(path, node)
}

// report is the report of a node, which rises through the whole tree at once.
func (m *feedTree) report(node string) []reportLine {
	for child, o := range m.slots[node] {
		o.report, o.reported = m.report(child), m.now
	}
	own := reportLine{ID: node + "/1", Addr: node, Room: feedSlots - len(m.slots[node])}
	return append([]reportLine{own}, m.slots[node].below(node, m.now)...)
}

// hang lets a node look for a source.
func (m *feedTree) hang(node string) bool {
	known := make([]offer, 0, len(m.voters))
	for _, v := range m.voters {
		m.report(v)
		known = append(known, offer{Node: v, Addr: v, Zone: m.zones[v], Room: 1})
	}
	s := newSearch(node, m.zones[node], known)
	for range maxPath {
		o, ok := s.next()
		if !ok {
			return false
		}
		m.asks++
		path := m.path(o.Node)
		if path == nil || slices.Contains(path, node) {
			continue
		}
		var spares []string
		if len(path) == 1 {
			spares = m.spares
		}
		before := make([]string, 0, feedSlots)
		for n := range m.slots[o.Node] {
			before = append(before, n)
		}
		q := &pullRequest{ID: node + "/1", Addr: node, Zone: m.zones[node]}
		if m.slots[o.Node].admit(q, spares, m.now) {
			for _, n := range before {
				if m.slots[o.Node][n] == nil {
					delete(m.sources, n) // displaced
				}
			}
			m.leave(node)
			m.sources[node] = o.Node
			return true
		}
		s.add(offersBelow(m.slots[o.Node].below(o.Node, m.now), len(path)-1, q.Zone, node))
	}
	return false
}

func (m *feedTree) leave(node string) {
	if src := m.sources[node]; src != "" {
		delete(m.slots[src], node)
	}
	delete(m.sources, node)
}

// hangAll lets every follower without a source look for one, until all have one.
func (m *feedTree) hangAll(t interface{ Fatalf(string, ...any) }, alive []string) {
	for range 20 {
		all := true
		for _, node := range alive {
			if !slices.Contains(m.voters, node) && m.path(node) == nil && !m.hang(node) {
				all = false
			}
		}
		for _, node := range alive {
			all = all && m.path(node) != nil
		}
		if all {
			return
		}
	}
	t.Fatalf("some followers find no source")
}

// TestTreeOfFeeds: whatever the order in which followers come, die and move, all are fed,
// nobody feeds more than a few or itself, spares are fed by voters, and the tree is flat.
func TestTreeOfFeeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		voters := rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "voters")
		n := rapid.IntRange(0, 120).Draw(t, "followers")
		zoneCount := rapid.IntRange(1, 3).Draw(t, "zones")
		m := newFeedTree(voters, n, func(i int) string { return fmt.Sprint(i % zoneCount) })
		var alive []string
		for node := range m.slots {
			alive = append(alive, node)
		}
		slices.Sort(alive)
		alive = rapid.Permutation(alive).Draw(t, "order")
		m.hangAll(t, alive)
		for range rapid.IntRange(0, 10).Draw(t, "deaths") {
			i := rapid.IntRange(0, len(alive)-1).Draw(t, "dead")
			dead := alive[i]
			if slices.Contains(m.voters, dead) {
				continue
			}
			alive = slices.Delete(alive, i, i+1)
			for child := range m.slots[dead] {
				delete(m.sources, child)
			}
			m.leave(dead)
			delete(m.slots, dead)
		}
		m.hangAll(t, alive)
		for _, node := range alive[:min(len(alive), 2)] {
			if !slices.Contains(m.voters, node) {
				m.spares = append(m.spares, node)
			}
		}
		for _, spare := range m.spares {
			if src := m.sources[spare]; !slices.Contains(m.voters, src) && !m.hang(spare) {
				t.Fatalf("spare %s finds no source", spare)
			}
		}
		m.hangAll(t, alive)
		m.check(t, alive)
	})
}

func (m *feedTree) check(t *rapid.T, alive []string) {
	deepest := 0
	for _, node := range alive {
		if got := len(m.slots[node]); got > feedSlots {
			t.Fatalf("%s feeds %d", node, got)
		}
		path := m.path(node)
		if path == nil {
			t.Fatalf("%s is not fed", node)
		}
		if slices.Contains(m.spares, node) && len(path) != 2 {
			t.Fatalf("spare %s is fed through %v", node, path)
		}
		deepest = max(deepest, len(path)-1)
	}
	// Zones come before depth, so each zone may grow a tree of its own.
	full := math.Log(float64(len(alive))+1) / math.Log(feedSlots)
	if float64(deepest) > 2*full+3 {
		t.Fatalf("a follower of %d is %d deep", len(alive), deepest)
	}
}

// TestSearchIsShort: a follower asks few replicas even where hundreds follow.
func TestSearchIsShort(t *testing.T) {
	m := newFeedTree(5, 500, func(int) string { return "" })
	var alive []string
	for node := range m.slots {
		alive = append(alive, node)
	}
	slices.Sort(alive)
	m.hangAll(t, alive)
	deepest := 0
	for _, node := range alive {
		deepest = max(deepest, len(m.path(node))-1)
	}
	if deepest > 4 { // 5 voters feed 20, those 80, those 320, and those the last 80
		t.Errorf("500 followers hang %d deep", deepest)
	}
	if average := float64(m.asks) / 500; average > 8 {
		t.Errorf("a search asks %.1f replicas", average)
	}
}

// TestOffers: room comes first, then the zone, then the depth.
func TestOffers(t *testing.T) {
	list := []offer{
		{Node: "full", Addr: "x", Zone: "a", Depth: 0},
		{Node: "far", Addr: "x", Zone: "b", Depth: 0, Room: 1},
		{Node: "deep", Addr: "x", Zone: "a", Depth: 2, Room: 1},
		{Node: "near", Addr: "x", Zone: "a", Depth: 1, Room: 3},
	}
	s := newSearch("me", "a", list)
	var got []string
	for o, ok := s.next(); ok; o, ok = s.next() {
		got = append(got, o.Node)
	}
	if want := []string{"near", "deep", "far", "full"}; !slices.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
	if !isBetter(list[3], list[1], "a") || isBetter(list[1], list[3], "a") || isBetter(list[2], list[3], "a") || !isBetter(list[3], list[2], "a") {
		t.Error("the nearer zone is better, and within it the smaller depth")
	}
}

// TestYoungerReportCounts: a follower that has moved is still named by its earlier source,
// with what is known from there. That must not hide how it fares, and a report ages also
// while its sender goes on asking.
func TestYoungerReportCounts(t *testing.T) {
	began := time.Now()
	ask := func(s slots, node string, at time.Time, lines ...reportLine) {
		q := &pullRequest{ID: node + "/1", Addr: node}
		if lines != nil {
			q.Report = append([]reportLine{{ID: q.ID}}, lines...)
		}
		if !s.admit(q, nil, at) {
			t.Fatalf("%s got no slot", node)
		}
	}
	now := began.Add(10 * time.Second)
	for range 20 { // the order of slots varies
		s := slots{}
		ask(s, "earlier", began, reportLine{ID: "moved/1", Addr: "moved", Source: "earlier", Depth: 1})
		ask(s, "later", now, reportLine{ID: "moved/1", Addr: "moved", Source: "later", Depth: 1})
		ask(s, "hostile", now, reportLine{ID: "moved/1", Addr: "moved", Source: "hostile", Depth: 1, Age: -1}, reportLine{ID: "moved/1", Age: math.MaxInt64})
		ask(s, "earlier", now)
		below := s.below("self", now)
		i := slices.IndexFunc(below, func(l reportLine) bool { return l.ID == "moved/1" })
		if len(below) != 4 || i < 0 || below[i].Source != "later" || below[i].Age != 0 {
			t.Fatalf("reported as %+v", below)
		}
		if below = s.below("self", now.Add(time.Second)); below[i].Age != time.Second {
			t.Fatalf("a second later it was heard %v ago", below[i].Age)
		}
	}
}
