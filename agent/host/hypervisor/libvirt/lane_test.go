package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// slowStarts is a daemon, with the limits it has where nobody has changed them, whose
// guests named slow start only when released.
type slowStarts struct {
	*daemon
	emulator string
}

func startSlowDaemon(t *testing.T) *slowStarts {
	t.Helper()
	s := &slowStarts{daemon: startDaemon(t)}
	// The guests' user runs it.
	for _, dir := range []string{"hold", "begun"} {
		path := filepath.Join(s.dir, dir)
		if err := errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	s.emulator = filepath.Join(s.dir, "qemu")
	script := fmt.Sprintf(`#!/bin/sh
case "$*" in *guest=lanes_slow*)
	: > %[1]s/begun/$$
	while [ -e %[1]s/hold ]; do sleep 0.05; done;;
esac
exec /usr/bin/qemu-system-x86_64 "$@"
`, s.dir)
	if err := os.WriteFile(s.emulator, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *slowStarts) slowXML(t *testing.T, owner hypervisor.Owner) string {
	return strings.Replace(s.guestXML(t, owner), "<devices>", "<devices><emulator>"+s.emulator+"</emulator>", 1)
}

func (s *slowStarts) release() { _ = os.Remove(filepath.Join(s.dir, "hold")) }

// begun counts the starts that the daemon is, or was, busy with.
func (s *slowStarts) begun(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "begun"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func laneOwner(name string, i int) hypervisor.Owner {
	return hypervisor.Owner{
		Ref:  hypervisor.Ref{Namespace: "lanes", Name: fmt.Sprint(name, i), UID: fmt.Sprintf("0f7d8a1e-0000-4000-8000-0000000003%02x", i)},
		Host: "host1", Epoch: 1,
	}
}

// TestSlowStartsHoldNobodyUp: more starts than libvirt's limit of 5 calls for each
// connection hang in the daemon for longer than its keep-alive messages wait, and all
// else goes on. Fencing above all: a guest can be destroyed.
func TestSlowStartsHoldNobodyUp(t *testing.T) {
	d := startSlowDaemon(t)
	driver := d.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	t.Cleanup(d.release)
	running := laneOwner("running", 0)
	if _, err := driver.Start(ctx, d.guestXML(t, running), hypervisor.StartOptions{Paused: true}); err != nil {
		t.Fatal(err)
	}
	const guests = 8
	started := make(chan error, guests)
	for i := 1; i <= guests; i++ {
		owner := laneOwner("slow", i)
		xml := d.slowXML(t, owner)
		t.Cleanup(func() { destroySoon(driver, owner.Ref) })
		go func() {
			_, err := driver.Start(ctx, xml, hypervisor.StartOptions{Paused: true})
			started <- err
		}()
	}
	for d.begun(t) < cap(driver.starts.slots) {
		select {
		case err := <-started:
			t.Fatalf("a start ended early: %v", err)
		case <-ctx.Done():
			t.Fatalf("only %d starts have begun", d.begun(t))
		case <-time.After(20 * time.Millisecond):
		}
	}
	events := driver.Subscribe(ctx)
	shortCalls(ctx, t, driver, running.Ref)
	late, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	_, err := driver.Start(late, d.guestXML(t, laneOwner("late", 99)), hypervisor.StartOptions{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "starts are under way") {
		t.Errorf("a start without patience: %v", err)
	}
	if got := d.begun(t); got > cap(driver.starts.slots) {
		t.Errorf("%d starts are under way", got)
	}
	if err := driver.Destroy(ctx, running.Ref); err != nil {
		t.Errorf("destroy: %v", err)
	}
	d.release()
	for range guests {
		if err := <-started; err != nil {
			t.Errorf("start: %v", err)
		}
	}
	for {
		select {
		case e := <-events:
			if e.Kind == hypervisor.EventResync {
				t.Fatalf("a connection was lost: %+v", e)
			}
			continue
		default:
		}
		break
	}
}

// destroySoon ends a guest after its test.
func destroySoon(driver *Driver, ref hypervisor.Ref) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = driver.Destroy(ctx, ref)
}

// shortCalls makes more calls than a connection may have open, each of which must not
// wait for a start.
func shortCalls(ctx context.Context, t *testing.T, driver *Driver, ref hypervisor.Ref) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	const calls = 20
	results := make(chan error, 4*calls)
	for i := range calls {
		go func() { _, err := driver.List(ctx); results <- err }()
		go func() { _, err := driver.Get(ctx, ref); results <- err }()
		go func() { _, err := driver.Stats(ctx); results <- err }()
		go func() { results <- driver.SetRecord(ctx, ref, fmt.Sprint("r", i), "x") }()
	}
	for range 4 * calls {
		if err := <-results; err != nil {
			t.Errorf("while guests start: %v", err)
		}
	}
	if got, err := driver.Get(ctx, ref); err != nil || len(got.Records) != calls {
		t.Errorf("%d of %d records, %v", len(got.Records), calls, err)
	}
}

// TestLanesAreBoundedAndApart: each sort of calls waits for itself alone, and no more
// of them are under way than fit beside each other in a daemon with 20 workers and 5
// calls for each connection.
func TestLanesAreBoundedAndApart(t *testing.T) {
	d := startDaemon(t)
	driver := d.open(t)
	const maxClientRequests, maxWorkers = 5, 20
	lanes := []*lane{driver.queries, driver.acts, driver.ends, driver.starts, driver.agents, driver.freezes, driver.moves, driver.counters}
	sum := 0
	for _, l := range lanes {
		width := cap(l.slots)
		sum += width
		if width >= maxClientRequests {
			t.Errorf("%s: %d calls at once fill the connection", l.name, width)
		}
		held, begun := make(chan struct{}), make(chan struct{})
		ended := make(chan error, width)
		for range width {
			go func() {
				_, err := call(t.Context(), driver, l, "hang", nil, func(*libvirt.Connect) (int, error) {
					begun <- struct{}{}
					<-held
					return 0, nil
				})
				ended <- err
			}()
		}
		for range width {
			<-begun
		}
		for _, other := range lanes {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if other == l {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
			}
			alive, err := call(ctx, driver, other, "ask", nil, func(c *libvirt.Connect) (bool, error) { return c.IsAlive() })
			if other == l && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("one more of %s: %v", l.name, err)
			}
			if other != l && (err != nil || !alive) {
				t.Errorf("%s while %s is full: %v", other.name, l.name, err)
			}
			cancel()
		}
		close(held)
		for range width {
			if err := <-ended; err != nil {
				t.Errorf("%s: %v", l.name, err)
			}
		}
	}
	if sum > maxWorkers {
		t.Errorf("%d calls at once are more than the daemon's workers", sum)
	}
}

// TestLanesReconnect: a lane finds the daemon again that was restarted under it.
func TestLanesReconnect(t *testing.T) {
	d := startDaemon(t)
	driver := d.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ask := func(l *lane) error {
		_, err := call(ctx, driver, l, "ask", nil, func(c *libvirt.Connect) (uint32, error) { return c.GetLibVersion() })
		return err
	}
	if err := ask(driver.ends); err != nil {
		t.Fatal(err)
	}
	events := driver.Subscribe(ctx)
	if err := d.KillLibvirtd(ctx); err != nil {
		t.Fatal(err)
	}
	if err := ask(driver.ends); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("while the daemon is away: %v", err)
	}
	d.restart(ctx, t)
	awaitResync(ctx, t, events)
	if err := ask(driver.ends); err != nil {
		t.Errorf("after it is back: %v", err)
	}
}
