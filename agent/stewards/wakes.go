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
	// what it writes before the engine slows it down. A loop that needs a second
	// look at what it wrote has it at once; one that writes something else each
	// time is held to the back-off.
	freeSelfWakes = 3
	// promptBurst and promptRefill bound how often the changes of others end the
	// back-off of a failing key: that many times at once, then once per refill.
	// Two loops that overwrite each other would otherwise wake each other
	// without end.
	promptBurst  = 10
	promptRefill = 5 * time.Second
	// answerBurst and answerRefill bound the same for a key that does not fail but
	// writes: its news may be the answers of another loop that wants it otherwise, as
	// one of another version may.
	answerBurst  = 30
	answerRefill = 2 * time.Second
	// sweepAt is how many states there are before those of quiet keys are dropped.
	sweepAt = 1024
	// heardLimit bounds what is remembered of the notifications of a key that is
	// being handled. What exceeds it counts as one change of someone else.
	heardLimit = 64
)

// wakes decides when a key comes up. The queue below it holds each key once.
//
// A key waits in one of two ways. A failing key waits for the end of its
// back-off; only news, a change that its last reconciliation did not write and
// so has not seen, brings it forward. Any other key comes up when it is named.
// One that only its own writes name comes up ever more slowly, and one that
// writes comes up at a bounded rate, whoever names it.
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
	// answers bounds how often news brings up a key that writes; nil before its
	// first write.
	answers *rate.Limiter
}

func newWakes(minDelay, maxDelay time.Duration) *wakes {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[Key](minDelay, maxDelay)
	return &wakes{
		queue: workqueue.NewTypedRateLimitingQueue(limiter), limiter: limiter,
		min: minDelay, max: maxDelay, written: newWritten(), states: map[Key]*wakeState{}, sweepAt: sweepAt,
	}
}

// name tells that the change with the revision (zero if unknown) concerns key.
func (w *wakes) name(key Key, revision uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.states[key]
	if st == nil || !st.running {
		w.arrive(key, st, revision)
		return
	}
	// Whether the reconciliation that is under way has written this itself is
	// known when it has ended.
	if len(st.heard) >= heardLimit {
		revision = 0
		st.heard = st.heard[:heardLimit-1]
	}
	st.heard = append(st.heard, revision)
}

// arrive queues a key that was named. st may be nil. The caller holds w.mu.
func (w *wakes) arrive(key Key, st *wakeState, revision uint64) {
	if st == nil {
		w.queue.Add(key)
		return
	}
	attempt, own := w.written.by(key, revision)
	switch {
	case st.failing && own && attempt == st.attempt:
		// It has seen this: it wrote it.
	case st.failing:
		if st.pulled || st.prompt.Allow() {
			st.pulled = true
			w.queue.Add(key)
		}
	case own:
		w.queue.AddAfter(key, w.selfWakeDelay(st.selfWakes))
	case st.answers != nil && !st.answers.Allow():
		w.queue.AddAfter(key, answerRefill)
	default:
		st.selfWakes = 0
		w.queue.Add(key)
	}
}

// selfWakeDelay returns how long a key waits that has woken itself n times.
func (w *wakes) selfWakeDelay(n int) time.Duration {
	if n <= freeSelfWakes {
		return 0
	}
	return min(w.max, w.min<<min(n-freeSelfWakes-1, 20))
}

// begin starts an attempt at a key that has come up. ok is false if the key
// came up by an old timer and its back-off has not ended yet.
func (w *wakes) begin(key Key) (attempt uint64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.states[key]
	if st == nil {
		w.sweep()
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
		if st.answers == nil {
			st.answers = rate.NewLimiter(rate.Every(answerRefill), answerBurst)
		}
	} else {
		st.selfWakes = 0
	}
	if res.RequeueAfter > 0 {
		w.queue.AddAfter(key, res.RequeueAfter)
	}
	w.rest(key, st)
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
	w.rest(key, st)
	return w.limiter.NumRequeues(key)
}

// rest judges what has named the key while it was handled. The caller holds
// w.mu.
func (w *wakes) rest(key Key, st *wakeState) {
	heard := st.heard
	st.running, st.heard = false, nil
	for _, revision := range heard {
		w.arrive(key, st, revision)
	}
	if st.quiet() {
		delete(w.states, key)
	}
}

// quiet says that nothing needs to be remembered of the key.
func (st *wakeState) quiet() bool {
	return !st.running && !st.failing && st.selfWakes == 0 && st.prompt == nil &&
		(st.answers == nil || st.answers.Tokens() >= answerBurst)
}

// sweep drops the states of keys that have become quiet, now and then. The caller
// holds w.mu.
func (w *wakes) sweep() {
	if len(w.states) < w.sweepAt {
		return
	}
	maps.DeleteFunc(w.states, func(_ Key, st *wakeState) bool { return st.quiet() })
	w.sweepAt = max(sweepAt, 2*len(w.states))
}

// dropKey ends what is remembered of a key that is not handled here any more.
func (w *wakes) dropKey(key Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue.Forget(key)
	delete(w.states, key)
}

// rememberWrites is how many of the last writes of a control loop are kept, to
// recognize them when the watch brings them back. A write that comes back later
// than that counts as someone else's, which costs one reconciliation.
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

// note records that an attempt at key wrote the revisions.
func (w *written) note(key Key, attempt uint64, revisions []uint64) {
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

// by returns the attempt at key that wrote the revision, if one did.
func (w *written) by(key Key, revision uint64) (attempt uint64, ok bool) {
	if revision == 0 {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	have, ok := w.who[revision]
	return have.attempt, ok && have.key == key
}
