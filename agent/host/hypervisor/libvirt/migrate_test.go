package libvirt

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
)

// TestMigrate moves a running guest with its disk between two daemons that reach each
// other through UNIX sockets alone, and gives it up half way once before.
func TestMigrate(t *testing.T) {
	source, target := startDaemon(t), startDaemon(t)
	here, there := source.open(t), target.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	owner := hypervisor.Owner{
		Ref:  hypervisor.Ref{Namespace: "moving", Name: "vm", UID: "0f7d8a1e-0000-4000-8000-0000000000c1"},
		Host: "host1", Epoch: 5,
	}
	if _, err := here.Start(ctx, source.guestXML(t, owner), hypervisor.StartOptions{Paused: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// One of the two has it.
		_ = here.Destroy(context.WithoutCancel(ctx), owner.Ref)
		_ = there.Destroy(context.WithoutCancel(ctx), owner.Ref)
	})
	ready(ctx, t, here, owner.Ref)

	disk := filepath.Join(target.dir, "moved"+hypervisortest.DiskSuffix)
	if err := os.WriteFile(disk, make([]byte, len(hypervisortest.BootDisk())), 0o600); err != nil {
		t.Fatal(err)
	}
	moved := owner
	moved.Host, moved.Epoch = "host2", 6
	opts := hypervisor.MigrateOptions{
		Destination: target.URI,
		MemoryURI:   "unix://" + meetingPlace(t, source, "memory"),
		DisksURI:    "unix://" + meetingPlace(t, source, "disks"),
		Owner:       moved,
		CopyVolumes: []string{hypervisortest.Disk},
		DiskPaths:   map[string]string{hypervisortest.Disk: disk},
	}
	giveUpHalfWay(ctx, t, here, owner.Ref, opts)
	abortedByAnother(ctx, t, source, owner.Ref, opts)

	events, left := there.Subscribe(ctx), here.Subscribe(ctx)
	awaited := awaitFromAnother(ctx, t, source, owner.Ref)
	stats, err := here.Migrate(ctx, owner.Ref, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-awaited; err != nil {
		t.Errorf("another agent waits for the migration: %v", err)
	}
	if stats.Elapsed <= 0 || stats.MemoryTotal == 0 {
		t.Errorf("statistics: %+v", stats)
	}
	got, err := there.Get(ctx, owner.Ref)
	if err != nil || got.State != hypervisor.StateRunning || got.Owner != moved || !got.Persistent {
		t.Errorf("there: %+v, %v", got, err)
	}
	awaitEvent(ctx, t, events, hypervisor.StateRunning)
	awaitArrival(ctx, t, left, owner.Ref)
	remains, err := here.Get(ctx, owner.Ref)
	if err != nil || remains.State != hypervisor.StateShutoff || remains.Reason != hypervisor.ReasonMigrated {
		t.Errorf("here: %+v, %v", remains, err)
	}
	if err := here.Undefine(ctx, owner.Ref, hypervisor.UndefineOptions{}); err != nil {
		t.Error(err)
	}
	alive(ctx, t, there, owner.Ref)
	if data, err := os.ReadFile(disk); err != nil || string(data) != string(hypervisortest.BootDisk()) {
		t.Errorf("the disk did not come along: %v", err)
	}
}

// ready resumes a guest that was started paused, and waits until it is up.
func ready(ctx context.Context, t *testing.T, driver *Driver, ref hypervisor.Ref) {
	t.Helper()
	console, err := driver.Console(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	if err := driver.Resume(ctx, ref); err != nil {
		t.Fatal(err)
	}
	readUntil(t, console, hypervisortest.Ready)
}

// giveUpHalfWay begins a migration too slow to end, and ends its context.
func giveUpHalfWay(ctx context.Context, t *testing.T, here *Driver, ref hypervisor.Ref, opts hypervisor.MigrateOptions) {
	t.Helper()
	opts.BytesPerSecond = 1
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := here.Migrate(short, ref, opts)
		result <- err
	}()
	for {
		stats, err := here.MigrationStats(ctx, ref)
		if err == nil && stats.Elapsed > 0 {
			break
		}
		select {
		case err := <-result:
			t.Fatalf("it ended before it could be given up: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) || errors.Is(err, hypervisor.ErrMigrationLost) {
		t.Errorf("given up: %v", err)
	}
	if got, err := here.Get(ctx, ref); err != nil || got.State != hypervisor.StateRunning {
		t.Errorf("given up, it is %+v, %v", got, err)
	}
}

// slowMigration begins a migration that would take minutes, and returns when it is under
// way. The channel gets its end.
func slowMigration(ctx context.Context, t *testing.T, driver *Driver, ref hypervisor.Ref, opts hypervisor.MigrateOptions) <-chan error {
	t.Helper()
	opts.BytesPerSecond = 1
	result := make(chan error, 1)
	go func() {
		_, err := driver.Migrate(ctx, ref, opts)
		result <- err
	}()
	for {
		jobs, err := driver.Jobs(ctx, ref)
		if err == nil && len(jobs) > 0 && jobs[0].Kind == hypervisor.JobMigrationOut {
			return result
		}
		select {
		case err := <-result:
			t.Fatalf("it ended before it was seen: %v", err)
		case <-ctx.Done():
			t.Fatalf("no migration under way: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// abortedByAnother: the agent that finds a migration under way can end it, and learns
// that it has ended.
func abortedByAnother(ctx context.Context, t *testing.T, source *daemon, ref hypervisor.Ref, opts hypervisor.MigrateOptions) {
	t.Helper()
	first, next := source.open(t), source.open(t)
	result := slowMigration(ctx, t, first, ref, opts)
	awaited := make(chan error, 1)
	go func() { _, err := next.AwaitMigration(ctx, ref); awaited <- err }()
	if err := next.AbortJob(ctx, ref, ""); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err == nil || errors.Is(err, hypervisor.ErrMigrationLost) {
		t.Errorf("the aborted migration ends with %v", err)
	}
	if err := <-awaited; err == nil || errors.Is(err, hypervisor.ErrMigrationLost) || errors.Is(err, hypervisor.ErrNotRunning) {
		t.Errorf("who waits for it is told %v", err)
	}
	if jobs, err := next.Jobs(ctx, ref); err != nil || len(jobs) != 0 {
		t.Errorf("jobs after the abort: %+v, %v", jobs, err)
	}
}

// awaitArrival waits for the event that a migration out has completed.
func awaitArrival(ctx context.Context, t *testing.T, events <-chan hypervisor.Event, ref hypervisor.Ref) {
	t.Helper()
	for {
		select {
		case e := <-events:
			if e.Kind == hypervisor.EventJob && e.Job == hypervisor.JobMigrationOut && e.Result == hypervisor.JobCompleted && e.Ref == ref {
				return
			}
		case <-ctx.Done():
			t.Error("the completion of the migration is not reported")
			return
		}
	}
}

// awaitFromAnother waits for a migration with a driver that did not begin it.
func awaitFromAnother(ctx context.Context, t *testing.T, source *daemon, ref hypervisor.Ref) <-chan error {
	t.Helper()
	next := source.open(t)
	result := make(chan error, 1)
	go func() {
		for {
			stats, err := next.AwaitMigration(ctx, ref)
			// Before it begins, the guest has not left.
			if err == nil || stats.Elapsed > 0 || ctx.Err() != nil {
				result <- err
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return result
}

// meetingPlace is a socket's path that the emulators of both daemons may use.
func meetingPlace(t *testing.T, d *daemon, name string) string {
	t.Helper()
	dir := filepath.Join(d.dir, "meet")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// alive makes the guest echo.
func alive(ctx context.Context, t *testing.T, driver *Driver, ref hypervisor.Ref) {
	t.Helper()
	console, err := driver.Console(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	if _, err := console.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	readUntil(t, console, "x")
}

func readUntil(t *testing.T, from interface{ Read([]byte) (int, error) }, text string) {
	t.Helper()
	var seen strings.Builder
	buf := make([]byte, 64)
	for !strings.Contains(seen.String(), text) {
		n, err := from.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v before %q, after %q", err, text, seen.String())
		}
	}
}

func TestRewriteChangesOnlyWhatDiffers(t *testing.T) {
	domain := &libvirtxml.Domain{}
	if err := domain.Unmarshal(`<domain><name>n_vm</name><metadata><old/></metadata>
<memtune><hard_limit unit='KiB'>900000</hard_limit><soft_limit unit='KiB'>5</soft_limit></memtune>
<os><nvram>/here/vars</nvram></os><devices>
<disk type='file'><source file='/here/a'/><target dev='vda'/><alias name='ua-a'/></disk>
<disk type='block'><source dev='/dev/here/b'/><target dev='vdb'/><alias name='ua-b'/></disk>
<disk type='file'><source file='/shared/c'/><target dev='vdc'/><alias name='ua-c'/></disk>
<interface type='ethernet'><target dev='tap1' managed='no'/><alias name='ua-net'/></interface>
<serial type='pty'><log file='/here/log'/></serial>
</devices></domain>`); err != nil {
		t.Fatal(err)
	}
	owner := hypervisor.Owner{Ref: hypervisor.Ref{Namespace: "n", Name: "vm", UID: "u"}, Host: "host2", Epoch: 9}
	copied, err := rewrite(domain, hypervisor.MigrateOptions{
		Owner: owner, CopyVolumes: []string{"b"}, NVRAM: "/there/vars", SerialLog: "/there/log",
		DiskPaths:  map[string]string{"a": "/there/a", "b": "/dev/there/b"},
		TapDevices: map[string]string{"net": "tap7"},
	})
	if err != nil || len(copied) != 1 || copied[0] != "vdb" {
		t.Fatalf("copied %v, %v", copied, err)
	}
	text, err := domain.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/there/a", "/dev/there/b", "/shared/c", "tap7", "/there/log", "/there/vars"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "hard_limit") || !strings.Contains(text, "soft_limit") {
		t.Errorf("the limit of memory, which a host may not be able to keep, goes along:\n%s", text)
	}
	if strings.Contains(text, "/here/") {
		t.Errorf("something of here is left in:\n%s", text)
	}
	if got, ok, err := hypervisor.OwnerOf(text); err != nil || !ok || got != owner {
		t.Errorf("owner %+v, %v, %v", got, ok, err)
	}
	if _, err := rewrite(domain, hypervisor.MigrateOptions{Owner: owner, CopyVolumes: []string{"x"}}); !errors.Is(err, hypervisor.ErrInvalid) {
		t.Errorf("a volume that is not there: %v", err)
	}
}
