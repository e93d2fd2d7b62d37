package places_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"virtmesh/gossip/places"
)

// guest is a place in the model.
type guest struct {
	place   *places.Place
	source  string
	size    int
	evicted *bool
}

// model is what a table should have: by class, the places in the order in which they were
// taken.
type model struct{ members, strangers []guest }

func taken(guests []guest, source string) (n int) {
	for _, g := range guests {
		if source == "" || g.source == source {
			n += g.size
		}
	}
	return n
}

func isMember(addr netip.Addr) bool { return addr.Is4() && addr.As4()[0] == 10 }

// drawSource draws an address, and what counts as its source.
func drawSource(t *rapid.T) (netip.Addr, string) {
	i := rapid.IntRange(1, 4).Draw(t, "source")
	switch rapid.SampledFrom([]string{"member", "v4", "v6"}).Draw(t, "sort") {
	case "member":
		addr := netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i))
		return addr, addr.String()
	case "v4":
		addr := netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i))
		return addr, addr.String()
	}
	host := rapid.IntRange(1, 3).Draw(t, "host") // all of one /64
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%d::%d", i, host)), fmt.Sprintf("2001:db8:0:%d", i)
}

// Whatever callers come and go: no limit is passed, a member is refused only at members'
// limits and never loses a place, and a stranger gives way only to himself, or to one who
// has less than he has.
func TestTableKeepsItsLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := places.Limits{
			Members: rapid.IntRange(1, 12).Draw(t, "members"), MembersPerSource: rapid.IntRange(1, 6).Draw(t, "membersPerSource"),
			Strangers: rapid.IntRange(1, 12).Draw(t, "strangers"), StrangersPerSource: rapid.IntRange(1, 6).Draw(t, "strangersPerSource"),
		}
		table := places.New(limits, isMember)
		var m model
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if all := slices.Concat(m.members, m.strangers); len(all) > 0 && rapid.IntRange(0, 3).Draw(t, "leaves") == 0 {
				gone := rapid.SampledFrom(all).Draw(t, "who")
				gone.place.Leave()
				gone.place.Leave()
				same := func(g guest) bool { return g.place == gone.place }
				m.members, m.strangers = slices.DeleteFunc(m.members, same), slices.DeleteFunc(m.strangers, same)
			} else {
				addr, source := drawSource(t)
				m.take(t, table, limits, addr, guest{source: source, size: rapid.IntRange(1, 3).Draw(t, "size"), evicted: new(bool)})
			}
			members, strangers := table.Taken()
			if members != taken(m.members, "") || strangers != taken(m.strangers, "") {
				t.Fatalf("taken: %d and %d, want %d and %d", members, strangers, taken(m.members, ""), taken(m.strangers, ""))
			}
		}
	})
}

// take takes a place in the table and checks who had to give way for it.
func (m *model) take(t *rapid.T, table *places.Table, limits places.Limits, addr netip.Addr, g guest) {
	var ok bool
	g.place, ok = table.Take(addr, g.size, func() {
		if *g.evicted {
			t.Error("evicted twice")
		}
		*g.evicted = true
	})
	if isMember(addr) {
		fits := taken(m.members, g.source)+g.size <= limits.MembersPerSource && taken(m.members, "")+g.size <= limits.Members
		if ok != fits {
			t.Fatalf("a member that fits (%v) was let in: %v", fits, ok)
		}
		if ok {
			m.members = append(m.members, g)
		}
	} else {
		if fits := g.size <= min(limits.Strangers, limits.StrangersPerSource); ok != fits {
			t.Fatalf("a stranger that can fit (%v) was let in: %v", fits, ok)
		}
		if ok {
			m.checkEvicted(t, limits, g)
			m.strangers = append(m.strangers, g)
		}
	}
	for _, g := range m.members {
		if *g.evicted {
			t.Error("a member lost its place")
		}
	}
	for source := range sources(m.strangers) {
		if n := taken(m.strangers, source); n > limits.StrangersPerSource {
			t.Errorf("%s has %d places", source, n)
		}
	}
	if n := taken(m.strangers, ""); n > limits.Strangers {
		t.Errorf("strangers have %d places", n)
	}
}

// checkEvicted removes from the model those who gave way to a newcomer, and checks that
// they are those who should.
func (m *model) checkEvicted(t *rapid.T, limits places.Limits, newcomer guest) {
	evict := func(source string) {
		i := slices.IndexFunc(m.strangers, func(g guest) bool { return g.source == source })
		if !*m.strangers[i].evicted {
			t.Fatalf("%s keeps its oldest place although %s needs it", source, newcomer.source)
		}
		m.strangers = slices.Delete(m.strangers, i, i+1)
	}
	for taken(m.strangers, newcomer.source)+newcomer.size > limits.StrangersPerSource {
		evict(newcomer.source)
	}
	for taken(m.strangers, "")+newcomer.size > limits.Strangers {
		largest := newcomer.source
		for _, g := range m.strangers { // the oldest first
			if taken(m.strangers, g.source) > taken(m.strangers, largest) {
				largest = g.source
			}
		}
		evict(largest)
	}
	for _, g := range m.strangers {
		if *g.evicted {
			t.Errorf("%s lost a place without need", g.source)
		}
	}
}

func sources(guests []guest) map[string]bool {
	all := map[string]bool{}
	for _, g := range guests {
		all[g.source] = true
	}
	return all
}

func TestAddrOf(t *testing.T) {
	for in, want := range map[net.Addr]string{
		&net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 1}:                "192.0.2.1",
		&net.UDPAddr{IP: net.ParseIP("::ffff:192.0.2.1"), Port: 1}:         "192.0.2.1",
		&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 1}:    "fe80::1",
		&net.UnixAddr{Name: "/run/x", Net: "unix"}:                         "invalid IP",
		&net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 7946, Zone: ""}: "2001:db8::1",
	} {
		if got := places.AddrOf(in).String(); got != want {
			t.Errorf("%v: %s, want %s", in, got, want)
		}
	}
}
