package executor

import (
	"sync"
	"time"
)

// shutdowns holds when this process first asked each guest to shut down, by UID. The
// time is also recorded with the domain. If that record cannot be written, the time
// here still ends the grace period. The time here takes precedence over the record,
// which is wall-clock time: the clock may be set while the guest shuts down.
type shutdowns struct {
	mu    sync.Mutex
	byUID map[string]time.Time
}

func newShutdowns() *shutdowns { return &shutdowns{byUID: map[string]time.Time{}} }

// noteRequest stores when the guest was first asked.
func (s *shutdowns) noteRequest(uid string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byUID[uid] = at
}

// of returns when the guest was first asked; the zero time when it was not.
func (s *shutdowns) of(uid string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byUID[uid]
}

// dropGuest removes the time of a guest that is gone.
func (s *shutdowns) dropGuest(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byUID, uid)
}
