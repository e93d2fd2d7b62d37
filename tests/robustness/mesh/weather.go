package mesh

import (
	"math/rand/v2"
	"sync"
	"time"

	"virtmesh/gossip/gossiptest"
)

// Weather is what a bad link does in one direction. Loss and duplicates concern the packets
// of gossip; streams lose nothing as long as they are not cut.
type Weather struct {
	// Loss and Duplicate are shares, 0 to 1.
	Loss, Duplicate float64
	// Delay is the longest that something takes. Packets overtake each other, streams keep
	// their order.
	Delay time.Duration
}

// SetWeather makes a link good or bad, in one direction, until it changes or all links are
// mended.
func (m *Mesh) SetWeather(from, to string, w Weather) {
	if from == to {
		return
	}
	l := m.links
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bad[[2]string{from, to}] = w
	l.apply()
}

// applyWeather tells the networks how good a link is. The caller holds l.mu.
func (l *links) applyWeather(from, to *Host) {
	w := l.bad[[2]string{from.Name, to.Name}]
	var delay func() time.Duration
	if w.Delay > 0 || from.cpu.starved() || to.cpu.starved() {
		delay = func() time.Duration {
			takes := max(from.cpu.wait(), to.cpu.wait())
			if w.Delay > 0 {
				takes += rand.N(w.Delay)
			}
			return takes
		}
	}
	l.gossip.SetWeather(from.Name, to.Name, gossiptest.Weather{Loss: w.Loss, Duplicate: w.Duplicate, Delay: delay})
	l.calls.Slow(from.address, to.address, delay)
}

// HangUp breaks all connections of a host, as a reset of its network card does. It can
// open new ones.
func (h *Host) HangUp() { h.mesh.links.calls.Hangup(h.address) }

// Starve takes CPU time away from a host: again and again it stands still, for up to the
// given time, and in between it runs for up to the same time. While it stands still, its
// agent does, sends and receives nothing; what it would have done comes then all at once.
// Zero gives the time back. Guests and timers run on.
func (h *Host) Starve(still time.Duration) {
	l := h.mesh.links
	l.mu.Lock()
	defer l.mu.Unlock()
	h.cpu.starve(still)
	l.apply()
}

// processor is the CPU time of a host.
type processor struct {
	mu    sync.Mutex
	still time.Duration // the longest that the host stands still; zero while it has time
	next  time.Time     // when it stands still next, or began to
	until time.Time     // when it goes on
}

func (p *processor) starve(still time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.still, p.until = still, time.Now()
	p.plan()
}

// plan decides when the host stands still next. The caller holds p.mu.
func (p *processor) plan() {
	if p.still > 0 {
		p.next = p.until.Add(rand.N(p.still))
		p.until = p.next.Add(rand.N(p.still))
	}
}

func (p *processor) starved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.still > 0
}

// wait returns how long the host still stands still; zero while it runs.
func (p *processor) wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.still == 0 {
		return 0
	}
	now := time.Now()
	for !now.Before(p.until) {
		p.plan()
	}
	if now.Before(p.next) {
		return 0
	}
	return p.until.Sub(now)
}

// idle waits until the host has CPU time.
func (p *processor) idle() {
	if wait := p.wait(); wait > 0 {
		time.Sleep(wait)
	}
}
