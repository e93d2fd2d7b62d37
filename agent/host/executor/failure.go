package executor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/plain"
	machine "virtmesh/agent/vmi"
)

// Reasons of conditions and events, as KubeVirt names them where it has one. A fault of
// the hypervisor has its code as the reason, and a VolumeError has its own. The table
// of docs/operate.md explains them all.
const (
	// reasonFailedCreate is the reason of failures that have no code.
	reasonFailedCreate = "FailedCreate"
	reasonInvalid      = "InvalidConfiguration"
)

// Bounds of the pause after a start that failed. It doubles with each failure.
const (
	minStartPause = 250 * time.Millisecond
	maxStartPause = time.Minute
)

// Bounds of the pause before a text is written again that differs from the last one
// while the reason is the same. It doubles with each time that the failure was told.
const (
	minTellPause = time.Second
	maxTellPause = 10 * time.Minute
)

// failure is the last failure to start an instance.
type failure struct {
	reason, message string
	// final says that trying again can never help.
	final bool
	// count is how many starts have failed in a row, retryAt when the next may
	// begin. No event brings retryAt forward: the failed start itself may have caused
	// the event.
	count   int
	retryAt time.Time
	err     error
	// told is how often the failure was written with this reason, toldAt when last.
	told   int
	toldAt time.Time
}

// pauseLeft is the rest of the pause before the next start.
func (f *failure) pauseLeft(now time.Time) time.Duration { return max(f.retryAt.Sub(now), 0) }

// isNews reports whether the failure must be written into the instance's conditions.
// Another reason is written at once. Another text with the same reason may differ in no
// more than numbers, such as amounts and addresses, so it is written ever more seldom,
// right after the start that failed: what is written never depends on what a text says.
func (f *failure) isNews(vmi *kubevirtv1.VirtualMachineInstance, now time.Time) bool {
	sameText := true
	for _, kind := range failureConditions {
		c := machine.Condition(vmi, kind)
		if c == nil || c.Status != corev1.ConditionFalse || c.Reason != f.reason {
			return true
		}
		sameText = sameText && c.Message == f.message
	}
	return !sameText && f.pauseLeft(now) > 0 && (f.told == 0 || !now.Before(f.toldAt.Add(doubledPause(f.told, minTellPause, maxTellPause))))
}

// failureConditions are the conditions that show why a guest does not start.
var failureConditions = [...]kubevirtv1.VirtualMachineInstanceConditionType{
	kubevirtv1.VirtualMachineInstanceSynchronized, kubevirtv1.VirtualMachineInstanceReady,
}

// failures holds the last failure to start of each instance, by the instance's UID.
type failures struct {
	mu    sync.Mutex
	byUID map[string]*failure
}

func newFailures() *failures { return &failures{byUID: map[string]*failure{}} }

// of returns a copy of the instance's last failure, or nil.
func (f *failures) of(uid string) *failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := f.byUID[uid]
	if last == nil {
		return nil
	}
	found := *last
	return &found
}

// addFailure notes one more failure.
func (f *failures) addFailure(uid string, err error, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// A registry or an image may have chosen some of the words.
	next := failure{err: err, message: plain.Message(err.Error()), count: 1}
	next.reason, next.final = classify(err)
	if last := f.byUID[uid]; last != nil {
		next.count = last.count + 1
		if last.reason == next.reason {
			next.told, next.toldAt = last.told, last.toldAt
		}
	}
	next.retryAt = now.Add(startPause(next.count))
	f.byUID[uid] = &next
}

// tellFailure notes that the instance's last failure was written.
func (f *failures) tellFailure(uid string, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last := f.byUID[uid]; last != nil {
		last.told, last.toldAt = last.told+1, now
	}
}

// dropFailure removes the failure of an instance that has started or is gone.
func (f *failures) dropFailure(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.byUID, uid)
}

// startPause returns the pause after count failures in a row.
func startPause(count int) time.Duration { return doubledPause(count, minStartPause, maxStartPause) }

// doubledPause returns first, doubled count-1 times, and at most longest.
func doubledPause(count int, first, longest time.Duration) time.Duration {
	pause := first
	for range count - 1 {
		if pause *= 2; pause >= longest {
			return longest
		}
	}
	return pause
}

// classify returns the reason of a failure. final is true if another try cannot help.
func classify(err error) (reason string, final bool) {
	var volume *VolumeError
	if errors.As(err, &volume) {
		return volume.Reason, false
	}
	var field *domain.FieldError
	if errors.As(err, &field) {
		return reasonInvalid, true
	}
	final = errors.Is(err, hypervisor.ErrInvalid)
	var known *hypervisor.Fault
	switch {
	case errors.As(err, &known) && known.Code != hypervisor.FaultOther && known.Code != "":
		return string(known.Code), final
	case final:
		return reasonInvalid, true
	}
	return reasonFailedCreate, false
}

// maxHolders bounds how many virtual machines a message names.
const maxHolders = 3

// nameHolders extends the error of a start that failed because a disk is in use. It
// adds which running instances have the instance's claims attached, because the user
// has to stop one of them and the emulator's message names none. Other errors are
// returned unchanged.
func (e *Executor) nameHolders(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, err error) error {
	var fault *hypervisor.Fault
	if !errors.As(err, &fault) || fault.Code != hypervisor.FaultDiskLocked {
		return err
	}
	var uses []string
	for _, volume := range vmi.Spec.Volumes {
		if volume.PersistentVolumeClaim == nil {
			continue
		}
		claim := objects.Key{Namespace: vmi.Namespace, Name: volume.PersistentVolumeClaim.ClaimName}
		held, readErr := claims.GetVolume(ctx, e.Store, claim, localRead)
		if readErr != nil {
			return err
		}
		for _, other := range e.Instances.List(vmi.Namespace) {
			if other.UID != vmi.UID && other.Status.Phase == kubevirtv1.Running && slices.Contains(held.Holders, other.UID) {
				uses = append(uses, fmt.Sprintf("virtual machine %s uses claim %s", objects.KeyOf(other), claim.Name))
			}
		}
	}
	if len(uses) == 0 {
		return err
	}
	slices.Sort(uses)
	uses = slices.Compact(uses)
	return fmt.Errorf("%w: %s", err, strings.Join(uses[:min(len(uses), maxHolders)], ", "))
}
