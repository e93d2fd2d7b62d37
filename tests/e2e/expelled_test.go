//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A host that is cut off keeps its guest; when it was removed meanwhile and the network is
// back, it ends the guest by itself, tells why, and leaves disks and definition as they are.
// The removal alone, before the host can hear of it, ends nothing.
func TestAnExpelledHostEndsItsGuests(t *testing.T) {
	const gone = "host3"
	l := makeLab(t, "vm-e2x-")
	l.must(t, "up", "--hosts", "3")
	image := l.must(t, "image", "tiny")
	client := func(ctx context.Context, args ...string) error {
		_, err := program(ctx, nil, append([]string{"--kubeconfig", filepath.Join(l.dir, "hosts", "host1", "kubeconfig")}, args...)...)
		return err
	}
	if err := client(t.Context(), "node", "cordon", "host1", "host2"); err != nil {
		t.Fatal(err)
	}
	if err := client(t.Context(), "vm", "create", "stranded", "--image", image, "--memory", "64Mi", "--wait", "2m"); err != nil {
		t.Fatal(err)
	}
	running := func(ctx context.Context) (string, error) {
		out, err := l.run(ctx, "exec", gone, "--", "virsh", "list", "--name", "--state-running")
		return strings.TrimSpace(out), err
	}
	disks := func() string {
		return l.must(t, "exec", gone, "--", "find", "/var/lib/virtmesh/instances", "/var/lib/virtmesh/machines", "-type", "f")
	}
	if guest, err := running(t.Context()); err != nil || guest != "default_stranded" {
		t.Fatalf("%s runs %q, %v", gone, guest, err)
	}
	before := disks()
	l.must(t, "cut", gone)
	eventually(t, 2*time.Minute, gone+" to be removed", func(ctx context.Context) error {
		return client(ctx, "node", "remove", gone)
	})
	// For longer than the host waits before it asks.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Second) {
		if guest, err := running(t.Context()); err != nil || guest != "default_stranded" {
			t.Fatalf("a host that is cut off ends its guest: it runs %q, %v", guest, err)
		}
	}
	l.must(t, "heal", gone)
	began := time.Now()
	eventually(t, 90*time.Second, "the guest of the expelled host to end", func(ctx context.Context) error {
		guest, err := running(ctx)
		if err == nil && guest != "" {
			err = fmt.Errorf("it runs %q", guest)
		}
		return err
	})
	t.Logf("the guest ended %s after the network was back", time.Since(began).Round(100*time.Millisecond))
	if list := l.must(t, "exec", gone, "--", "virsh", "list", "--all", "--name"); list != "default_stranded" {
		t.Errorf("the definitions are %q", list)
	}
	if after := disks(); after != before || after == "" {
		t.Errorf("the disks were\n%s\nand are\n%s", before, after)
	}
	eventually(t, time.Minute, "status to tell", func(ctx context.Context) error {
		// It exits with 3, for its warnings.
		out, err := l.run(ctx, "exec", gone, "--", "sh", "-c", "virtmesh status 2>&1 || true")
		if err == nil && (!strings.Contains(out, "was expelled from its mesh") || !strings.Contains(out, "guests have ended") || !strings.Contains(out, "leave --local --yes")) {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})
}
