package port

import (
	"context"
	"sync"
)

// gate bounds the handshakes that run at the same time, in total and per source
// address.
type gate struct {
	slots chan struct{}
	*sourceLimit
}

func newGate(most, perSource int) *gate {
	return &gate{slots: make(chan struct{}, most), sourceLimit: newSourceLimit(perSource)}
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

// sourceLimit bounds how many items each source address has at the same time.
type sourceLimit struct {
	most int

	mu      sync.Mutex
	sources map[string]int
}

func newSourceLimit(most int) *sourceLimit {
	return &sourceLimit{most: most, sources: make(map[string]int)}
}

// enterSource counts one more item for the source and reports whether it is within the
// limit.
func (l *sourceLimit) enterSource(source string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources[source] >= l.most {
		return false
	}
	l.sources[source]++
	return true
}

func (l *sourceLimit) leaveSource(source string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources[source]--; l.sources[source] == 0 {
		delete(l.sources, source)
	}
}
