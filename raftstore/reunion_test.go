package raftstore

import (
	"testing"
	"testing/synctest"
	"time"
)

// An entry waits a quarter of an entry's time for the writers of the last one, and 50 ms at
// most; and not at all, for a while, after it waited for most of them in vain.
func TestReunion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took = 20 * time.Millisecond
		var r reunion
		waits := func(have, complete int) time.Duration {
			begin := time.Now()
			if late := r.late(have); late != nil {
				<-late
			}
			r.end(complete)
			return time.Since(begin)
		}
		if got := waits(1, 1); got != 0 {
			t.Errorf("the first entry waits %s", got)
		}
		r.plan(1, 0, took)
		if got := waits(1, 1); got != 0 {
			t.Errorf("a lone writer waits %s", got)
		}
		r.plan(1, 1, took)
		if got := waits(1, 2); got != took/reunionPart {
			t.Errorf("one of two waits %s for the other", got)
		}
		r.plan(2, 0, took)
		if got := waits(2, 2); got != 0 {
			t.Errorf("an entry that has all waits %s", got)
		}
		r.plan(10, 0, took)
		if got := waits(1, 10); got != took/reunionPart {
			t.Errorf("one of ten waits %s for the others", got)
		}
		r.plan(2, 0, 10*time.Minute)
		if got := waits(1, 2); got != reunionMost {
			t.Errorf("after a disk that hung for ten minutes, one of two waits %s", got)
		}
		r.plan(10, 0, took)
		waits(1, 1)
		for range reunionRest {
			r.plan(10, 0, took)
			if got := waits(1, 1); got != 0 {
				t.Fatalf("waits %s for writers who did not come back", got)
			}
		}
		r.plan(10, 0, took)
		if got := waits(1, 10); got == 0 {
			t.Error("never waits again")
		}
	})
}
