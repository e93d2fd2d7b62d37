//go:build metal

package metal

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// laterPackage is the package under test with a later version, and nothing else changed.
func laterPackage(t *testing.T) string {
	t.Helper()
	tree, later := filepath.Join(t.TempDir(), "tree"), filepath.Join(t.TempDir(), "later.deb")
	script := `dpkg-deb -R "$1" "$2" && sed -i 's/^Version: .*/&+later/' "$2/DEBIAN/control" && dpkg-deb --root-owner-group -Zgzip -z1 -b "$2" "$3"`
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", debian, tree, later).CombinedOutput(); err != nil {
		t.Fatalf("make a later package: %v: %s", err, out)
	}
	return later
}

// send copies a file to a host.
func send(t *testing.T, file, host, to string) {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	if _, err := program(ctx, in, "lab", "--dir", labDir, "exec", host, "--", "sh", "-c", "cat >"+to); err != nil {
		t.Fatal(err)
	}
}

// What an administrator does with the package, no running guest notices, and the agent is
// as docs/install.md says after each step.
func TestGuestOutlivesUpgradeAndRemoval(t *testing.T) {
	long(t)
	if debian == "" {
		t.Skip("no package to upgrade: 'make packages-deb' builds one")
	}
	const apt = "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "
	send(t, laterPackage(t), "host1", "/root/later.deb")
	startGuest(t, "host1", "kept")
	guest, services := qemuOf(t, "host1", "kept"), guestServices(t, "host1")
	version := inside(t, "host1", "dpkg-query -Wf '${Version}' virtmesh")
	for _, step := range []struct {
		command, version string
		runs             bool
	}{
		{"install /root/later.deb", version + "+later", true},
		{"--allow-downgrades install /root/virtmesh.deb", version, true},
		{"remove virtmesh", version, false},
		{"install /root/virtmesh.deb", version, true},
	} {
		before := inside(t, "host1", "systemctl show -P MainPID virtmesh")
		began := time.Now()
		inside(t, "host1", apt+step.command+" </dev/null")
		t.Logf("apt-get %s took %s", step.command, time.Since(began).Round(time.Second))
		if now := inside(t, "host1", "dpkg-query -Wf '${Version}' virtmesh"); now != step.version {
			t.Errorf("after %s the version is %s, want %s", step.command, now, step.version)
		}
		eventually(t, 8*time.Minute, "the agent is as it should be after "+step.command, func(ctx context.Context) error {
			state, err := try(ctx, "host1", "systemctl show -P ActiveState virtmesh; systemctl show -P MainPID virtmesh")
			if err != nil {
				return err
			}
			active, pid, _ := strings.Cut(state, "\n")
			if (active == "active") != step.runs || pid == before {
				return fmt.Errorf("it is %s, process %s; before it was process %s", active, pid, before)
			}
			if step.runs {
				_, err = try(ctx, "host1", "virtmesh status")
			}
			return err
		})
		if !step.runs {
			inside(t, "host1", "sleep 40") // longer than the watchdog of guest services waits
		}
		if now := qemuOf(t, "host1", "kept"); now != guest {
			t.Errorf("after %s the guest's process is %s, it was %s", step.command, now, guest)
		}
		if now := guestServices(t, "host1"); now != services {
			t.Errorf("after %s guest services are %q, and were %q", step.command, now, services)
		}
	}
	waitReady(t, "host1", "host1")
	eventually(t, guestTimeout, "the guest answers", func(ctx context.Context) error { return answers(ctx, "host1", "kept") })
}
