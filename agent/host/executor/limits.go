package executor

import "sync"

// limits holds the guests, by UID, whose emulators' memory this process has tried to limit: a host
// may have no means to do so, and one attempt tells.
type limits struct {
	mu    sync.Mutex
	tried map[string]bool
}

func newLimits() *limits { return &limits{tried: map[string]bool{}} }

// noteTry stores that it was tried for a guest.
func (l *limits) noteTry(uid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried[uid] = true
}

// wasTried reports whether it was tried for a guest.
func (l *limits) wasTried(uid string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tried[uid]
}

// dropGuest forgets a guest that is gone.
func (l *limits) dropGuest(uid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.tried, uid)
}
