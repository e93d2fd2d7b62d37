package mesh

import (
	"testing"
	"testing/synctest"
	"time"
)

// A clock that is set shows another time, and measures as before.
func TestClockThatIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Host{Name: "host1", mesh: &Mesh{History: newHistory()}}
		began := time.Now()
		before := h.Now()
		for _, ahead := range []time.Duration{time.Hour, -3 * time.Hour, 0, 1500 * time.Millisecond} {
			h.SetClock(ahead, 0)
			time.Sleep(time.Minute)
			now := h.Now()
			if got := now.Round(0).Sub(time.Now().Round(0)); got != ahead {
				t.Errorf("a clock that is ahead by %s shows a time that is ahead by %s", ahead, got)
			}
			if got, want := now.Sub(before), time.Since(began); got != want {
				t.Errorf("while %s passed, it measured %s", want, got)
			}
		}
		h.SetClock(time.Second, .5)
		time.Sleep(time.Minute)
		if got := h.Now().Round(0).Sub(time.Now().Round(0)); got != 31*time.Second {
			t.Errorf("a clock that runs faster by a half is ahead by %s after a minute, want 31s", got)
		}
	})
}
