package raftstore

import (
	"sync"
	"time"
)

// awakeTicks is how often a leader reads its awakeClock in the time between two updates of
// autopilot.
const awakeTicks = 4

// awakeClock is the clock by which a leader measures the silences of others. It stands
// still while the leader does: a process that was stopped, or that got no CPU time, has
// asked nobody and heard nobody. It runs while somebody reads it every step; of the time
// between two readings it counts two steps at most. Its times are compared with each other
// only.
type awakeClock struct {
	step time.Duration

	mu   sync.Mutex
	last time.Time     // when it was last read
	lost time.Duration // how long it stood still, in all
}

func newAwakeClock(step time.Duration) *awakeClock {
	return &awakeClock{step: step, last: time.Now()}
}

// now reads the clock.
func (c *awakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.lost += max(0, now.Sub(c.last)-2*c.step)
	c.last = now
	return now.Add(-c.lost)
}

// since returns the time since an earlier reading.
func (c *awakeClock) since(t time.Time) time.Duration { return c.now().Sub(t) }

// run reads the clock until done is closed.
func (c *awakeClock) run(done <-chan struct{}) {
	tick := time.NewTicker(c.step)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.now()
		case <-done:
			return
		}
	}
}
