package meshport

import (
	"context"
	"sync"
)

// gate bounds the handshakes that run at once, in all and per source.
type gate struct {
	slots     chan struct{}
	perSource int

	mu      sync.Mutex
	sources map[string]int
}

func newGate(most, perSource int) *gate {
	return &gate{slots: make(chan struct{}, most), perSource: perSource, sources: make(map[string]int)}
}

// enter waits for a free slot and reports whether it got one before ctx ended.
func (g *gate) enter(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	default:
	}
	select {
	case g.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (g *gate) leave() { <-g.slots }

// enterSource reports whether the source may run one more handshake.
func (g *gate) enterSource(source string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sources[source] >= g.perSource {
		return false
	}
	g.sources[source]++
	return true
}

func (g *gate) leaveSource(source string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sources[source]--; g.sources[source] == 0 {
		delete(g.sources, source)
	}
}
