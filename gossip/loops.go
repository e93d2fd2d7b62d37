package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

const (
	// joinParallel is how many addresses Join calls at once, so that a few
	// dead ones do not hold it up.
	joinParallel = 4
	// joinEnough is how many successes Join is content with.
	joinEnough = 3
	// forgetEvery is how often members that are gone are looked for.
	forgetEvery = 10 * time.Second
	// metaTimeout bounds the wait for new metadata to be passed on.
	metaTimeout = 5 * time.Second
)

// Join brings this member into the mesh of any of the addresses ("host:port",
// or "host" with our own port). It returns how many were reached; it stops at
// three, and it is an error when none was. More addresses than are alive do no
// harm.
func (g *Gossip) Join(ctx context.Context, addrs []string) (int, error) {
	if len(addrs) == 0 {
		return 0, nil
	}
	type answer struct {
		addr string
		err  error
	}
	answers := make(chan answer, len(addrs)) // so that nobody waits for us
	next, waiting, joined := 0, 0, 0
	var errs []error
	for {
		for ; waiting < joinParallel && next < len(addrs) && joined+waiting < joinEnough; next++ {
			addr := addrs[next]
			if !g.task(func() {
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

// tickLoop drives everything that depends on time alone.
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
			g.log.Debug("this process was stalled", "for", late)
		}
		health := g.list.GetHealthScore()
		g.mu.Lock()
		check, meet := g.detector.tick(now, late, health)
		for _, p := range check {
			g.check(p)
		}
		for _, p := range meet {
			g.meet(p)
		}
		g.watching()
		g.announce(now)
		if now.Sub(lastForget) >= forgetEvery {
			lastForget = now
			g.forget(now)
		}
		g.mu.Unlock()
	}
}

// check probes a suspect. The caller holds the lock.
func (g *Gossip) check(p *peer) {
	name, to := p.name, &net.UDPAddr{IP: p.at.ip, Port: int(p.at.port)}
	g.background(g.checks, func() {
		_, err := g.list.Ping(name, to)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.detector.checked(time.Now(), name, err == nil)
		g.watching()
	})
}

// meet compares everything with a member that memberlist has for dead, so that
// the member learns of it and refutes. The caller holds the lock.
func (g *Gossip) meet(p *peer) {
	addr := p.name + "/" + p.addr
	g.background(g.sends, func() {
		if _, err := g.list.Join([]string{addr}); err != nil {
			g.log.Debug("a member that sends packets cannot be joined", "member", addr, "err", err)
		}
	})
}

// forget drops what has been gone for long enough. The caller holds the lock.
func (g *Gossip) forget(now time.Time) {
	for _, p := range g.detector.forget(now, g.config.DeadRetention, g.config.LeftRetention) {
		g.emit(EventForgotten, p)
		g.facts.remove(p.name)
	}
	g.facts.removeOrphans(now, func(name string) bool { return g.detector.peers[name] != nil })
}

// pushMeta asks for the metadata to be announced. The caller holds the lock.
func (g *Gossip) pushMeta() {
	select {
	case g.meta <- struct{}{}:
	default:
	}
}

// metaLoop announces new metadata, for which memberlist wants to be waited.
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

// reconnectLoop calls a dead member now and then. memberlist forgets its dead,
// so without this two halves of a mesh would never find each other again.
func (g *Gossip) reconnectLoop() {
	for {
		// Not in step with the others.
		pause := g.config.ReconnectInterval/2 + rand.N(g.config.ReconnectInterval)
		select {
		case <-g.stop:
			return
		case <-time.After(pause):
		}
		addr, ok := g.pickDead()
		if !ok {
			continue
		}
		if _, err := g.list.Join([]string{addr}); err != nil {
			g.log.Debug("a dead member does not answer", "addr", addr)
		}
	}
}

// pickDead chooses a dead member to call. The chance of choosing any falls with
// the number of members that might, so that the mesh as a whole makes about one
// call for each dead member in each interval.
func (g *Gossip) pickDead() (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	dead, live := g.detector.count[Dead], max(1, g.detector.live())
	if dead == 0 || rand.IntN(live) >= dead {
		return "", false
	}
	n := rand.IntN(dead)
	for _, p := range g.detector.peers {
		if p.state != Dead {
			continue
		}
		if n--; n < 0 {
			return p.name + "/" + p.addr, true
		}
	}
	return "", false
}
