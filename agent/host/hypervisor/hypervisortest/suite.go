package hypervisortest

import (
	"context"
	"testing"

	"virtmesh/agent/host/hypervisor"
)

// Harness is what the suite needs of an implementation.
type Harness struct {
	// New returns the hypervisor for one test; the harness closes it. Several may be
	// open on the same host at once, and see the same domains.
	New func(t *testing.T) hypervisor.Hypervisor
	// XML returns a definition, owned by owner, of the guest of BootDisk on a disk
	// whose volume is named Disk, with a serial console, a VNC display and an empty
	// drive named Drive. The guest has 32 MiB and one CPU of at most two.
	XML func(t *testing.T, owner hypervisor.Owner) string
	// DataDisk returns a disk of the volume name that can be plugged in, or with the
	// suffix MissingSuffix in name one whose file is not there.
	DataDisk func(t *testing.T, name string) string
	// Medium returns the drive named Drive with something in it, and a word that is in
	// its definition only then.
	Medium func(t *testing.T) (device, word string)
	// Firmware returns a definition as XML does, with EFI and a TPM that keep their
	// state in the places that FirmwareState looks at.
	Firmware      func(t *testing.T, owner hypervisor.Owner) string
	FirmwareState func(t *testing.T, owner hypervisor.Owner) (nvram, tpm bool)
	// BeginBlockCopy starts, by other means, a copy of the disk of volume Disk that
	// takes longer than the test.
	BeginBlockCopy func(t *testing.T, ref hypervisor.Ref)
	// DefineForeign defines a domain of that name without our metadata, by other means,
	// and says whether it is there still.
	DefineForeign func(t *testing.T, name string) (stillThere func() bool)
}

// Disk is the name of the volume the guest boots from, Drive that of its empty drive.
const (
	Disk  = "root"
	Drive = "cd"
)

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"StartRunsTheGuestAndItCanBeFound", testStart},
		{"StartOfARunningGuestChangesNothing", testStartTwice},
		{"StartAfterShutoffRunsItAgain", testStartAgain},
		{"StartGivesAShutoffDomainItsNewUUID", testNewUUID},
		{"StartRefusesATakenName", testConflict},
		{"StartOfBadDefinitionLeavesNothing", testInvalid},
		{"AnotherIncarnationIsNotFound", testOtherIncarnation},
		{"ForeignDomainsAreInvisible", testForeign},
		{"PausedStartWaitsForResume", testPausedStart},
		{"SuspendAndResumeAreRepeatable", testSuspendResume},
		{"ConsoleCarriesBothWays", testConsole},
		{"NewConsoleSessionEndsTheOneBefore", testConsoleTakeover},
		{"ConsoleCloseReleasesAReader", testConsoleClose},
		{"DisplaySpeaksRFB", testVNC},
		{"DisplayCanBePictured", testScreenshot},
		{"ShutdownEndsTheGuest", testShutdown},
		{"GuestCanEndItself", testGuestPowerOff},
		{"RebootsAreReported", testReboot},
		{"DestroyEndsTheGuestAtOnce", testDestroy},
		{"UndefineDropsOnlyWhatIsOff", testUndefine},
		{"GuestInfoWithoutAgentSaysSo", testNoAgent},
		{"StatsNameTheDevices", testStats},
		{"RecordsOutliveTheRun", testRecords},
		{"OwnerCanBeReplaced", testSetOwner},
		{"DevicesComeAndGo", testDevices},
		{"DeviceFaultsAreNamed", testDeviceFaults},
		{"DeviceCanBeUpdated", testUpdateDevice},
		{"CPUsCanBeAdded", testSetVCPUs},
		{"MemoryStaysWithinTheDomains", testSetMemory},
		{"TheEmulatorsMemoryIsLimited", testLimitMemory},
		{"DisksGrowAndDoNotShrink", testResizeBlock},
		{"OffGuestsAreNotChanged", testChangesWhenOff},
		{"JobsAreFoundAndAborted", testJobs},
		{"FirmwareStateIsKeptWhenAsked", testFirmwareState},
		{"TPMStateIsRemovedOnItsOwn", testRemoveTPM},
		{"FaultsReadTheSameEachTime", testFaults},
		{"AnotherConnectionAdopts", testAdopt},
		{"EndedContextEndsCalls", testContext},
		{"CloseEndsSubscriptions", testClose},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newWorld(t, h)) })
	}
}

// testForeign: whatever we do, a domain without our metadata is left alone.
func testForeign(t *testing.T, w *world) {
	ref := w.owner.Ref
	stillThere := w.harness.DefineForeign(t, ref.DomainName())
	if _, err := w.hv.Get(w.ctx, ref); !errorIs(err, hypervisor.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if _, err := w.hv.Start(w.ctx, w.xml(), hypervisor.StartOptions{}); !errorIs(err, hypervisor.ErrConflict) {
		t.Errorf("start over it: %v", err)
	}
	if err := w.hv.Destroy(w.ctx, ref); !errorIs(err, hypervisor.ErrNotFound) {
		t.Errorf("destroy: %v", err)
	}
	if err := w.hv.Undefine(w.ctx, ref, hypervisor.UndefineOptions{}); err != nil {
		t.Errorf("undefine: %v", err)
	}
	if domains, err := w.hv.List(w.ctx); err != nil || find(domains, ref) != nil {
		t.Errorf("list shows it: %v, %v", domains, err)
	}
	if !stillThere() {
		t.Error("the foreign domain is gone")
	}
}

// testOtherIncarnation: the UID tells two instances of one name apart.
func testOtherIncarnation(t *testing.T, w *world) {
	w.start()
	other := w.owner.Ref
	other.UID = "99999999-0000-4000-8000-000000000000"
	for name, act := range map[string]func(context.Context, hypervisor.Ref) error{
		"shutdown": w.hv.Shutdown, "reboot": w.hv.Reboot, "reset": w.hv.Reset, "freeze": w.hv.Freeze, "thaw": w.hv.Thaw,
		"destroy": w.hv.Destroy, "suspend": w.hv.Suspend, "resume": w.hv.Resume,
		"detach": func(ctx context.Context, ref hypervisor.Ref) error { return w.hv.DetachDevice(ctx, ref, Disk) },
		"record": func(ctx context.Context, ref hypervisor.Ref) error { return w.hv.SetRecord(ctx, ref, "a", "b") },
		"resize": func(ctx context.Context, ref hypervisor.Ref) error { return w.hv.ResizeBlock(ctx, ref, Disk, 4<<20) },
		"CPUs":   func(ctx context.Context, ref hypervisor.Ref) error { return w.hv.SetVCPUs(ctx, ref, 2) },
		"abort":  func(ctx context.Context, ref hypervisor.Ref) error { return w.hv.AbortJob(ctx, ref, Disk) },
		"owner": func(ctx context.Context, ref hypervisor.Ref) error {
			return w.hv.SetOwner(ctx, hypervisor.Owner{Ref: ref, Host: "other", Epoch: 9})
		},
	} {
		if err := act(w.ctx, other); !errorIs(err, hypervisor.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.hv.Undefine(w.ctx, other, hypervisor.UndefineOptions{}); err != nil {
		t.Errorf("undefine: %v", err)
	}
	if got := w.get(); got.State != hypervisor.StateRunning {
		t.Errorf("the guest is %s", got.State)
	}
}

// testAdopt: an agent that starts anew finds what runs, with its owner.
func testAdopt(t *testing.T, w *world) {
	w.start()
	second := w.harness.New(t)
	domains, err := second.List(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	found := find(domains, w.owner.Ref)
	if found == nil {
		t.Fatalf("not listed: %v", domains)
	}
	if found.Owner != w.owner || found.State != hypervisor.StateRunning || !found.Persistent {
		t.Errorf("found %+v, want owner %+v, running and persistent", found, w.owner)
	}
	if err := second.Destroy(w.ctx, w.owner.Ref); err != nil {
		t.Error(err)
	}
	w.awaitState(hypervisor.StateShutoff, hypervisor.ReasonDestroyed)
}

func testContext(t *testing.T, w *world) {
	ended, cancel := context.WithCancel(w.ctx)
	cancel()
	if _, err := w.hv.List(ended); !errorIs(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	if _, err := w.hv.Start(ended, w.xml(), hypervisor.StartOptions{}); !errorIs(err, context.Canceled) {
		t.Errorf("start: %v", err)
	}
	if err := w.hv.Destroy(ended, w.owner.Ref); !errorIs(err, context.Canceled) {
		t.Errorf("destroy: %v", err)
	}
	if _, err := w.hv.Get(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNotFound) {
		t.Errorf("the canceled start left something: %v", err)
	}
}

func testClose(t *testing.T, w *world) {
	second := w.harness.New(t)
	events := second.Subscribe(w.ctx)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	for range events {
	}
	if _, err := second.List(w.ctx); !errorIs(err, hypervisor.ErrUnavailable) {
		t.Errorf("list after close: %v", err)
	}
}
