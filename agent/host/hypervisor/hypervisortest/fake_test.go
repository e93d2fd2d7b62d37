package hypervisortest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"virtmesh/agent/host/hypervisor"
)

func fakeXML(owner hypervisor.Owner) string {
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><metadata>%s</metadata><memory unit='MiB'>32</memory><vcpu current='1'>2</vcpu>
<devices><disk><source file='/disks/x%s'/><target dev='vda'/><alias name='ua-%s'/></disk><disk device='cdrom'><alias name='ua-%s'/></disk></devices></domain>`,
		owner.DomainName(), owner.UID, owner.Metadata(), DiskSuffix, Disk, Drive)
}

func fakeFirmwareXML(owner hypervisor.Owner) string {
	xml := strings.Replace(fakeXML(owner), "<vcpu", "<os firmware='efi'/><vcpu", 1)
	return strings.Replace(xml, "</devices>", "<tpm model='tpm-crb'><backend type='emulator' persistent_state='yes'/></tpm></devices>", 1)
}

func TestFakePassesTheSuite(t *testing.T) {
	machine := NewMachine()
	Run(t, Harness{
		New: func(t *testing.T) hypervisor.Hypervisor {
			f := machine.Open()
			t.Cleanup(func() { _ = f.Close() })
			return f
		},
		XML: func(_ *testing.T, owner hypervisor.Owner) string { return fakeXML(owner) },
		DataDisk: func(_ *testing.T, name string) string {
			return fmt.Sprintf(`<disk type='file'><source file='/disks/%s'/><alias name='ua-%s'/></disk>`, name, name)
		},
		Medium: func(*testing.T) (string, string) {
			return fmt.Sprintf(`<disk device='cdrom'><source file='/disks/medium'/><alias name='ua-%s'/></disk>`, Drive), "/disks/medium"
		},
		Firmware: func(_ *testing.T, owner hypervisor.Owner) string { return fakeFirmwareXML(owner) },
		FirmwareState: func(_ *testing.T, owner hypervisor.Owner) (nvram, tpm bool) {
			return machine.HasFirmwareState(owner.DomainName(), owner.UID)
		},
		BeginBlockCopy: func(t *testing.T, ref hypervisor.Ref) {
			if err := machine.BeginJob(ref, hypervisor.Job{Kind: hypervisor.JobBlockCopy, Volume: Disk, Total: 1 << 20}); err != nil {
				t.Fatal(err)
			}
		},
		DefineForeign: func(_ *testing.T, name string) func() bool {
			machine.DefineForeign(name)
			return func() bool { return machine.Has(name) }
		},
	})
}

var someone = hypervisor.Owner{Ref: hypervisor.Ref{Namespace: "n", Name: "vm", UID: "u"}, Host: "h", Epoch: 1}

func TestTheWorldActsOnGuests(t *testing.T) {
	f := NewFake()
	defer f.Close()
	events := f.Subscribe(t.Context())
	if _, err := f.Start(t.Context(), fakeXML(someone), hypervisor.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	m, ref := f.Machine(), someone.Ref
	info := hypervisor.GuestInfo{Hostname: "guest"}
	for _, act := range []error{m.SetAgent(ref, &info), m.IOError(ref, "root", "nospace")} {
		if act != nil {
			t.Fatal(act)
		}
	}
	if got, err := f.GuestInfo(t.Context(), ref); err != nil || got.Hostname != "guest" {
		t.Errorf("the agent says %+v, %v", got, err)
	}
	if err := m.Crash(ref); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Get(t.Context(), ref); err != nil || got.State != hypervisor.StateShutoff || got.Reason.Success() || got.AgentConnected {
		t.Errorf("crashed: %+v, %v", got, err)
	}
	for i, want := range []hypervisor.Event{
		{Kind: hypervisor.EventState, State: hypervisor.StateRunning, Reason: hypervisor.ReasonBooted},
		{Kind: hypervisor.EventAgent, Connected: true},
		{Kind: hypervisor.EventIOError, Device: "root", Detail: "nospace"},
		{Kind: hypervisor.EventState, State: hypervisor.StatePaused, Reason: hypervisor.ReasonIOError},
		{Kind: hypervisor.EventAgent},
		{Kind: hypervisor.EventState, State: hypervisor.StateShutoff, Reason: hypervisor.ReasonCrashed},
	} {
		got := <-events
		want.Ref, want.Time = ref, got.Time
		if got != want {
			t.Errorf("event %d: %+v, want %+v", i, got, want)
		}
	}
}

func TestDaemonAwayAndBack(t *testing.T) {
	f := NewFake()
	defer f.Close()
	m := f.Machine()
	if _, err := f.Start(t.Context(), fakeXML(someone), hypervisor.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	events := f.Subscribe(t.Context())
	m.SetAway(true)
	if _, err := f.List(t.Context()); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("list: %v", err)
	}
	if err := m.PowerOff(someone.Ref); err != nil {
		t.Fatal(err)
	}
	m.SetAway(false)
	if e := <-events; e.Kind != hypervisor.EventResync {
		t.Errorf("got %+v, want a resync", e)
	}
	wanted := errors.New("no memory")
	m.Fail("Start", wanted)
	if _, err := f.Start(t.Context(), fakeXML(someone), hypervisor.StartOptions{}); !errors.Is(err, wanted) {
		t.Errorf("start: %v", err)
	}
	if _, err := f.Start(t.Context(), fakeXML(someone), hypervisor.StartOptions{}); err != nil {
		t.Errorf("start again: %v", err)
	}
}

func TestFakeMigrates(t *testing.T) {
	here, there := NewFake(), NewFake()
	defer here.Close()
	defer there.Close()
	here.Machine().Reach("fake://there", there.Machine())
	if _, err := here.Start(t.Context(), fakeXML(someone), hypervisor.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	moved := someone
	moved.Host, moved.Epoch = "h2", 2
	opts := hypervisor.MigrateOptions{Destination: "fake://there", Owner: moved}
	there.Machine().Fail("Arrive", errors.New("no room"))
	if _, err := here.Migrate(t.Context(), someone.Ref, opts); err == nil {
		t.Error("it went where there is no room")
	}
	if got, err := here.Get(t.Context(), someone.Ref); err != nil || got.State != hypervisor.StateRunning {
		t.Errorf("after the refusal: %+v, %v", got, err)
	}
	if _, err := here.Migrate(t.Context(), someone.Ref, opts); err != nil {
		t.Fatal(err)
	}
	if got, err := there.Get(t.Context(), someone.Ref); err != nil || got.State != hypervisor.StateRunning || got.Owner != moved {
		t.Errorf("there: %+v, %v", got, err)
	}
	if got, err := here.Get(t.Context(), someone.Ref); err != nil || got.State != hypervisor.StateShutoff || got.Reason != hypervisor.ReasonMigrated {
		t.Errorf("here: %+v, %v", got, err)
	}
}
