package stewards

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestSightings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Sightings[string]
		expect := func(name, value string, stamped, want time.Duration) {
			t.Helper()
			if got := s.Age(name, value, stamped); got != want {
				t.Errorf("%s has been %s for %s, want %s", name, value, got, want)
			}
		}
		expect("a", "ready", time.Hour, time.Hour) // nobody saw it begin
		expect("b", "ready", -time.Hour, 0)        // a clock that is ahead
		time.Sleep(time.Minute)
		expect("a", "ready", 5*time.Hour, time.Hour+time.Minute) // clocks are set
		expect("b", "ready", -time.Hour, time.Minute)
		expect("a", "dead", time.Hour, 0) // the change was seen
		time.Sleep(time.Second)
		expect("a", "dead", time.Hour, time.Second)
		expect("a", "ready", time.Hour, 0)
		s.Forget("a")
		expect("a", "ready", time.Hour, time.Hour)
	})
}
