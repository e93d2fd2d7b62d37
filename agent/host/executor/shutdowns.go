package executor

import (
	"sync"
	"time"
)

// shutdowns are when this process asked guests to shut down, by UID. The record of
// that is with the domain; this stands in for one that could not be written, so that
// a guest whose records fail is not waited for without end. It goes before the record:
// a record is a time of the clock, which may be set while the guest shuts down.
type shutdowns struct {
	mu    sync.Mutex
	byUID map[string]time.Time
}

func newShutdowns() *shutdowns { return &shutdowns{byUID: map[string]time.Time{}} }

// note keeps when the guest was first asked.
func (s *shutdowns) note(uid string, at time.Time) {
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

// drop is called when the guest is gone.
func (s *shutdowns) drop(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byUID, uid)
}
