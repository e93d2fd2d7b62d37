package raftstore

import (
	"cmp"
	"slices"
	"time"
)

// clockRates is by how much the leader waits longer than a lease lasts, as a divisor: the
// rates of any two clocks must not differ by more than that part.
const clockRates = 20

// untilCertain returns how long the leader must wait, on its clock, until a lease that lasts
// ttl on the clock of its holder has certainly run out.
func untilCertain(ttl time.Duration) time.Duration { return ttl + ttl/clockRates }

// leaseTable is what a leader knows of the leases in one reign, see lease_leader.go. All
// times are on the leader's clock.
type leaseTable struct {
	term     uint64
	revision uint64        // of the record of the reign
	longest  time.Duration // no lease that was ever given lasts longer
	began    time.Duration // after the election of this leader, so after all leases of earlier reigns were sent for
	held     map[LeaseHolder]heldLease
	fencing  map[LeaseHolder]int // txns under way that fence the holder
}

// heldLease is a lease that a holder got in this reign, or may have got: it was asked for.
type heldLease struct {
	ttl  time.Duration // of the last request
	ends time.Duration // after which it has certainly run out
}

// renew notes a request that was received at a time. It returns true if the holder had a
// lease in this reign that has certainly run out.
func (t *leaseTable) renew(r LeaseRequest, received time.Duration) (late bool) {
	l, known := t.held[r.LeaseHolder]
	if !known {
		for h, l := range t.held { // earlier boots
			if h.Host == r.Host && l.ends <= received {
				delete(t.held, h)
			}
		}
	}
	t.held[r.LeaseHolder] = heldLease{ttl: r.TTL, ends: max(l.ends, received+untilCertain(r.TTL))}
	return known && l.ends <= received
}

// left returns for how long the holder may still believe that it holds its lease. It may
// have got it from an earlier leader.
func (t *leaseTable) left(h LeaseHolder, now time.Duration) time.Duration {
	ends := max(t.began+untilCertain(t.longest), t.held[h].ends)
	return max(0, ends-now)
}

// figures counts the leases.
func (t *leaseTable) figures(now time.Duration) leaseFigures {
	f := leaseFigures{wait: t.left(LeaseHolder{}, now)}
	for h := range t.held {
		if t.left(h, now) > 0 {
			f.held++
		} else {
			f.expired++
		}
	}
	return f
}

// list returns the leases by host and boot ID.
func (t *leaseTable) list(now time.Duration) []LeaseState {
	list := make([]LeaseState, 0, len(t.held))
	for h, l := range t.held {
		list = append(list, LeaseState{LeaseRequest{h, l.ttl}, t.left(h, now)})
	}
	slices.SortFunc(list, func(a, b LeaseState) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.BootID, b.BootID))
	})
	return list
}
