//go:build metal

package metal

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// long skips a test that takes more time than CI has.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test is not for CI")
	}
}

// hostTimeout is how long a host may take to shut down its guests, start and be Ready.
const hostTimeout = 8 * time.Minute

// waitReady waits until a host is Ready in the eyes of another one, or in its own.
func waitReady(t *testing.T, asked, host string) {
	t.Helper()
	eventually(t, hostTimeout, host+" is Ready", func(ctx context.Context) error {
		out, err := virtmesh(ctx, asked, "", "get", "node", host, "-o", "json")
		if err == nil && !strings.Contains(strings.Join(strings.Fields(out), ""), `"status":"True","type":"Ready"`) {
			err = fmt.Errorf("its conditions are %s", out)
		}
		return err
	})
}

// A host whose power fails, and one that is rebooted in order, comes back as the same
// member, and its guest runs again once.
func TestHostComesBack(t *testing.T) {
	long(t)
	startGuest(t, "host2", "back")
	for _, trial := range []struct {
		how       string
		interrupt func()
	}{
		{"a power cut", func() {
			for _, command := range []string{"kill", "start"} {
				if _, err := lab(t.Context(), command, "host2"); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"a reboot", func() {
			// A guest that does not listen yet takes its whole grace period.
			eventually(t, guestTimeout, "the guest answers", func(ctx context.Context) error { return answers(ctx, "host1", "back") })
			inside(t, "host2", "systemd-run --on-active=1 systemctl reboot")
		}},
	} {
		how := trial.how
		boot := inside(t, "host2", "cat /proc/sys/kernel/random/boot_id")
		trial.interrupt()
		eventually(t, hostTimeout, "host2 has started again after "+how, func(ctx context.Context) error {
			now, err := try(ctx, "host2", "cat /proc/sys/kernel/random/boot_id")
			if err == nil && now == boot {
				err = fmt.Errorf("it has not ended yet")
			}
			return err
		})
		waitReady(t, "host1", "host2")
		eventually(t, startTimeout, "the guest runs again after "+how, func(ctx context.Context) error {
			out, err := try(ctx, "host2", "virsh list --name --state-running")
			if err == nil && strings.TrimSpace(out) != "default_back" {
				err = fmt.Errorf("these run: %q", out)
			}
			return err
		})
		if elsewhere := inside(t, "host1", "virsh list --name --all"); elsewhere != "" {
			t.Errorf("after %s host1 has the guests %q", how, elsewhere)
		}
	}
}

// A reboot of a host ends its guest between the agent and libvirt, in less than libvirt-guests
// would wait; after the boot it is known that the guest ended with its host, and the machine is
// back. The restart of the agent alone, and a stop of the unit, end nothing.
func TestRebootShutsGuestsDownInOrder(t *testing.T) {
	long(t)
	startGuest(t, "host2", "ordered")
	eventually(t, guestTimeout, "the guest answers", func(ctx context.Context) error { return answers(ctx, "host1", "ordered") })
	before := qemuOf(t, "host2", "ordered")
	inside(t, "host2", "systemctl is-active virtmesh-shutdown && systemctl restart virtmesh && systemctl stop virtmesh-shutdown && systemctl start virtmesh-shutdown")
	waitReady(t, "host1", "host2")
	if now := qemuOf(t, "host2", "ordered"); now != before {
		t.Fatalf("the guest's emulator was %s and is %s", before, now)
	}
	inside(t, "host2", "mkdir -p /var/log/journal && systemctl restart systemd-journald && journalctl --flush")
	boot := inside(t, "host2", "cat /proc/sys/kernel/random/boot_id")
	inside(t, "host2", "systemd-run --on-active=1 systemctl reboot")
	eventually(t, hostTimeout, "host2 has started again", func(ctx context.Context) error {
		now, err := try(ctx, "host2", "cat /proc/sys/kernel/random/boot_id")
		if err == nil && now == boot {
			err = fmt.Errorf("it has not ended yet")
		}
		return err
	})
	log := inside(t, "host2", "journalctl -b -1 -q --no-pager -u virtmesh-shutdown")
	if !strings.Contains(log, "guest was shut down") || !strings.Contains(log, "default/ordered") {
		t.Errorf("the guest was not shut down with its host:\n%s", log)
	}
	waitReady(t, "host1", "host2")
	eventually(t, startTimeout, "the guest runs again", func(ctx context.Context) error {
		out, err := try(ctx, "host2", "virsh list --name --state-running")
		if err == nil && strings.TrimSpace(out) != "default_ordered" {
			err = fmt.Errorf("these run: %q", out)
		}
		return err
	})
	events, err := virtmesh(t.Context(), "host1", "", "events")
	if err != nil || !strings.Contains(events, "HostShutDown") {
		t.Errorf("no event says that the guest ended with its host: %v\n%s", err, events)
	}
}
