package stewards

import (
	"testing"
	"testing/synctest"
	"time"
)

// An attempt that failed because its view was behind is run again at once when
// the watch brings what an earlier attempt wrote, but not when it brings what
// it wrote itself.
func TestOnlyNewsEndsABackoff(t *testing.T) {
	for name, test := range map[string]struct {
		revision uint64
		during   bool // it arrives while the attempt is under way
		at       time.Duration
	}{
		"its own write":                    {revision: 2, at: 100 * time.Millisecond},
		"its own write, before it ended":   {revision: 2, during: true, at: 100 * time.Millisecond},
		"a write of the attempt before":    {revision: 1},
		"the same, before it ended":        {revision: 1, during: true},
		"a write of someone else":          {revision: 3},
		"a change of unknown revision":     {revision: 0},
		"what another key's attempt wrote": {revision: 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWakes(100*time.Millisecond, time.Minute)
				defer w.queue.ShutDown()
				attempt := func(fail bool, revision uint64, meanwhile func()) {
					w.nameKey(key(1), 0)
					k, _ := w.queue.Get()
					number, ok := w.beginAttempt(k)
					if !ok {
						t.Fatal("the key is held back")
					}
					w.written.noteWrites(k, number, []uint64{revision})
					meanwhile()
					if fail {
						w.failed(k)
					} else {
						w.succeeded(k, Result{}, true)
					}
					w.queue.Done(k)
				}
				w.written.noteWrites(key(2), 99, []uint64{4})
				attempt(false, 1, func() {})
				arrive := func() { w.nameKey(key(1), test.revision) }
				if test.during {
					attempt(true, 2, arrive)
				} else {
					attempt(true, 2, func() {})
					arrive()
				}
				failed := time.Now()
				k, _ := w.queue.Get()
				if _, ok := w.beginAttempt(k); !ok {
					t.Error("the key came up and is held back")
				}
				if at := time.Since(failed); at != test.at {
					t.Errorf("came up after %v, want %v", at, test.at)
				}
			})
		})
	}
}

// A timer of an earlier back-off does not cut a later one short.
func TestAnOldTimerDoesNotEndTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWakes(time.Second, time.Minute)
		defer w.queue.ShutDown()
		w.nameKey(key(1), 0)
		fail := func() {
			k, _ := w.queue.Get()
			if _, ok := w.beginAttempt(k); !ok {
				t.Fatal("the key is held back")
			}
			w.failed(k)
			w.queue.Done(k)
		}
		fail()               // until 1 s
		w.nameKey(key(1), 7) // news
		fail()               // until 2 s
		k, _ := w.queue.Get()
		if _, ok := w.beginAttempt(k); ok {
			t.Error("the timer of the first failure ended the second back-off")
		}
		w.queue.Done(k)
		fail()
		if took := time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)); took != 2*time.Second {
			t.Errorf("the back-off ended after %v, want 2s", took)
		}
	})
}
