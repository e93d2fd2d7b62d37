package executor

import (
	"errors"
	"fmt"
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

func TestWithoutNumbers(t *testing.T) {
	for _, test := range []struct{ a, b string }{
		{"2026-11-26T03:52:13.123Z qemu-system-x86_64: no memory", "2026-11-26T04:00:00.9Z qemu-system-x86_64: no memory"},
		{"only 512 MiB are free", "only 13 MiB are free"},
		{"lock held by pid=4242", "lock held by pid=17"},
		{"cannot open /tmp/disk-38192837/root", "cannot open /tmp/disk-99112/root"},
		{"process (123456) ended", "process (88) ended"},
	} {
		if withoutNumbers(test.a) != withoutNumbers(test.b) {
			t.Errorf("%q and %q differ: %q, %q", test.a, test.b, withoutNumbers(test.a), withoutNumbers(test.b))
		}
	}
	for _, test := range []struct{ a, b string }{
		{"volume data1: missing", "volume data2: missing"},
		{"claim a is on host1", "claim a is on host2"},
		{"disk is locked", "disk is missing"},
		{"by=alice", "by=bob"},
	} {
		if withoutNumbers(test.a) == withoutNumbers(test.b) {
			t.Errorf("%q and %q are the same", test.a, test.b)
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
// wakes its instance, and written about once.
func TestAStartThatAlwaysFailsBacksOffAndIsWrittenOnce(t *testing.T) {
	w := newWorld(t)
	vmi := w.place(scheduled("a"))
	before := w.store.Commits()
	began := w.passed
	for i := range 300 {
		w.hv.Machine().Fail("Start", fmt.Errorf("2026-11-26T03:52:%02d.1Z: only %d MiB are free", i%60, i))
		_, _ = w.try(vmi) // as if an event came every 100 ms
		w.pass(100 * time.Millisecond)
	}
	if n := w.volumes.prepared; n < 3 || n > 10 {
		t.Errorf("%d starts in %v", n, w.passed-began)
	}
	if n := w.store.Commits() - before; n != 1 {
		t.Errorf("%d writes", n)
	}
	if n := w.told(reasonFailedCreate); n != 1 {
		t.Errorf("%d events", n)
	}
	// Something else is news.
	w.pass(maxStartPause)
	w.hv.Machine().Fail("Start", errors.New("the disk is locked"))
	if _, err := w.try(vmi); err == nil {
		t.Error("no error, so the engine does not count it")
	}
	if n := w.store.Commits() - before; n != 2 {
		t.Errorf("%d writes after another failure", n)
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
