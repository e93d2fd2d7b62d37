package hypervisortest

import (
	"strings"
	"testing"

	"virtmesh/agent/host/hypervisor"
)

// live returns the running domain's definition.
func (w *world) live() string {
	w.t.Helper()
	text, err := w.hv.LiveDefinition(w.ctx, w.owner.Ref)
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// has says whether the running domain has a device of that name.
func (w *world) has(name string) bool {
	w.t.Helper()
	return strings.Contains(w.live(), hypervisor.AliasPrefix+name+"'")
}

func (w *world) must(what string, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

func (w *world) stats() hypervisor.Stats {
	w.t.Helper()
	all, err := w.hv.Stats(w.ctx)
	w.must("stats", err)
	for _, s := range all {
		if s.Ref == w.owner.Ref {
			return s
		}
	}
	w.t.Fatalf("not among %v", all)
	return hypervisor.Stats{}
}

// testDevices: a device is there at once, goes when the guest lets go of it, and both
// can be asked for again and again.
func testDevices(t *testing.T, w *world) {
	const name = "data"
	w.boot()
	disk := w.harness.DataDisk(t, name)
	if w.has(name) {
		t.Fatal("the disk is there before it is plugged")
	}
	for range 2 {
		w.must("attach", w.hv.AttachDevice(w.ctx, w.owner.Ref, disk))
		if got := strings.Count(w.live(), hypervisor.AliasPrefix+name+"'"); got != 1 {
			t.Fatalf("the disk is there %d times", got)
		}
	}
	for range 2 {
		w.must("detach", w.hv.DetachDevice(w.ctx, w.owner.Ref, name))
	}
	if !w.has(name) {
		t.Error("the disk is gone although the guest has not let go of it")
	}
	// The suite's guest has no system that would; its machine does when it is reset.
	w.must("reset", w.hv.Reset(w.ctx, w.owner.Ref))
	w.await("removal", func(e hypervisor.Event) bool { return e.Kind == hypervisor.EventDeviceRemoved && e.Device == name })
	if w.has(name) {
		t.Error("the removed disk is there still")
	}
	w.must("detach what is gone", w.hv.DetachDevice(w.ctx, w.owner.Ref, name))
	w.must("attach again", w.hv.AttachDevice(w.ctx, w.owner.Ref, disk))
	if !w.has(name) {
		t.Error("the disk is not there again")
	}
}

func testDeviceFaults(t *testing.T, w *world) {
	w.start()
	for what, device := range map[string]string{
		"no XML": "disk", "no name": "<disk type='file' device='disk'/>", "a foreign alias": "<disk><alias name='disk0'/></disk>",
	} {
		if err := w.hv.AttachDevice(w.ctx, w.owner.Ref, device); !errorIs(err, hypervisor.ErrInvalid) {
			t.Errorf("attach %s: %v", what, err)
		}
		if err := w.hv.UpdateDevice(w.ctx, w.owner.Ref, device); !errorIs(err, hypervisor.ErrInvalid) {
			t.Errorf("update %s: %v", what, err)
		}
	}
	missing := w.harness.DataDisk(t, "gone"+MissingSuffix)
	wantFault(t, w.hv.AttachDevice(w.ctx, w.owner.Ref, missing), hypervisor.FaultDiskMissing)
	if w.has("gone" + MissingSuffix) {
		t.Error("a disk without a file was plugged")
	}
	if err := w.hv.UpdateDevice(w.ctx, w.owner.Ref, w.harness.DataDisk(t, "absent")); !errorIs(err, hypervisor.ErrNoDevice) {
		t.Errorf("update of what is not there: %v", err)
	}
}

func testUpdateDevice(t *testing.T, w *world) {
	w.start()
	drive, word := w.harness.Medium(t)
	if strings.Contains(w.live(), word) {
		t.Fatal("the medium is there before it is inserted")
	}
	for range 2 {
		w.must("insert", w.hv.UpdateDevice(w.ctx, w.owner.Ref, drive))
	}
	if !strings.Contains(w.live(), word) {
		t.Errorf("the medium is not in:\n%s", w.live())
	}
	// It is not forgotten when the guest's process is another.
	w.must("destroy", w.hv.Destroy(w.ctx, w.owner.Ref))
}

func testSetVCPUs(t *testing.T, w *world) {
	w.boot()
	for range 2 {
		w.must("two CPUs", w.hv.SetVCPUs(w.ctx, w.owner.Ref, 2))
	}
	if got := len(w.stats().CPU.VCPUs); got != 2 {
		t.Errorf("the guest has %d CPUs", got)
	}
	for _, count := range []int{0, -1, 3} {
		if err := w.hv.SetVCPUs(w.ctx, w.owner.Ref, count); !errorIs(err, hypervisor.ErrInvalid) {
			t.Errorf("%d CPUs: %v", count, err)
		}
	}
	// The suite's guest does not know of CPUs that go.
	if err := w.hv.SetVCPUs(w.ctx, w.owner.Ref, 1); !errorIs(err, hypervisor.ErrRefused) {
		t.Errorf("one CPU again: %v", err)
	}
}

func testSetMemory(t *testing.T, w *world) {
	w.start()
	const mib = 1 << 20
	for range 2 {
		w.must("less", w.hv.SetMemory(w.ctx, w.owner.Ref, 24*mib))
	}
	w.must("all", w.hv.SetMemory(w.ctx, w.owner.Ref, 32*mib))
	for _, bytes := range []int64{0, -1, 33 * mib} {
		if err := w.hv.SetMemory(w.ctx, w.owner.Ref, bytes); !errorIs(err, hypervisor.ErrInvalid) {
			t.Errorf("%d bytes: %v", bytes, err)
		}
	}
}

// testLimitMemory: a host may have no means to limit memory, and says so then.
func testLimitMemory(t *testing.T, w *world) {
	w.start()
	const gib = 1 << 30
	if err := w.hv.LimitMemory(w.ctx, w.owner.Ref, 0); !errorIs(err, hypervisor.ErrInvalid) {
		t.Errorf("a limit of nothing: %v", err)
	}
	want := int64(2 * gib)
	if err := w.hv.LimitMemory(w.ctx, w.owner.Ref, want); err != nil {
		t.Logf("this host limits no memory: %v", err)
		want = w.get().MemoryLimit
	}
	if got := w.get().MemoryLimit; got != want {
		t.Errorf("limited to %d bytes, want %d", got, want)
	}
}

func testResizeBlock(t *testing.T, w *world) {
	w.start()
	const size = 4 << 20
	for range 2 {
		w.must("grow", w.hv.ResizeBlock(w.ctx, w.owner.Ref, Disk, size))
	}
	var got uint64
	for _, disk := range w.stats().Disks {
		if disk.Alias == Disk {
			got = disk.Capacity
		}
	}
	if got != size {
		t.Errorf("the disk has %d bytes", got)
	}
	for _, bytes := range []int64{size - 512, 0, -1} {
		if err := w.hv.ResizeBlock(w.ctx, w.owner.Ref, Disk, bytes); !errorIs(err, hypervisor.ErrInvalid) {
			t.Errorf("shrink to %d: %v", bytes, err)
		}
	}
	if err := w.hv.ResizeBlock(w.ctx, w.owner.Ref, "nothing", size); !errorIs(err, hypervisor.ErrNoDevice) {
		t.Errorf("resize of what is not there: %v", err)
	}
}

// testChangesWhenOff: a guest that is off gets its shape with the next start.
func testChangesWhenOff(t *testing.T, w *world) {
	w.start()
	w.must("destroy", w.hv.Destroy(w.ctx, w.owner.Ref))
	drive, _ := w.harness.Medium(t)
	_, definition := w.hv.LiveDefinition(w.ctx, w.owner.Ref)
	for what, err := range map[string]error{
		"attach":     w.hv.AttachDevice(w.ctx, w.owner.Ref, w.harness.DataDisk(t, "data")),
		"detach":     w.hv.DetachDevice(w.ctx, w.owner.Ref, Disk),
		"update":     w.hv.UpdateDevice(w.ctx, w.owner.Ref, drive),
		"CPUs":       w.hv.SetVCPUs(w.ctx, w.owner.Ref, 2),
		"memory":     w.hv.SetMemory(w.ctx, w.owner.Ref, 24<<20),
		"limit":      w.hv.LimitMemory(w.ctx, w.owner.Ref, 24<<20),
		"resize":     w.hv.ResizeBlock(w.ctx, w.owner.Ref, Disk, 4<<20),
		"definition": definition,
	} {
		if !errorIs(err, hypervisor.ErrNotRunning) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if jobs, err := w.hv.Jobs(w.ctx, w.owner.Ref); err != nil || len(jobs) != 0 {
		t.Errorf("jobs: %v, %v", jobs, err)
	}
	w.must("abort", w.hv.AbortJob(w.ctx, w.owner.Ref, ""))
}
