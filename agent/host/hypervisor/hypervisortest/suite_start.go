package hypervisortest

import (
	"reflect"
	"strings"
	"testing"

	"virtmesh/agent/host/hypervisor"
)

func testStart(t *testing.T, w *world) {
	got := w.start()
	if got.Owner != w.owner || got.State != hypervisor.StateRunning || got.Reason != hypervisor.ReasonBooted || !got.Persistent || got.UUID == "" {
		t.Errorf("start returned %+v", got)
	}
	w.awaitState(hypervisor.StateRunning, hypervisor.ReasonBooted)
	domains, err := w.hv.List(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if listed := find(domains, w.owner.Ref); listed == nil || !reflect.DeepEqual(*listed, w.get()) {
		t.Errorf("list and get differ: %+v, %+v", listed, w.get())
	}
	if got := w.get(); got.Disks[Disk] == "" || got.MemoryBytes <= 0 {
		t.Errorf("disks %v and memory %d are not told", got.Disks, got.MemoryBytes)
	}
	caps, err := w.hv.Capabilities(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if caps.HostUUID == "" || caps.Arch != "x86_64" || caps.CPUs < 1 || caps.MemoryBytes <= 0 || caps.MaxVCPUs < 1 || len(caps.Machines) == 0 {
		t.Errorf("capabilities are incomplete: %+v", caps)
	}
}

func testStartTwice(t *testing.T, w *world) {
	first := w.start()
	w.awaitState(hypervisor.StateRunning, hypervisor.ReasonBooted)
	if err := w.hv.Suspend(w.ctx, w.owner.Ref); err != nil {
		t.Fatal(err)
	}
	w.awaitState(hypervisor.StatePaused, hypervisor.ReasonUser)
	again := w.start()
	if again.UUID != first.UUID || again.State != hypervisor.StatePaused {
		t.Errorf("a second start changed the domain: %+v, was %+v", again, first)
	}
}

func testStartAgain(t *testing.T, w *world) {
	w.start()
	w.awaitState(hypervisor.StateRunning, hypervisor.ReasonBooted)
	if err := w.hv.Destroy(w.ctx, w.owner.Ref); err != nil {
		t.Fatal(err)
	}
	w.awaitState(hypervisor.StateShutoff, hypervisor.ReasonDestroyed)
	w.owner.Epoch++
	got := w.start()
	if got.State != hypervisor.StateRunning || got.Owner != w.owner {
		t.Errorf("started again: %+v, want owner %+v", got, w.owner)
	}
	w.awaitState(hypervisor.StateRunning, hypervisor.ReasonBooted)
}

// testNewUUID: a domain that was defined under another UUID does not keep its instance
// from starting.
func testNewUUID(t *testing.T, w *world) {
	first := w.start()
	w.must("destroy", w.hv.Destroy(w.ctx, w.owner.Ref))
	w.must("record", w.hv.SetRecord(w.ctx, w.owner.Ref, "a", "b"))
	other := "77777777" + first.UUID[8:]
	xml := strings.Replace(w.xml(), "<uuid>"+first.UUID, "<uuid>"+other, 1)
	got, err := w.hv.Start(w.ctx, xml, hypervisor.StartOptions{})
	w.must("start", err)
	if got.UUID != other || got.State != hypervisor.StateRunning || got.Owner != w.owner || len(got.Records) != 0 {
		t.Errorf("started: %+v, want the uuid %s and no records", got, other)
	}
	if domains, err := w.hv.List(w.ctx); err != nil || find(domains, w.owner.Ref) == nil || find(domains, w.owner.Ref).UUID != other {
		t.Errorf("listed: %+v, %v", domains, err)
	}
}

func testConflict(t *testing.T, w *world) {
	w.start()
	usurper := w.owner
	usurper.UID = "99999999-0000-4000-8000-000000000000"
	_, err := w.hv.Start(w.ctx, w.harness.XML(t, usurper), hypervisor.StartOptions{})
	if !errorIs(err, hypervisor.ErrConflict) {
		t.Errorf("got %v", err)
	}
	if got := w.get(); got.Owner != w.owner || got.State != hypervisor.StateRunning {
		t.Errorf("the first domain is %+v", got)
	}
}

func testInvalid(t *testing.T, w *world) {
	xml := w.xml()
	for name, bad := range map[string]string{
		"no XML":           "what",
		"no metadata":      "<domain type='qemu'><name>" + w.owner.DomainName() + "</name></domain>",
		"another's name":   strings.Replace(xml, "<name>"+w.owner.DomainName()+"</name>", "<name>someone</name>", 1),
		"impossible value": strings.Replace(xml, "<domain type=", "<domain bogus='yes' type=", 1) + "<",
	} {
		if _, err := w.hv.Start(w.ctx, bad, hypervisor.StartOptions{}); !errorIs(err, hypervisor.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.hv.Get(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNotFound) {
		t.Errorf("something is left: %v", err)
	}
	// A definition that is well-formed and cannot start: its disk is not there.
	missing := strings.ReplaceAll(xml, DiskSuffix, MissingSuffix)
	if _, err := w.hv.Start(w.ctx, missing, hypervisor.StartOptions{}); err == nil {
		t.Error("a guest without its disk started")
	}
	if _, err := w.hv.Get(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNotFound) {
		t.Errorf("the failed start left its domain: %v", err)
	}
}

// DiskSuffix ends the path of the guest's disk in a definition, and occurs nowhere
// else in it.
const DiskSuffix = ".bootdisk"

// MissingSuffix ends the path of a file that is not there.
const MissingSuffix = ".missing"

func testPausedStart(t *testing.T, w *world) {
	got, err := w.hv.Start(w.ctx, w.xml(), hypervisor.StartOptions{Paused: true})
	if err != nil {
		t.Fatal(err)
	}
	if got.State != hypervisor.StatePaused {
		t.Errorf("started %s", got.State)
	}
	if err := w.hv.Resume(w.ctx, w.owner.Ref); err != nil {
		t.Fatal(err)
	}
	w.awaitState(hypervisor.StateRunning, hypervisor.ReasonUnpaused)
	if got := w.get(); got.State != hypervisor.StateRunning {
		t.Errorf("resumed, it is %s", got.State)
	}
}

func testSuspendResume(t *testing.T, w *world) {
	w.start()
	for range 2 {
		if err := w.hv.Suspend(w.ctx, w.owner.Ref); err != nil {
			t.Fatal(err)
		}
	}
	w.awaitState(hypervisor.StatePaused, hypervisor.ReasonUser)
	if got := w.get(); got.State != hypervisor.StatePaused || got.Reason != hypervisor.ReasonUser {
		t.Errorf("suspended: %s, %s", got.State, got.Reason)
	}
	for range 2 {
		if err := w.hv.Resume(w.ctx, w.owner.Ref); err != nil {
			t.Fatal(err)
		}
	}
	w.awaitState(hypervisor.StateRunning, hypervisor.ReasonUnpaused)
	if err := w.hv.Destroy(w.ctx, w.owner.Ref); err != nil {
		t.Fatal(err)
	}
	if err := w.hv.Resume(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNotRunning) {
		t.Errorf("resume when off: %v", err)
	}
}
