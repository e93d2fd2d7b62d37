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
			// Debian's libvirt-guests waits five minutes for a guest that does not listen yet.
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
