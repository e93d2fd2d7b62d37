package objects

import "time"

// Clock reads the wall clock of a host. The nil Clock reads the system's. What it returns
// has a monotonic reading too, as the result of time.Now has, so that the time between two
// readings is right even if the clock was set meanwhile.
//
// The clocks of two hosts may be hours apart. A time that another host has stored is for
// people to read. How long something has lasted is measured by the host that wants to
// know it, see stewards.Sightings.
type Clock func() time.Time

// Now returns what the clock shows.
func (c Clock) Now() time.Time {
	if c == nil {
		return time.Now()
	}
	return c()
}
