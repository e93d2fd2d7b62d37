package libvirt

import (
	"context"
	"errors"
	"testing"
	"time"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/privatelibvirtd"
)

// TestDaemonRestarts: libvirtd may be stopped, killed and upgraded; guests go on, the
// driver comes back by itself, and says that it may have missed something.
func TestDaemonRestarts(t *testing.T) {
	d := startDaemon(t)
	driver := d.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	owner := hypervisor.Owner{
		Ref:  hypervisor.Ref{Namespace: "restart", Name: "vm", UID: "0f7d8a1e-0000-4000-8000-0000000000b1"},
		Host: "host1", Epoch: 5,
	}
	if _, err := driver.Start(ctx, d.guestXML(t, owner), hypervisor.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.virsh(t, "destroy", owner.DomainName()) })
	if err := driver.SetRecord(ctx, owner.Ref, "noted", "before"); err != nil {
		t.Fatal(err)
	}
	for name, stop := range map[string]func(context.Context) error{
		"stop": d.StopLibvirtd, "kill": d.KillLibvirtd,
	} {
		events := driver.Subscribe(ctx)
		if err := stop(ctx); err != nil {
			t.Fatal(err)
		}
		// The loss shows at once, or with the next call.
		if _, err := driver.List(ctx); !errors.Is(err, hypervisor.ErrUnavailable) {
			t.Errorf("%s: list while it is away: %v", name, err)
		}
		d.restart(ctx, t)
		awaitResync(ctx, t, events)
		got, err := driver.Get(ctx, owner.Ref)
		if err != nil || got.State != hypervisor.StateRunning || got.Owner != owner || got.Records["noted"] != "before" {
			t.Errorf("%s: after it is back: %+v, %v", name, got, err)
		}
		// Events flow again on the new connection.
		if err := driver.Suspend(ctx, owner.Ref); err != nil {
			t.Fatal(err)
		}
		awaitEvent(ctx, t, events, hypervisor.StatePaused)
		if err := driver.Resume(ctx, owner.Ref); err != nil {
			t.Fatal(err)
		}
		awaitEvent(ctx, t, events, hypervisor.StateRunning)
	}
}

// restart brings a stopped libvirtd back.
func (d *daemon) restart(ctx context.Context, t *testing.T) {
	t.Helper()
	if _, err := privatelibvirtd.Start(ctx, d.cfg); err != nil {
		t.Fatal(err)
	}
}

func awaitResync(ctx context.Context, t *testing.T, events <-chan hypervisor.Event) {
	t.Helper()
	for {
		select {
		case e := <-events:
			if e.Kind == hypervisor.EventResync {
				return
			}
		case <-ctx.Done():
			t.Fatal("no resync")
		}
	}
}

func awaitEvent(ctx context.Context, t *testing.T, events <-chan hypervisor.Event, state hypervisor.State) {
	t.Helper()
	for {
		select {
		case e := <-events:
			if e.State == state {
				return
			}
		case <-ctx.Done():
			t.Fatalf("no event of %s", state)
		}
	}
}

// TestNewWithoutDaemon: an agent that starts before libvirtd waits for it.
func TestNewWithoutDaemon(t *testing.T) {
	d := startDaemon(t)
	if err := d.StopLibvirtd(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.URI, cfg.ConnectTimeout = d.URI, 10*time.Millisecond
	driver, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer driver.Close()
	if _, err := driver.Capabilities(t.Context()); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("capabilities: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events := driver.Subscribe(ctx)
	d.restart(ctx, t)
	awaitResync(ctx, t, events)
	if _, err := driver.List(ctx); err != nil {
		t.Errorf("list: %v", err)
	}
}
