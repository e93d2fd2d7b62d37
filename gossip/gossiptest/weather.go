package gossiptest

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

// Weather is what a bad link does to the packets of one direction. Packets that are
// delayed overtake each other.
type Weather struct {
	Loss, Duplicate float64 // shares, 0 to 1
	// Delay returns how long the next packet takes; nil for no time.
	Delay func() time.Duration
}

// good reports whether the weather does nothing.
func (w Weather) good() bool { return w.Loss == 0 && w.Duplicate == 0 && w.Delay == nil }

// SetWeather says what a link does to packets from one host to another; the zero Weather
// does nothing. Streams are only delayed.
func (n *Network) SetWeather(from, to string, w Weather) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w.good() {
		delete(n.links, [2]string{from, to})
	} else {
		n.links[[2]string{from, to}] = w
	}
}

func (n *Network) weather(from, to string) Weather {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.links[[2]string{from, to}]
}

// delay returns how long something takes in this weather.
func (w Weather) delay() time.Duration {
	if w.Delay == nil {
		return 0
	}
	return w.Delay()
}

// carry delivers a packet, if the link between two hosts lets it through.
func (n *Network) carry(from, to *Host, p *memberlist.Packet) {
	w := n.weather(from.name, to.name)
	if w.good() {
		to.deliver(p)
		return
	}
	if rand.Float64() < w.Loss {
		return
	}
	copies := 1
	if rand.Float64() < w.Duplicate {
		copies = 2
	}
	for range copies {
		again := *p // the receiver may keep the buffer and change it
		again.Buf = slices.Clone(p.Buf)
		time.AfterFunc(w.delay(), func() { to.deliver(&again) })
	}
}
