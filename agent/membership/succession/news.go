package succession

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// newsPause is how often the leader tells hosts that are not heard where to find lists,
	// toldAtOnce is how many it tells each time, and tellTime bounds one such call.
	newsPause  = time.Minute
	toldAtOnce = 8
	tellTime   = 3 * time.Second
	// maxNews is how many addresses a host keeps that others have told it.
	maxNews = 4
)

// news holds addresses where lists may be had, as others have told. Strangers can fill it, so it
// is small: each host has one place, and the newest address takes the place of the oldest one.
type news struct {
	mu        sync.Mutex
	addresses []string
	fresh     bool // there is one that nobody was asked at yet
}

func (n *news) add(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fresh = true
	n.addresses = slices.DeleteFunc(n.addresses, func(other string) bool { return hostOf(other) == hostOf(address) })
	n.addresses = append(n.addresses, address)
	n.addresses = n.addresses[max(0, len(n.addresses)-maxNews):]
}

// hostOf returns an address without its port, which who tells of it chooses.
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// take returns the addresses, and whether there is a new one since the last call.
func (n *news) take() (addresses []string, fresh bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fresh, n.fresh = n.fresh, false
	return slices.Clone(n.addresses), fresh
}

// Hear notes that somebody says to have lists at an address. It does not block.
func (k *Keeper) Hear(address string) { k.news.add(address) }

// tellUnheard tells hosts of the mesh that are not heard that this one has lists, if it leads: one that
// was off while all whom it knows were replaced has nobody to ask. Most of these hosts are off.
func (k *Keeper) tellUnheard(ctx context.Context) {
	if k.cfg.Tell == nil || !k.cfg.Group.IsLeader() || time.Since(k.told) < newsPause {
		return
	}
	k.told = time.Now()
	unheard := k.cfg.Unheard()
	var telling sync.WaitGroup
	for range min(toldAtOnce, len(unheard)) {
		k.turn++
		address := unheard[k.turn%len(unheard)]
		telling.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, tellTime)
			defer cancel()
			if err := k.cfg.Tell(ctx, address); err != nil {
				k.cfg.Logger.Debug("a host was not told who has the list of voters", "addr", address, "err", err)
			}
		})
	}
	telling.Wait()
}
