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
	machine "virtmesh/agent/vmi"
)

// Reasons of conditions and events, as KubeVirt names them where it has one.
const (
	reasonFailedCreate = "FailedCreate"
	reasonInvalid      = "InvalidConfiguration"
)

// Bounds of the pause after a start that failed. It doubles with each failure.
const (
	minStartPause = 250 * time.Millisecond
	maxStartPause = time.Minute
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
}

// pauseLeft is the rest of the pause before the next start.
func (f *failure) pauseLeft(now time.Time) time.Duration { return max(f.retryAt.Sub(now), 0) }

// isNews reports whether the failure is not in the instance's conditions yet. A message
// that differs only in numbers and times counts as the same, so that a start that
// fails again and again is written once.
func (f *failure) isNews(vmi *kubevirtv1.VirtualMachineInstance) bool {
	for _, kind := range failureConditions {
		c := machine.Condition(vmi, kind)
		if c == nil || c.Status != corev1.ConditionFalse || c.Reason != f.reason || withoutNumbers(c.Message) != withoutNumbers(f.message) {
			return true
		}
	}
	return false
}

// failureConditions are the conditions that show why a guest does not start.
var failureConditions = [...]kubevirtv1.VirtualMachineInstanceConditionType{
	kubevirtv1.VirtualMachineInstanceSynchronized, kubevirtv1.VirtualMachineInstanceReady,
}

// longNumber is the number of digits in a row from which on a number counts as a
// process ID, a temporary name or the like, and not as part of a name that a user chose.
const longNumber = 4

// withoutNumbers replaces by # the parts of a message that differ from one failure to
// the next although the cause is the same: words that begin with a digit, such as
// amounts and times; values after a = that begin with a digit; and long numbers.
func withoutNumbers(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		name, value, given := strings.Cut(word, "=")
		if startsWithDigit(name) {
			name = "#"
		}
		name = withoutLongNumbers(name)
		if given {
			if startsWithDigit(value) {
				value = "#"
			}
			name += "=" + withoutLongNumbers(value)
		}
		words[i] = name
	}
	return strings.Join(words, " ")
}

func startsWithDigit(word string) bool {
	word = strings.TrimLeft(word, `("'[`)
	return word != "" && word[0] >= '0' && word[0] <= '9'
}

func withoutLongNumbers(word string) string {
	var b strings.Builder
	for word != "" {
		digits := len(word) - len(strings.TrimLeft(word, "0123456789"))
		switch {
		case digits >= longNumber:
			b.WriteByte('#')
		case digits > 0:
			b.WriteString(word[:digits])
		default:
			digits = 1
			b.WriteByte(word[0])
		}
		word = word[digits:]
	}
	return b.String()
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
	next := failure{err: err, message: err.Error(), count: 1}
	next.reason, next.final = classify(err)
	if last := f.byUID[uid]; last != nil {
		next.count = last.count + 1
	}
	next.retryAt = now.Add(startPause(next.count))
	f.byUID[uid] = &next
}

// dropFailure removes the failure of an instance that has started or is gone.
func (f *failures) dropFailure(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.byUID, uid)
}

// startPause returns the pause after count failures in a row.
func startPause(count int) time.Duration {
	pause := minStartPause
	for range count - 1 {
		if pause *= 2; pause >= maxStartPause {
			return maxStartPause
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
	if errors.As(err, &field) || errors.Is(err, hypervisor.ErrInvalid) {
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
