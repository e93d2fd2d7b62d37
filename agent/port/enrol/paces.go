package enrol

import (
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

const (
	// listsPerSecond is the pace of all strangers together at one sort of request about lists of
	// voters, and listsOfOne that of one network; each may come all at once in a second.
	listsPerSecond, listsOfOne = 40, 10
	// maxPaces bounds the networks that are told apart. Those that come when all are taken share
	// what is left of the pace of all.
	maxPaces = 1024
)

// paces lets strangers in at a pace, so that one that is in a hurry leaves the others theirs. Its
// methods may be called concurrently.
type paces struct {
	all *rate.Limiter

	mu sync.Mutex
	of map[netip.Prefix]*rate.Limiter
}

func newPaces() *paces {
	return &paces{all: rate.NewLimiter(listsPerSecond, listsPerSecond), of: map[netip.Prefix]*rate.Limiter{}}
}

// allow reports whether a request that comes from an address with a port may be answered now.
func (p *paces) allow(from string) bool {
	at, err := netip.ParseAddrPort(from)
	if err != nil {
		return p.all.Allow() // nothing is known of it
	}
	return p.ofNetwork(at.Addr()).Allow() && p.all.Allow()
}

// ofNetwork returns the pace of the network of an address: one customer has 64 bits of IPv6.
func (p *paces) ofNetwork(addr netip.Addr) *rate.Limiter {
	addr = addr.Unmap().WithZone("")
	network := netip.PrefixFrom(addr, min(addr.BitLen(), 64)).Masked()
	p.mu.Lock()
	defer p.mu.Unlock()
	if own := p.of[network]; own != nil {
		return own
	}
	if len(p.of) >= maxPaces {
		for other, pace := range p.of {
			if pace.Tokens() >= listsOfOne { // it has not come for a while
				delete(p.of, other)
			}
		}
	}
	own := rate.NewLimiter(listsOfOne, listsOfOne)
	if len(p.of) < maxPaces {
		p.of[network] = own
	}
	return own
}
