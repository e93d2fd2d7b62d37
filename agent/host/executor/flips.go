package executor

import (
	"sync"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Bounds of the time between two changes of a condition that a guest causes. Each
// change is a write for the whole mesh.
const (
	// minFlipPause follows a change after a quiet time, and doubles with every
	// further change up to maxFlipPause.
	minFlipPause = 10 * time.Second
	maxFlipPause = 5 * time.Minute
	// flipQuiet is the time without a change after which the pause starts again at
	// minFlipPause.
	flipQuiet = 2 * maxFlipPause
)

// flips bounds how often a guest can change its conditions, for example by going to
// sleep or by stopping its agent. The state in which the guest remains is always
// shown in the end.
type flips struct {
	now func() time.Time

	mu    sync.Mutex
	byUID map[string]map[kubevirtv1.VirtualMachineInstanceConditionType]flip
}

// flip is the last change of one condition, and the pause after it.
type flip struct {
	at    time.Time
	pause time.Duration
}

func newFlips(now func() time.Time) *flips {
	return &flips{now: now, byUID: map[string]map[kubevirtv1.VirtualMachineInstanceConditionType]flip{}}
}

// limitChange returns the value that the condition has to show: is, the present value, or
// shown, the value it shows so far, while the pause after the last change lasts. In
// the second case wait is the rest of the pause.
func (f *flips) limitChange(uid string, kind kubevirtv1.VirtualMachineInstanceConditionType, shown, is bool) (show bool, wait time.Duration) {
	if shown == is {
		return is, 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	last, now := f.byUID[uid][kind], f.now()
	since := now.Sub(last.at)
	if wait := last.pause - since; wait > 0 {
		return shown, wait
	}
	next := flip{at: now, pause: minFlipPause}
	if since < flipQuiet && last.pause > 0 {
		next.pause = min(2*last.pause, maxFlipPause)
	}
	if f.byUID[uid] == nil {
		f.byUID[uid] = map[kubevirtv1.VirtualMachineInstanceConditionType]flip{}
	}
	f.byUID[uid][kind] = next
	return is, 0
}

// dropGuest removes the record of a guest that is gone.
func (f *flips) dropGuest(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.byUID, uid)
}
