package membership

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestWitness: what the leader's answers say about hosts that gossip does not list.
func TestWitness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recorded := []string{"b", "c", "d", "e", "f"}
		silences := map[string]time.Duration{"a": 0, "b": time.Second, "c": time.Minute}
		var fail error
		asked := 0
		w := NewWitness(nil, nil)
		w.recorded = func() []string { return recorded }
		w.silencesOf = func(context.Context) (map[string]time.Duration, error) {
			asked++
			return silences, fail
		}
		w.limit = func() time.Duration { return 10 * time.Second }
		for host, want := range map[string]bool{"b": false, "c": true, "d without a replica": true} {
			if got, err := w.Silent(t.Context(), host); err != nil || got != want {
				t.Errorf("%s is silent: %v, %v; want %v", host, got, err, want)
			}
		}
		if asked != 1 {
			t.Errorf("asked the leader %d times at once", asked)
		}
		for live, want := range map[int]bool{6: false, 5: false, 4: false, 3: true, 1: true} {
			if got := w.FarFewer(live); got != want {
				t.Errorf("%d of 6 hosts are far fewer: %v", live, got)
			}
		}
		if ok, err := w.Confirm(t.Context(), []string{"a", "b"}); err != nil || !ok {
			t.Errorf("c to f are silent: %v, %v", ok, err)
		}
		if ok, err := w.Confirm(t.Context(), []string{"a", "c"}); err != nil || ok {
			t.Errorf("b answers the leader, and is confirmed to be gone: %v", err)
		}
		// An old answer is not used, and no answer is no confirmation.
		fail = errors.New("no leader")
		time.Sleep(time.Minute)
		if ok, err := w.Confirm(t.Context(), []string{"a", "b"}); !errors.Is(err, fail) || ok {
			t.Errorf("confirmed without a leader: %v, %v", ok, err)
		}
		if _, err := w.Silent(t.Context(), "b"); !errors.Is(err, fail) {
			t.Error(err)
		}
	})
}
