package hypervisortest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"virtmesh/agent/host/hypervisor"
)

// startFake returns a connection to a machine on which the guest of someone runs.
func startFake(t *testing.T) (*Fake, *Machine, hypervisor.Ref) {
	t.Helper()
	f := NewFake()
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.Start(t.Context(), fakeXML(someone), hypervisor.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	return f, f.Machine(), someone.Ref
}

func plug(t *testing.T, f *Fake, device string) {
	t.Helper()
	if err := f.AttachDevice(t.Context(), someone.Ref, device); err != nil {
		t.Fatal(err)
	}
}

func TestGuestsLetGoOrKeep(t *testing.T) {
	f, m, ref := startFake(t)
	const device = "<interface><alias name='ua-net'/></interface>"
	plug(t, f, device)
	events := f.Subscribe(t.Context())
	// Nothing happens to what the guest was not asked for.
	if err := errors.Join(m.LetGo(ref, "net"), m.KeepDevice(ref, "net"), f.Reset(t.Context(), ref)); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Kind != hypervisor.EventReboot {
		t.Errorf("got %+v", e)
	}
	for _, answer := range []struct {
		give func(hypervisor.Ref, string) error
		want hypervisor.EventKind
	}{
		{m.KeepDevice, hypervisor.EventDeviceKept}, {m.LetGo, hypervisor.EventDeviceRemoved},
	} {
		if err := errors.Join(f.DetachDevice(t.Context(), ref, "net"), answer.give(ref, "net")); err != nil {
			t.Fatal(err)
		}
		if e := <-events; e.Kind != answer.want || e.Device != "net" || e.Ref != ref {
			t.Errorf("got %+v, want %s", e, answer.want)
		}
		live, err := f.LiveDefinition(t.Context(), ref)
		if err != nil || strings.Contains(live, device) != (answer.want == hypervisor.EventDeviceKept) {
			t.Errorf("after %s the definition is %s, %v", answer.want, live, err)
		}
	}
}

func TestLiveDefinitionShowsWhatHasChanged(t *testing.T) {
	f, _, ref := startFake(t)
	ctx := t.Context()
	plug(t, f, "<interface type='ethernet'><link state='up'/><alias name='ua-net'/></interface>")
	if err := f.UpdateDevice(ctx, ref, "<interface type='ethernet'><link state='down'/><alias name='ua-net'/></interface>"); err != nil {
		t.Fatal(err)
	}
	if err := f.UpdateDevice(ctx, ref, "<disk><alias name='ua-net'/></disk>"); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("an interface becomes a disk: %v", err)
	}
	if err := f.SetVCPUs(ctx, ref, 2); err != nil {
		t.Fatal(err)
	}
	live, err := f.LiveDefinition(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<link state='down'/>", "<vcpu current='2'>2</vcpu>", "ua-root", someone.Metadata()} {
		if !strings.Contains(live, want) {
			t.Errorf("%s is missing in %s", want, live)
		}
	}
	if strings.Contains(live, "state='up'") {
		t.Errorf("the interface is there twice in %s", live)
	}
	if _, _, _, err := parse(live); err != nil {
		t.Errorf("the definition cannot be read again: %v", err)
	}
}

func TestFakeMemoryDevice(t *testing.T) {
	f, _, ref := startFake(t)
	const mib = 1 << 20
	plug(t, f, `<memory model='virtio-mem'><target><size unit='MiB'>64</size><block unit='MiB'>2</block></target><alias name='ua-extra'/></memory>`)
	for _, c := range []struct{ ask, have int64 }{{40 * mib, 40 * mib}, {41 * mib, 42 * mib}, {96 * mib, 96 * mib}, {16 * mib, 16 * mib}} {
		if err := f.SetMemory(t.Context(), ref, c.ask); err != nil {
			t.Fatal(err)
		}
		if all, err := f.Stats(t.Context()); err != nil || len(all) != 1 || all[0].Memory.Current != uint64(c.have) {
			t.Errorf("asked for %d: %+v, %v", c.ask, all, err)
		}
	}
	if err := f.SetMemory(t.Context(), ref, 97*mib); !errors.Is(err, hypervisor.ErrInvalid) {
		t.Errorf("more than the device has: %v", err)
	}
}

func TestDeafGuestGoesOn(t *testing.T) {
	f, m, ref := startFake(t)
	if err := errors.Join(m.SetDeaf(ref, true), f.Shutdown(t.Context(), ref)); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Get(t.Context(), ref); err != nil || got.State != hypervisor.StateRunning {
		t.Errorf("asked to end, it is %s, %v", got.State, err)
	}
	if err := errors.Join(m.SetDeaf(ref, false), f.Shutdown(t.Context(), ref)); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Get(t.Context(), ref); err != nil || got.State != hypervisor.StateShutoff {
		t.Errorf("asked again, it is %s, %v", got.State, err)
	}
}

func TestTheWorldPausesGuests(t *testing.T) {
	f, m, ref := startFake(t)
	for _, reason := range []hypervisor.Reason{hypervisor.ReasonWatchdog, hypervisor.ReasonPostcopyFailed, hypervisor.ReasonStarting} {
		if err := m.Pause(ref, reason); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Get(t.Context(), ref); err != nil || got.State != hypervisor.StatePaused || got.Reason != reason {
			t.Errorf("paused for %s, it is %s, %s, %v", reason, got.State, got.Reason, err)
		}
	}
	if _, err := f.AwaitMigration(t.Context(), ref); errors.Is(err, hypervisor.ErrMigrationLost) || err == nil {
		t.Errorf("paused at its start, its migration ends with %v", err)
	}
}

func TestJobsEndWithTheirGuest(t *testing.T) {
	f, m, ref := startFake(t)
	ctx := t.Context()
	for _, job := range []hypervisor.Job{
		{Kind: hypervisor.JobBlockCopy, Volume: "root"}, {Kind: hypervisor.JobBackup}, {Kind: hypervisor.JobBlockPull, Volume: "data"},
	} {
		if err := m.BeginJob(ref, job); err != nil {
			t.Fatal(err)
		}
	}
	jobs, err := f.Jobs(ctx, ref)
	if err != nil || len(jobs) != 3 || jobs[0].Kind != hypervisor.JobBackup {
		t.Errorf("jobs %+v, %v", jobs, err)
	}
	events := f.Subscribe(ctx)
	if err := m.EndJob(ref, "data", hypervisor.JobFailed, "no space"); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Kind != hypervisor.EventJob || e.Job != hypervisor.JobBlockPull || e.Device != "data" || e.Result != hypervisor.JobFailed || e.Detail != "no space" {
		t.Errorf("got %+v", e)
	}
	if err := f.Destroy(ctx, ref); err != nil {
		t.Fatal(err)
	}
	if jobs, err := f.Jobs(ctx, ref); err != nil || len(jobs) != 0 {
		t.Errorf("jobs of a guest that is off: %+v, %v", jobs, err)
	}
	if err := m.BeginJob(ref, hypervisor.Job{}); !errors.Is(err, hypervisor.ErrNotRunning) {
		t.Errorf("a job on a guest that is off: %v", err)
	}
}

// TestAwaitMigration: who finds a migration under way learns its end, however it ends.
func TestAwaitMigration(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(context.Context, *Fake, hypervisor.Ref) error
		fits func(error) bool
	}{
		{"completes", func(_ context.Context, f *Fake, ref hypervisor.Ref) error {
			return f.Machine().EndJob(ref, "", hypervisor.JobCompleted, "")
		}, func(err error) bool { return err == nil }},
		{"is aborted", func(ctx context.Context, f *Fake, ref hypervisor.Ref) error { return f.AbortJob(ctx, ref, "") },
			func(err error) bool {
				return err != nil && !errors.Is(err, hypervisor.ErrNotRunning) && !errors.Is(err, hypervisor.ErrMigrationLost)
			}},
		{"ends with the guest", func(_ context.Context, f *Fake, ref hypervisor.Ref) error { return f.Machine().Crash(ref) },
			func(err error) bool { return errors.Is(err, hypervisor.ErrNotRunning) }},
		{"fails after post-copy", func(_ context.Context, f *Fake, ref hypervisor.Ref) error {
			return errors.Join(f.Machine().Pause(ref, hypervisor.ReasonPostcopyFailed), f.Machine().EndJob(ref, "", hypervisor.JobFailed, ""))
		}, func(err error) bool { return errors.Is(err, hypervisor.ErrMigrationLost) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, m, ref := startFake(t)
				job := hypervisor.Job{Kind: hypervisor.JobMigrationOut, Migration: hypervisor.MigrationStats{MemoryTotal: 7}}
				if err := m.BeginJob(ref, job); err != nil {
					t.Fatal(err)
				}
				if stats, err := f.MigrationStats(t.Context(), ref); err != nil || stats.MemoryTotal != 7 {
					t.Errorf("under way: %+v, %v", stats, err)
				}
				ended := make(chan error, 1)
				go func() { _, err := f.AwaitMigration(t.Context(), ref); ended <- err }()
				synctest.Wait()
				select {
				case err := <-ended:
					t.Fatalf("it does not wait: %v", err)
				default:
				}
				if err := c.end(t.Context(), f, ref); err != nil {
					t.Fatal(err)
				}
				if err := <-ended; !c.fits(err) {
					t.Errorf("it ends with %v", err)
				}
			})
		})
	}
	f, m, ref := startFake(t)
	if err := m.BeginJob(ref, hypervisor.Job{Kind: hypervisor.JobMigrationOut}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.AwaitMigration(ctx, ref); !errors.Is(err, context.Canceled) {
		t.Errorf("a waiter without patience: %v", err)
	}
	if jobs, err := f.Jobs(t.Context(), ref); err != nil || len(jobs) != 1 {
		t.Errorf("the migration ended with its waiter: %+v, %v", jobs, err)
	}
}

func TestFakeUpgrade(t *testing.T) {
	f, m, _ := startFake(t)
	m.SetCapabilities(func(c *hypervisor.Capabilities) { c.HypervisorVersion = "8.0.0" })
	if got, err := f.Capabilities(t.Context()); err != nil || got.HypervisorVersion != "8.0.0" {
		t.Errorf("upgraded: %+v, %v", got, err)
	}
}

// TestRecordsStayBehind: they are of the host that wrote them.
func TestRecordsStayBehind(t *testing.T) {
	here, m, ref := startFake(t)
	there := NewFake()
	defer there.Close()
	m.Reach("fake://there", there.Machine())
	if err := here.SetRecord(t.Context(), ref, "a", "b"); err != nil {
		t.Fatal(err)
	}
	plug(t, here, "<disk><alias name='ua-data'/></disk>")
	if _, err := here.Migrate(t.Context(), ref, hypervisor.MigrateOptions{Destination: "fake://there", Owner: someone}); err != nil {
		t.Fatal(err)
	}
	got, err := there.Get(t.Context(), ref)
	if err != nil || len(got.Records) != 0 {
		t.Errorf("there: %+v, %v", got, err)
	}
	live, err := there.LiveDefinition(t.Context(), ref)
	if err != nil || !strings.Contains(live, "ua-data") {
		t.Errorf("what was plugged did not come along: %s, %v", live, err)
	}
	if _, err := here.AwaitMigration(t.Context(), ref); err != nil {
		t.Errorf("whoever asks later: %v", err)
	}
}
