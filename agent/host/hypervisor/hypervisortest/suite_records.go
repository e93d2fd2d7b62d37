package hypervisortest

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"virtmesh/agent/host/hypervisor"
)

// wantFault checks that err is a fault with that code.
func wantFault(t *testing.T, err error, code hypervisor.FaultCode) {
	t.Helper()
	var fault *hypervisor.Fault
	if !errors.As(err, &fault) || fault.Code != code {
		t.Errorf("got %v, want a fault of %s", err, code)
	}
}

func (w *world) wantRecords(when string, want map[string]string) {
	w.t.Helper()
	if got := w.get().Records; !maps.Equal(got, want) {
		w.t.Errorf("%s: records %v, want %v", when, got, want)
	}
}

// testRecords: what one agent notes, the next finds, whatever the guest does.
func testRecords(t *testing.T, w *world) {
	const value = `2024-11-26T03:52:13Z <"&'>`
	w.start()
	w.wantRecords("at first", nil)
	w.must("record", w.hv.SetRecord(w.ctx, w.owner.Ref, "shutdown.requested", value))
	w.must("record", w.hv.SetRecord(w.ctx, w.owner.Ref, "other", "1"))
	w.must("record", w.hv.SetRecord(w.ctx, w.owner.Ref, "other", "2"))
	all := map[string]string{"shutdown.requested": value, "other": "2"}
	w.wantRecords("running", all)
	domains, err := w.harness.New(t).List(w.ctx)
	w.must("list", err)
	if found := find(domains, w.owner.Ref); found == nil || !maps.Equal(found.Records, all) {
		t.Errorf("another agent finds %+v", found)
	}
	w.must("destroy", w.hv.Destroy(w.ctx, w.owner.Ref))
	w.wantRecords("off", all)
	w.must("record when off", w.hv.SetRecord(w.ctx, w.owner.Ref, "end", "failed"))
	w.must("remove", w.hv.SetRecord(w.ctx, w.owner.Ref, "other", ""))
	w.wantRecords("off", map[string]string{"shutdown.requested": value, "end": "failed"})
	for name, value := range map[string]string{"": "x", "a b": "x", "long": strings.Repeat("x", 1025), "lines": "a\nb", "bytes": "\xff"} {
		if err := w.hv.SetRecord(w.ctx, w.owner.Ref, name, value); !errorIs(err, hypervisor.ErrInvalid) {
			t.Errorf("record %q of %d bytes: %v", name, len(value), err)
		}
	}
	w.start()
	w.wantRecords("started anew", nil)
	w.must("remove what is not there", w.hv.SetRecord(w.ctx, w.owner.Ref, "other", ""))
	w.wantRecords("started anew", nil)
}

// testSetOwner: a claim may change while the guest runs.
func testSetOwner(t *testing.T, w *world) {
	w.start()
	w.must("record", w.hv.SetRecord(w.ctx, w.owner.Ref, "a", "b"))
	w.owner.Host, w.owner.Epoch = "host2", w.owner.Epoch+4
	w.must("set owner", w.hv.SetOwner(w.ctx, w.owner))
	if got := w.get(); got.Owner != w.owner || got.State != hypervisor.StateRunning {
		t.Errorf("got %+v, want owner %+v", got, w.owner)
	}
	w.wantRecords("with another owner", map[string]string{"a": "b"})
	// It is still known whose events these are.
	w.must("destroy", w.hv.Destroy(w.ctx, w.owner.Ref))
	w.awaitState(hypervisor.StateShutoff, hypervisor.ReasonDestroyed)
	if got := w.get(); got.Owner != w.owner {
		t.Errorf("off, it has owner %+v, want %+v", got.Owner, w.owner)
	}
}

// testJobs: an agent finds the job that another began.
func testJobs(t *testing.T, w *world) {
	w.start()
	list := func() []hypervisor.Job {
		t.Helper()
		jobs, err := w.hv.Jobs(w.ctx, w.owner.Ref)
		w.must("jobs", err)
		return jobs
	}
	if jobs := list(); len(jobs) != 0 {
		t.Errorf("jobs of a guest at rest: %+v", jobs)
	}
	w.must("abort nothing", w.hv.AbortJob(w.ctx, w.owner.Ref, ""))
	w.must("abort nothing", w.hv.AbortJob(w.ctx, w.owner.Ref, Disk))
	w.harness.BeginBlockCopy(t, w.owner.Ref)
	if jobs := list(); len(jobs) != 1 || jobs[0].Kind != hypervisor.JobBlockCopy || jobs[0].Volume != Disk {
		t.Errorf("jobs: %+v", jobs)
	}
	w.must("abort", w.hv.AbortJob(w.ctx, w.owner.Ref, Disk))
	w.await("the job's end", func(e hypervisor.Event) bool {
		return e.Kind == hypervisor.EventJob && e.Job == hypervisor.JobBlockCopy && e.Device == Disk && e.Result == hypervisor.JobCanceled
	})
	if jobs := list(); len(jobs) != 0 {
		t.Errorf("aborted: %+v", jobs)
	}
	if got := w.get(); got.State != hypervisor.StateRunning {
		t.Errorf("the guest is %s", got.State)
	}
}

// testFirmwareState: variables and TPM outlive a domain when they are to, and a start
// that fails does not take them along.
func testFirmwareState(t *testing.T, w *world) {
	xml := w.harness.Firmware(t, w.owner)
	want := func(when string, kept bool) {
		t.Helper()
		if nvram, tpm := w.harness.FirmwareState(t, w.owner); nvram != kept || tpm != kept {
			t.Errorf("%s: variables there %v, TPM there %v, want %v", when, nvram, tpm, kept)
		}
		// The harness gives the domain the UID of its owner for a UUID.
		if has, err := w.hv.HasTPM(w.ctx, w.owner.UID); err != nil || has != kept {
			t.Errorf("%s: it says that the TPM's state is there: %v, %v, want %v", when, has, err, kept)
		}
	}
	keep := hypervisor.StartOptions{KeepNVRAM: true, KeepTPM: true}
	run := func() {
		t.Helper()
		_, err := w.hv.Start(w.ctx, xml, keep)
		w.must("start", err)
		want("running", true)
		w.must("destroy", w.hv.Destroy(w.ctx, w.owner.Ref))
	}
	want("before the first start", false)
	run()
	w.must("undefine", w.hv.Undefine(w.ctx, w.owner.Ref, hypervisor.UndefineOptions{KeepNVRAM: true, KeepTPM: true}))
	want("undefined", true)
	missing := strings.ReplaceAll(xml, DiskSuffix, MissingSuffix)
	if _, err := w.hv.Start(w.ctx, missing, keep); err == nil {
		t.Error("a guest without its disk started")
	}
	want("after a start that failed", true)
	run()
	w.must("undefine", w.hv.Undefine(w.ctx, w.owner.Ref, hypervisor.UndefineOptions{}))
	want("undefined for good", false)
}

// testRemoveTPM: the state of a TPM can be removed once its domain is gone, and only
// then.
func testRemoveTPM(t *testing.T, w *world) {
	started, err := w.hv.Start(w.ctx, w.harness.Firmware(t, w.owner), hypervisor.StartOptions{KeepTPM: true})
	w.must("start", err)
	there := func() bool {
		_, tpm := w.harness.FirmwareState(t, w.owner)
		return tpm
	}
	for _, when := range []string{"running", "shut off"} {
		if err := w.hv.RemoveTPM(w.ctx, started.UUID); !errorIs(err, hypervisor.ErrConflict) || !there() {
			t.Errorf("removed while the domain is %s: %v, still there: %v", when, err, there())
		}
		w.must("destroy", w.hv.Destroy(w.ctx, w.owner.Ref))
	}
	w.must("undefine", w.hv.Undefine(w.ctx, w.owner.Ref, hypervisor.UndefineOptions{KeepTPM: true}))
	if !there() {
		t.Fatal("the state is not kept")
	}
	for range 2 {
		w.must("remove", w.hv.RemoveTPM(w.ctx, started.UUID))
		if there() {
			t.Error("the state is not removed")
		}
	}
	if domains, err := w.hv.List(w.ctx); err != nil || find(domains, w.owner.Ref) != nil {
		t.Errorf("listed: %+v, %v", domains, err)
	}
}

// testFaults: a start that fails again and again says the same, and no paths.
func testFaults(t *testing.T, w *world) {
	missing := strings.ReplaceAll(w.xml(), DiskSuffix, MissingSuffix)
	var said [2]string
	for i := range said {
		_, err := w.hv.Start(w.ctx, missing, hypervisor.StartOptions{})
		wantFault(t, err, hypervisor.FaultDiskMissing)
		said[i] = err.Error()
	}
	if said[0] != said[1] {
		t.Errorf("it says %q, then %q", said[0], said[1])
	}
	if strings.Contains(said[0], MissingSuffix) || strings.Contains(said[0], "\n") {
		t.Errorf("it says %q", said[0])
	}
}
