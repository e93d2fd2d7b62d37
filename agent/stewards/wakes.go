package stewards

import (
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/client-go/util/workqueue"
)

const (
	// freeSelfWakes is how often in a row a reconciler may wake its own key by
	// what it writes before the engine slows it down. A loop that has to read
	// once more what it wrote is called at once; a loop that writes something
	// different each time is held to the back-off.
	freeSelfWakes = 3
	// promptBurst and promptRefill bound how often the changes of others end the
	// back-off of a failing key: that many times at once, then once per refill.
	// Two loops that overwrite each other would otherwise wake each other
	// without end.
	promptBurst  = 10
	promptRefill = 5 * time.Second
	// writeBurst and writeRefill bound how often a key that does not fail may
	// write: that many times at once, then once per refill. What wakes it may come
	// from another loop, for example of another version, that wants the object to
	// be different and overwrites it each time; its own writes may wake it too.
	writeBurst  = 30
	writeRefill = 2 * time.Second
	// sweepAt is the number of states at which the states of quiet keys are
	// dropped.
	sweepAt = 1024
	// heardLimit bounds how many revisions are remembered that name a key while
	// it is handled. All revisions above the limit count as one change by
	// someone else.
	heardLimit = 64
)

// wakes decides when a key is handled. The queue below it holds each key once.
//
// A failing key waits for the end of its back-off. Only news ends the wait
// early: a change that the last reconciliation of the key did not write and so
// has not seen. Any other key is handled when it is named. A key that only its
// own writes name is handled at growing intervals, and a key that writes is
// handled at a bounded rate, whoever names it.
//
// All methods may be called from any goroutine.
type wakes struct {
	queue    workqueue.TypedRateLimitingInterface[Key]
	limiter  workqueue.TypedRateLimiter[Key]
	min, max time.Duration
	written  *written

	mu      sync.Mutex
	states  map[Key]*wakeState
	sweepAt int    // the number of states at which they are swept
	last    uint64 // the number of the last attempt
}

// wakeState is what is remembered of a key that is being handled, fails, or
// wakes itself.
type wakeState struct {
	running bool
	heard   []uint64 // revisions that named the key while it was handled
	attempt uint64   // the last attempt

	failing bool
	due     time.Time // end of the back-off
	pulled  bool      // news has brought the key forward
	prompt  *rate.Limiter

	selfWakes int // reconciliations in a row that wrote, without news between them
	// writes counts the reconciliations that wrote; nil before the first. After too
	// many of them the key rests until restUntil, whoever names it.
	writes    *rate.Limiter
	restUntil time.Time
}

func newWakes(minDelay, maxDelay time.Duration) *wakes {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[Key](minDelay, maxDelay)
	return &wakes{
		queue: workqueue.NewTypedRateLimitingQueue(limiter), limiter: limiter,
		min: minDelay, max: maxDelay, written: newWritten(), states: map[Key]*wakeState{}, sweepAt: sweepAt,
	}
}

// nameKey reports that the change with the revision (zero if unknown) concerns
// key.
func (w *wakes) nameKey(key Key, revision uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.states[key]
	if st == nil || !st.running {
		w.queueNamed(key, st, revision)
		return
	}
	// Only when the current reconciliation has ended is it known whether it
	// wrote this change itself.
	if len(st.heard) >= heardLimit {
		revision = 0
		st.heard = st.heard[:heardLimit-1]
	}
	st.heard = append(st.heard, revision)
}

// isFailing reports whether the last attempt at key failed.
func (w *wakes) isFailing(key Key) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.states[key]
	return st != nil && st.failing
}

// queueNamed queues a key that was named. st may be nil. The caller holds w.mu.
func (w *wakes) queueNamed(key Key, st *wakeState, revision uint64) {
	if st == nil {
		w.queue.Add(key)
		return
	}
	attempt, own := w.written.attemptBy(key, revision)
	switch {
	case st.failing && own && attempt == st.attempt:
		// The last reconciliation wrote this change, so it need not see it.
	case st.failing:
		if st.pulled || st.prompt.Allow() {
			st.pulled = true
			w.queue.Add(key)
		}
	case own:
		w.queue.AddAfter(key, max(w.selfWakeDelay(st.selfWakes), time.Until(st.restUntil)))
	default:
		st.selfWakes = 0
		w.queue.AddAfter(key, time.Until(st.restUntil))
	}
}

// selfWakeDelay returns how long a key waits that has woken itself n times.
func (w *wakes) selfWakeDelay(n int) time.Duration {
	if n <= freeSelfWakes {
		return 0
	}
	return min(w.max, w.min<<min(n-freeSelfWakes-1, 20))
}

// beginAttempt starts an attempt at a key that the queue has returned. ok is
// false if an old timer queued the key and its back-off has not ended yet.
func (w *wakes) beginAttempt(key Key) (attempt uint64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.states[key]
	if st == nil {
		w.sweepStates()
		st = &wakeState{}
		w.states[key] = st
	}
	if wait := time.Until(st.due); st.failing && !st.pulled && wait > 0 {
		// The queue keeps one timer for a key, the earliest.
		w.queue.AddAfter(key, wait)
		return 0, false
	}
	w.last++
	st.running, st.pulled, st.attempt = true, false, w.last
	return w.last, true
}

// succeeded ends an attempt that did not fail.
func (w *wakes) succeeded(key Key, res Result, wrote bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.states[key]
	st.failing = false
	if !res.Pending {
		w.queue.Forget(key)
		st.prompt = nil
	}
	if wrote {
		st.selfWakes++
		if st.writes == nil {
			st.writes = rate.NewLimiter(rate.Every(writeRefill), writeBurst)
		}
		st.restUntil = time.Now().Add(st.writes.Reserve().Delay())
	} else {
		st.selfWakes = 0
	}
	if res.RequeueAfter > 0 {
		w.queue.AddAfter(key, res.RequeueAfter)
	}
	w.endAttempt(key, st)
}

// failed ends an attempt that failed and begins the back-off of its key. It
// returns how often the key has failed.
func (w *wakes) failed(key Key) (failures int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.states[key]
	delay := w.limiter.When(key)
	st.failing, st.due = true, time.Now().Add(delay)
	if st.prompt == nil {
		st.prompt = rate.NewLimiter(rate.Every(promptRefill), promptBurst)
	}
	w.queue.AddAfter(key, delay)
	w.endAttempt(key, st)
	return w.limiter.NumRequeues(key)
}

// endAttempt handles the changes that named the key during its reconciliation.
// The caller holds w.mu.
func (w *wakes) endAttempt(key Key, st *wakeState) {
	heard := st.heard
	st.running, st.heard = false, nil
	for _, revision := range heard {
		w.queueNamed(key, st, revision)
	}
	if st.quiet() {
		delete(w.states, key)
	}
}

// quiet reports that nothing needs to be remembered of the key.
func (st *wakeState) quiet() bool {
	return !st.running && !st.failing && st.selfWakes == 0 && st.prompt == nil &&
		(st.writes == nil || st.writes.Tokens() >= writeBurst)
}

// sweepStates drops the states of keys that have become quiet, now and then.
// The caller holds w.mu.
func (w *wakes) sweepStates() {
	if len(w.states) < w.sweepAt {
		return
	}
	maps.DeleteFunc(w.states, func(_ Key, st *wakeState) bool { return st.quiet() })
	w.sweepAt = max(sweepAt, 2*len(w.states))
}

// dropKey drops what is remembered of a key that is not handled here any more.
func (w *wakes) dropKey(key Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue.Forget(key)
	delete(w.states, key)
}

// rememberWrites is how many of the last writes of a control loop are
// remembered, so that the loop recognizes them when the watch reports them. A
// write that the watch reports later than that counts as someone else's, which
// costs one reconciliation.
const rememberWrites = 1024

// written remembers the revisions that the reconciliations of one control loop
// have written.
type written struct {
	mu   sync.Mutex
	ring []uint64
	next int
	who  map[uint64]writer
}

type writer struct {
	key     Key
	attempt uint64
}

func newWritten() *written {
	return &written{ring: make([]uint64, 0, rememberWrites), who: map[uint64]writer{}}
}

// noteWrites records that an attempt at key wrote the revisions.
func (w *written) noteWrites(key Key, attempt uint64, revisions []uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, revision := range revisions {
		if len(w.ring) < rememberWrites {
			w.ring = append(w.ring, revision)
		} else {
			delete(w.who, w.ring[w.next])
			w.ring[w.next] = revision
			w.next = (w.next + 1) % rememberWrites
		}
		w.who[revision] = writer{key, attempt}
	}
}

// attemptBy returns the attempt at key that wrote the revision, if one did.
func (w *written) attemptBy(key Key, revision uint64) (attempt uint64, ok bool) {
	if revision == 0 {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	have, ok := w.who[revision]
	return have.attempt, ok && have.key == key
}
