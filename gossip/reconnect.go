package gossip

import (
	"math/rand/v2"
	"time"
)

// reconnectGrowth is the share of the time that a member has been missing after which
// the mesh contacts it once more.
const reconnectGrowth = 10

// missing is a member that ought to be in the mesh and is not live.
type missing struct {
	addr  string // "name/host:port"
	since time.Time
}

// reconnectLoop contacts members that are dead, and seeds that are not live.
// memberlist forgets dead members, so without this loop two halves of a mesh would
// never find each other again. Without the seeds, two halves that were started apart,
// or that were apart for longer than DeadRetention, would not either.
func (g *Gossip) reconnectLoop() {
	seen := make(map[string]time.Time)
	for {
		// The pause is random, so that members do not all act at the same time.
		pause := g.config.ReconnectInterval/2 + rand.N(g.config.ReconnectInterval)
		select {
		case <-g.stop:
			return
		case <-time.After(pause):
		}
		list, live := g.missingMembers(seen, time.Now())
		addr, ok := g.pickMissing(list, live, time.Now())
		if !ok {
			continue
		}
		if _, err := g.list.Join([]string{addr}); err != nil {
			g.log.Debug("a missing member does not answer", "addr", addr, "err", err)
		}
	}
}

// missingMembers returns the dead members and the seeds that are not live, and how many
// members are live. seen holds since when the missing seeds have been missing that the
// detector does not know; missingMembers updates it.
func (g *Gossip) missingMembers(seen map[string]time.Time, now time.Time) (list []missing, live int) {
	var seeds []Seed
	if g.config.Seeds != nil {
		seeds = g.config.Seeds()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.detector.peers {
		if p.state == Dead {
			list = append(list, missing{p.name + "/" + p.addr, p.since})
		}
	}
	for _, seed := range seeds {
		p := g.detector.peers[seed.Name]
		switch {
		case seed.Name == g.name:
		case p == nil:
			if _, ok := seen[seed.Name]; !ok {
				seen[seed.Name] = now
			}
			list = append(list, missing{seed.Name + "/" + seed.Addr, seen[seed.Name]})
			continue
		case p.state == Left, p.state == Dead && p.addr != seed.Addr:
			// It may be back, perhaps under another address.
			list = append(list, missing{seed.Name + "/" + seed.Addr, p.since})
		}
		delete(seen, seed.Name)
	}
	return list, g.detector.live()
}

// pickMissing chooses a member to contact now, or none. Each live member chooses by
// chance, so that the whole mesh contacts each missing member about once per interval.
// The more live members there are, the less likely each of them is to choose one.
func (g *Gossip) pickMissing(list []missing, live int, now time.Time) (addr string, ok bool) {
	if len(list) == 0 || rand.IntN(max(1, live)) >= len(list) {
		return "", false
	}
	chosen := list[rand.IntN(len(list))]
	interval := min(max(now.Sub(chosen.since)/reconnectGrowth, g.config.ReconnectInterval), g.config.ReconnectMax)
	if rand.N(interval) >= g.config.ReconnectInterval {
		return "", false
	}
	return chosen.addr, true
}
