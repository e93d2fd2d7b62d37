package places

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

// Limits bounds what is taken at the same time. The unit is the caller's: connections, or
// bytes.
type Limits struct {
	// Members and MembersPerSource bound what all members and what one address of a
	// member take. Who is refused at these limits is the newcomer.
	Members, MembersPerSource int
	// Strangers and StrangersPerSource bound what all strangers and what one of their
	// networks takes: an IPv4 address, or the /64 of an IPv6 address, of which its owner
	// has all addresses. Who gives way at these limits is the one who has most.
	Strangers, StrangersPerSource int
}

// Valid reports whether every limit lets somebody in.
func (l Limits) Valid() bool {
	return l.Members > 0 && l.MembersPerSource > 0 && l.Strangers > 0 && l.StrangersPerSource > 0
}

// Table is what is taken now. Its methods may be called at any time from any goroutine.
type Table struct {
	member func(netip.Addr) bool

	mu                 sync.Mutex
	members, strangers class
}

// class is the places of one sort of callers.
type class struct {
	most, perSource int
	taken           int
	sources         map[netip.Prefix]*source
	last            uint64 // the order of the youngest place
	// yields says that places are taken away for newcomers.
	yields bool
}

// source is the places of one address or network, the oldest first.
type source struct {
	taken  int
	places list.List
}

// Place is what somebody has taken.
type Place struct {
	table *Table
	class *class
	key   netip.Prefix
	size  int
	evict func()
	at    *list.Element // nil after it was left or taken away
	order uint64        // counts up from place to place
}

// New returns a table in which nothing is taken. member says whether an address is that of
// a member; it must not block.
func New(limits Limits, member func(netip.Addr) bool) *Table {
	return &Table{
		member:    member,
		members:   class{most: limits.Members, perSource: limits.MembersPerSource, sources: map[netip.Prefix]*source{}},
		strangers: class{most: limits.Strangers, perSource: limits.StrangersPerSource, sources: map[netip.Prefix]*source{}, yields: true},
	}
}

// Take takes size units for an address, and reports whether there was room. If the place is
// taken away for somebody else later, evict is called once, by the goroutine that takes it;
// it must not block. A place of a member is never taken away.
func (t *Table) Take(from netip.Addr, size int, evict func()) (*Place, bool) {
	p := &Place{table: t, size: size, evict: evict}
	if t.member(from) {
		p.class, p.key = &t.members, netip.PrefixFrom(from, from.BitLen())
	} else {
		p.class, p.key = &t.strangers, networkOf(from)
	}
	t.mu.Lock()
	evicted, ok := p.class.takePlace(p)
	t.mu.Unlock()
	for _, old := range evicted {
		old.evict()
	}
	return p, ok
}

// Stranger reports whether the place is that of a stranger.
func (p *Place) Stranger() bool { return p.class.yields }

// Leave gives the place back. It may be called more than once, and after the place was
// taken away.
func (p *Place) Leave() {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	p.class.leave(p)
}

// Taken returns what members and strangers have taken.
func (t *Table) Taken() (members, strangers int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.members.taken, t.strangers.taken
}

// takePlace finds room for a place and returns those that made room for it.
func (c *class) takePlace(p *Place) (evicted []*Place, ok bool) {
	if p.size > c.perSource || p.size > c.most {
		return nil, false
	}
	if !c.yields && (c.of(p.key)+p.size > c.perSource || c.taken+p.size > c.most) {
		return nil, false
	}
	for c.of(p.key)+p.size > c.perSource {
		evicted = append(evicted, c.evictOldest(p.key))
	}
	for c.taken+p.size > c.most {
		evicted = append(evicted, c.evictOldest(c.largest(p.key)))
	}
	s := c.sources[p.key]
	if s == nil {
		s = &source{}
		c.sources[p.key] = s
	}
	s.taken += p.size
	c.taken += p.size
	c.last++
	p.order = c.last
	p.at = s.places.PushBack(p)
	return evicted, true
}

// of returns what a source has taken.
func (c *class) of(key netip.Prefix) int {
	if s := c.sources[key]; s != nil {
		return s.taken
	}
	return 0
}

// largest returns the source that has taken most. If a newcomer's source is one of these,
// it is the one, so that nobody takes a place from those who have no more than himself.
// Among others it is the one that has had its oldest place for longest.
func (c *class) largest(newcomer netip.Prefix) netip.Prefix {
	key, most := newcomer, c.of(newcomer)
	for k, s := range c.sources {
		if s.taken > most || s.taken == most && key != newcomer && s.oldest().order < c.sources[key].oldest().order {
			key, most = k, s.taken
		}
	}
	return key
}

// oldest returns the oldest place of a source; each source has one.
func (s *source) oldest() *Place { return s.places.Front().Value.(*Place) }

// evictOldest takes away the oldest place of a source that has one.
func (c *class) evictOldest(key netip.Prefix) *Place {
	p := c.sources[key].oldest()
	c.leave(p)
	return p
}

func (c *class) leave(p *Place) {
	if p.at == nil {
		return
	}
	s := c.sources[p.key]
	s.places.Remove(p.at)
	p.at = nil
	s.taken -= p.size
	c.taken -= p.size
	if s.places.Len() == 0 {
		delete(c.sources, p.key)
	}
}

// networkOf returns what counts as one stranger.
func networkOf(from netip.Addr) netip.Prefix {
	bits := from.BitLen()
	if from.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(from, bits).Masked()
}

// AddrOf returns the address without port and zone of the other end of a connection or the
// sender of a packet; an IPv4 address that is written as an IPv6 one becomes the former. It
// is the zero Addr for what is no IP address.
func AddrOf(addr net.Addr) netip.Addr {
	var from netip.AddrPort
	switch a := addr.(type) {
	case *net.TCPAddr:
		from = a.AddrPort()
	case *net.UDPAddr:
		from = a.AddrPort()
	case nil:
	default:
		from, _ = netip.ParseAddrPort(addr.String())
	}
	return from.Addr().Unmap().WithZone("")
}
