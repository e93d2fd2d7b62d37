package executor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Each fault of the hypervisor has its code as the reason, whatever its text says, and
// docs/operate.md explains it.
func TestReasonsAreCodes(t *testing.T) {
	manual, err := os.ReadFile("../../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range hypervisor.FaultCodes() {
		want := string(code)
		if code == hypervisor.FaultOther {
			want = reasonFailedCreate
		}
		for _, final := range []bool{false, true} {
			said := &hypervisor.Fault{Code: code, Sentence: "it is so"}
			reason := want
			if final {
				said.Sentinel = hypervisor.ErrInvalid
				if code == hypervisor.FaultOther {
					reason = reasonInvalid
				}
			}
			if got, isFinal := classify(fmt.Errorf("start ns/a: %w", said)); got != reason || isFinal != final {
				t.Errorf("%s has the reason %s (final: %v), want %s", code, got, isFinal, reason)
			}
		}
		if !strings.Contains(string(manual), "`"+want+"`") {
			t.Errorf("docs/operate.md does not explain the reason %s", want)
		}
	}
}

func TestPausesAfterFailuresDoubleUpToABound(t *testing.T) {
	last := time.Duration(0)
	for count := 1; count < 100; count++ {
		pause := startPause(count)
		if pause < last || pause > maxStartPause || pause < minStartPause {
			t.Fatalf("pause %v after %d failures, %v before", pause, count, last)
		}
		if count > 1 && pause != maxStartPause && pause != 2*last {
			t.Errorf("pause %v after %d failures, %v before", pause, count, last)
		}
		last = pause
	}
	if last != maxStartPause {
		t.Errorf("the longest pause is %v", last)
	}
}

// Words of a registry get into the failure of a start, and so into a status that every
// host keeps.
func TestFailuresAreShortPlainText(t *testing.T) {
	w := newWorld(t)
	vmi := w.place(scheduled("a"))
	w.volumes.fail = errors.New("the registry says\u202e\x1b[2J:\n" + strings.Repeat("no", 1<<20))
	for range 3 {
		_, _ = w.try(vmi) // prepares, fails and tells
	}
	for _, kind := range failureConditions {
		c := condition(w.get(vmi), kind)
		if c == nil || len(c.Message) > 1024 || !strings.Contains(c.Message, "says[2J: nono") {
			t.Errorf("%s: %.80q", kind, c)
		}
	}
}

// told counts the events of a reason.
func (w *world) told(reason string) (n int32) {
	w.t.Helper()
	events, _, err := objects.List[*corev1.Event](w.t.Context(), w.store, "ns", raftstore.ReadOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, event := range events {
		if event.Reason == reason {
			n += event.Count
		}
	}
	return n
}

// A guest whose emulator fails at each start is started ever more seldom, whatever
// wakes its instance, and written about ever more seldom, whatever its emulator says.
func TestAStartThatAlwaysFailsBacksOff(t *testing.T) {
	w := newWorld(t)
	vmi := w.place(scheduled("a"))
	before := w.store.Commits()
	began := w.passed
	most := 1
	for pause := minTellPause; pause < 30*time.Second; pause *= 2 {
		most++
	}
	for i := range 300 {
		w.hv.Machine().Fail("Start", fmt.Errorf("2026-11-26T03:52:%02d.1Z: only %d MiB are free", i%60, i))
		_, _ = w.try(vmi) // as if an event came every 100 ms
		w.pass(100 * time.Millisecond)
	}
	if n := w.volumes.prepared; n < 3 || n > 10 {
		t.Errorf("%d starts in %v", n, w.passed-began)
	}
	told := int32(w.store.Commits() - before)
	if told < 1 || int(told) > most {
		t.Errorf("%d writes, want at most %d", told, most)
	}
	if n := w.told(reasonFailedCreate); n != told {
		t.Errorf("%d events, %d writes", n, told)
	}
	before = w.store.Commits()
	for i := range 180 {
		w.hv.Machine().Fail("Start", fmt.Errorf("only %d MiB are free", i))
		w.pass(maxStartPause)
		_, _ = w.try(vmi)
	}
	if n := w.store.Commits() - before; n < 10 || n > 3*6+6 {
		t.Errorf("%d writes in three hours", n)
	}
	// Something else is news.
	w.pass(maxStartPause)
	before = w.store.Commits()
	locked := &hypervisor.Fault{Code: hypervisor.FaultDiskLocked, Sentence: "the disk is locked"}
	w.hv.Machine().Fail("Start", locked)
	if _, err := w.try(vmi); err == nil {
		t.Error("no error, so the engine does not count it")
	}
	if n := w.store.Commits() - before; n != 1 {
		t.Errorf("%d writes after another failure", n)
	}
	// The same failure again is none, even after hours.
	before = w.store.Commits()
	for range 180 {
		w.pass(maxStartPause)
		w.hv.Machine().Fail("Start", locked)
		_, _ = w.try(vmi)
	}
	if n := w.store.Commits() - before; n != 0 {
		t.Errorf("%d writes of a failure that is the same", n)
	}
	w.hv.Machine().Fail("Start", nil)
	w.pass(maxStartPause)
	w.reconcile(vmi)
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Running || w.executor.failures.of(string(vmi.UID)) != nil {
		t.Errorf("phase %s, failure %v", got.Status.Phase, w.executor.failures.of(string(vmi.UID)))
	}
}

// A host that is cut off can neither pull an image nor say so. When it is back, the
// start is tried again, though nothing about the instance has changed.
func TestAFailureThatCannotBeToldIsNotTheEnd(t *testing.T) {
	w := newWorld(t)
	vmi := w.place(scheduled("a"))
	w.sync(vmi)
	w.volumes.fail = errors.New("the registry does not answer")
	w.store.cut.Store(true)
	for range 5 {
		result, err := w.try(vmi)
		if err == nil && result.RequeueAfter <= 0 {
			t.Fatal("nothing brings the instance up again")
		}
		w.pass(maxStartPause)
	}
	w.volumes.fail = nil
	w.store.cut.Store(false)
	_, _ = w.try(vmi) // tells the failure
	w.pass(maxStartPause)
	w.reconcile(vmi)
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Running {
		t.Errorf("phase %s", got.Status.Phase)
	}
}

// A daemon that is away has not refused the guest.
func TestAnInterruptedStartIsNoFailure(t *testing.T) {
	w := newWorld(t)
	vmi := w.place(scheduled("a"))
	before := w.store.Commits()
	w.executor.interrupt = func(step Step) error {
		if step.Act == ActDefineStart {
			w.hv.Machine().SetAway(true)
		}
		return nil
	}
	if _, err := w.try(vmi); err == nil {
		t.Fatal("started")
	}
	w.executor.interrupt = nil
	w.hv.Machine().SetAway(false)
	if n := w.store.Commits() - before; n != 0 || w.executor.failures.of(string(vmi.UID)) != nil {
		t.Errorf("%d writes, failure %v", n, w.executor.failures.of(string(vmi.UID)))
	}
	w.reconcile(vmi)
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Running || w.volumes.prepared != 1 {
		t.Errorf("phase %s, volumes prepared %d times", got.Status.Phase, w.volumes.prepared)
	}
}

// A claim that many may write is on one machine's disk at a time: the others wait, and
// say for whom.
func TestADiskInUseNamesTheMachineThatUsesIt(t *testing.T) {
	w := newWorld(t)
	shared := func(name string) *kubevirtv1.VirtualMachineInstance {
		vmi := scheduled(name)
		source := &kubevirtv1.PersistentVolumeClaimVolumeSource{}
		source.ClaimName = "data"
		vmi.Spec.Volumes[0].VolumeSource = kubevirtv1.VolumeSource{PersistentVolumeClaim: source}
		w.place(vmi)
		w.commit(func(tx *objects.Tx) {
			held, err := claims.GetVolume(t.Context(), w.store, objects.Key{Namespace: "ns", Name: "data"}, raftstore.ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			held.Shared = true
			claims.Attach(tx, held, vmi.UID)
		})
		return vmi
	}
	first, second, third := shared("first"), shared("second"), shared("third")
	w.reconcile(first)
	w.sync(first)
	for _, vmi := range []*kubevirtv1.VirtualMachineInstance{second, third} {
		locked := &hypervisor.Fault{Code: hypervisor.FaultDiskLocked, Sentence: "a disk is in use by another process"}
		w.hv.Machine().Fail("Start", locked)
		if _, err := w.try(vmi); !errors.Is(err, locked) {
			t.Fatalf("error %v", err)
		}
		told := condition(w.get(vmi), kubevirtv1.VirtualMachineInstanceSynchronized)
		if told == nil || !strings.HasSuffix(told.Message, "in use by another process: virtual machine ns/first uses claim data") {
			t.Errorf("told %+v", told)
		}
	}
	w.hv.Machine().Fail("Start", errors.New("no memory"))
	w.pass(maxStartPause)
	if _, err := w.try(second); err == nil || strings.Contains(err.Error(), "ns/first") {
		t.Errorf("another failure: %v", err)
	}
}
