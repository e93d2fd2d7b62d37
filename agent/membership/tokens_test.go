package membership

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity"
)

// tokenBy is a token of an hour that a host has made now, whose clock is off.
func tokenBy(id string, off time.Duration) identity.TokenRecord {
	made := time.Now().Add(off)
	return identity.TokenRecord{ID: id, Created: made, Expires: made.Add(time.Hour)}
}

func TestAgesOfTokensAreMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ages := &tokenAges{}
		there := tokenBy("there", -20*time.Minute)
		ages.note([]identity.TokenRecord{there})
		behind, ahead := tokenBy("behind", -2*time.Hour), tokenBy("ahead", 2*time.Hour)
		all := []identity.TokenRecord{there, behind, ahead}
		ages.note(all)
		time.Sleep(10 * time.Minute)
		for i, want := range []time.Duration{30 * time.Minute, 10 * time.Minute, 10 * time.Minute} {
			if got := ages.unchanged(all[i]); got != want {
				t.Errorf("%s is %s old, want %s", all[i].ID, got, want)
			}
		}
		// One that is used begins anew, by whatever clock.
		behind.UsedBy = &identity.TokenUse{At: time.Now().Add(-2 * time.Hour)}
		ages.note([]identity.TokenRecord{behind, ahead})
		time.Sleep(time.Minute)
		if got := ages.unchanged(behind); got != time.Minute {
			t.Errorf("it was used %s ago, want a minute", got)
		}
		if got := len(ages.known); got != 2 {
			t.Errorf("%d tokens are known, want 2", got)
		}
	})
}

// An agent that runs sees a token when it is made.
func TestAgentsWatchTheTokens(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	m := found(t, path, config)
	ctx, cancel := context.WithCancel(t.Context())
	var loop sync.WaitGroup
	defer loop.Wait()
	defer cancel()
	loop.Go(func() { _ = m.PruneTokens(ctx, func() bool { return false }) })
	tokens := identity.NewTokens(m.store)
	_, record, err := tokens.Create(ctx, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		m.tokens.mu.Lock()
		known := m.tokens.known[record.ID]
		m.tokens.mu.Unlock()
		if known {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the agent does not know the token")
		}
	}
}
