package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	// joinParallel is how many addresses Join contacts at once, so that a few dead
	// ones do not delay it.
	joinParallel = 4
	// joinEnough is the number of reached members after which Join stops.
	joinEnough = 3
	// forgetEvery is how often members whose retention is over are dropped.
	forgetEvery = 10 * time.Second
	// metaTimeout bounds the wait until new metadata has been gossiped.
	metaTimeout = 5 * time.Second
)

// Join brings this member into the mesh of the members at addrs ("host:port", or
// "host" for this member's own port). It stops after three members have been reached
// and returns how many were. It returns an error if none was reached. Addresses of
// dead members do no harm.
func (g *Gossip) Join(ctx context.Context, addrs []string) (int, error) {
	if len(addrs) == 0 {
		return 0, nil
	}
	type answer struct {
		addr string
		err  error
	}
	answers := make(chan answer, len(addrs)) // has room for all, so that no sender blocks
	next, waiting, joined := 0, 0, 0
	var errs []error
	for {
		for ; waiting < joinParallel && next < len(addrs) && joined+waiting < joinEnough; next++ {
			addr := addrs[next]
			if !g.startTask(func() {
				_, err := g.list.Join([]string{addr})
				answers <- answer{addr, err}
			}) {
				return joined, ErrShutdown
			}
			waiting++
		}
		if waiting == 0 {
			break
		}
		select {
		case a := <-answers:
			waiting--
			if a.err != nil {
				errs = append(errs, fmt.Errorf("join %s: %w", a.addr, a.err))
			} else {
				joined++
			}
		case <-g.stop:
			return joined, ErrShutdown
		case <-ctx.Done():
			return joined, errors.Join(append(errs, fmt.Errorf("join: %w", ctx.Err()))...)
		}
	}
	if joined == 0 {
		return 0, errors.Join(errs...)
	}
	return joined, nil
}

// tickLoop drives everything that changes by the passing of time.
func (g *Gossip) tickLoop() {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	last := time.Now()
	lastForget := last
	for {
		select {
		case <-g.stop:
			return
		case <-ticker.C:
		}
		now := time.Now()
		late := max(0, now.Sub(last)-tickInterval)
		last = now
		if late > stallAfter {
			g.log.Debug("this process was stalled", "late", late)
		}
		health := g.list.GetHealthScore()
		g.mu.Lock()
		check, meet := g.detector.tick(now, late, health)
		for _, p := range check {
			g.probeSuspect(p)
		}
		for _, p := range meet {
			g.syncWith(p)
		}
		g.countSuspects()
		g.announceFacts(now)
		if now.Sub(lastForget) >= forgetEvery {
			lastForget = now
			g.forgetGone(now)
		}
		g.mu.Unlock()
	}
}

// probeSuspect probes a suspect in the background. The caller holds the lock.
func (g *Gossip) probeSuspect(p *peer) {
	name, to := p.name, &net.UDPAddr{IP: p.at.ip, Port: int(p.at.port)}
	g.startBackground(g.checks, func() {
		_, err := g.list.Ping(name, to)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.detector.checked(time.Now(), name, err == nil)
		g.countSuspects()
	})
}

// syncWith starts a push-pull with a member that memberlist considers dead or left,
// so that the member learns of it and refutes it. The caller holds the lock.
func (g *Gossip) syncWith(p *peer) {
	addr := p.name + "/" + p.addr
	g.startBackground(g.sends, func() {
		if _, err := g.list.Join([]string{addr}); err != nil {
			g.log.Debug("could not sync with a member that sends packets", "member", addr, "err", err)
		}
	})
}

// forgetGone drops the members whose retention is over, and their facts. The caller
// holds the lock.
func (g *Gossip) forgetGone(now time.Time) {
	for _, p := range g.detector.forgetGone(now, g.config.DeadRetention, g.config.LeftRetention) {
		g.emitEvent(EventForgotten, p)
		g.facts.remove(p.name)
	}
	g.facts.removeOrphans(now, func(name string) bool { return g.detector.peers[name] != nil })
}

// pushMeta makes metaLoop announce the metadata. The caller holds the lock.
func (g *Gossip) pushMeta() {
	select {
	case g.meta <- struct{}{}:
	default:
	}
}

// metaLoop announces new metadata. It is a loop of its own because memberlist's call
// blocks until the metadata has been gossiped.
func (g *Gossip) metaLoop() {
	for {
		select {
		case <-g.stop:
			return
		case <-g.meta:
		}
		if err := g.list.UpdateNode(metaTimeout); err != nil {
			g.log.Debug("announcing metadata is slow", "err", err)
		}
	}
}
