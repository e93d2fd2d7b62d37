package mesh

import (
	"sync"
	"time"
	"unsafe"
)

// clock is the wall clock of a host, which can be wrong, be set and run at another rate,
// while the monotonic clock goes on. It outlives the agents.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration // how far it was ahead at the time since
	rate  float64       // of a second that passes, what it goes on by besides
	since time.Time
}

// SetClock sets the wall clock of the host so that it is ahead by a time, which may be
// negative, and runs faster by a share from now on.
func (h *Host) SetClock(ahead time.Duration, faster float64) {
	h.mesh.History.note(h.Name, "the clock is set: it is ahead by %s, and runs faster by %g", ahead, faster)
	h.clock.mu.Lock()
	defer h.clock.mu.Unlock()
	h.clock.ahead, h.clock.rate, h.clock.since = ahead, faster, time.Now()
}

// Now returns what the wall clock of the host shows, with a reading of the monotonic clock,
// which nobody can set. It can be compared with other results of Now only.
func (h *Host) Now() time.Time {
	now := time.Now()
	h.clock.mu.Lock()
	defer h.clock.mu.Unlock()
	return shiftWall(now, h.clock.ahead+time.Duration(h.clock.rate*float64(now.Sub(h.clock.since))))
}

// bootTime returns the time since the host was made.
func (h *Host) bootTime() time.Duration { return time.Since(h.booted) }

// wallTime is a time.Time that has a monotonic reading, as package time lays it out: a bit
// that says so, 33 bits of seconds since 1885, and 30 bits of nanoseconds. Package time has
// no function that shifts one reading and leaves the other, as setting a clock does. In a
// synctest bubble its times have no monotonic reading at all.
type wallTime struct {
	wall uint64
	mono int64
	loc  *time.Location
}

// shiftWall returns a time whose wall reading is shifted, and whose monotonic reading is
// not.
func shiftWall(t time.Time, by time.Duration) time.Time {
	const hasMonotonic = 1 << 63
	begin := time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC)
	shifted := t.Add(by)
	*(*wallTime)(unsafe.Pointer(&shifted)) = wallTime{
		wall: hasMonotonic | uint64(shifted.Unix()-begin.Unix())<<30 | uint64(shifted.Nanosecond()), mono: t.UnixNano(), loc: time.Local,
	}
	return shifted
}
