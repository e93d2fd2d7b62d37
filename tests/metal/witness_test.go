//go:build metal

package metal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"
)

// Two hosts and a witness: one host loses its power, and the other goes on accepting changes
// while its guest notices nothing; when the power is back, so is the host, as the same member.
func TestPowerCutOfOneOfTwoHostsWithAWitness(t *testing.T) {
	long(t)
	withWitness(t)
	startGuest(t, "host1", "stays")
	before := qemuOf(t, "host1", "stays")
	boot := inside(t, "host2", "cat /proc/sys/kernel/random/boot_id")
	if _, err := lab(t.Context(), "kill", "host2"); err != nil {
		t.Fatal(err)
	}
	change := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		_, err := virtmesh(ctx, "host1", "", "token", "create", "--ttl", "1m")
		return err
	}
	eventually(t, 3*time.Minute, "a change without host2", change)
	if now := qemuOf(t, "host1", "stays"); now != before {
		t.Errorf("the guest's emulator was %s and is %s", before, now)
	}
	if _, err := lab(t.Context(), "start", "host2"); err != nil {
		t.Fatal(err)
	}
	waitReady(t, "host1", "host2")
	waitReady(t, "host2", "host2")
	if now := inside(t, "host2", "cat /proc/sys/kernel/random/boot_id"); now == boot {
		t.Error("host2 has not lost its power")
	}
	eventually(t, 3*time.Minute, "a change with host2", change)
}

// withWitness adds a witness to the lab's two hosts and waits until it votes. The tests that
// follow get a new lab of two hosts: a host cannot be taken out of one.
func withWitness(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		// The test's own context has ended by now.
		ctx := context.Background()
		if t.Failed() {
			printLogs(ctx) // of hosts that are gone in a moment
		}
		if _, err := lab(ctx, "down"); err != nil {
			t.Errorf("end the lab that has a witness: %v", err)
			return
		}
		if err := startLab(ctx, "--hosts", "2"); err != nil {
			t.Errorf("start a lab without a witness: %v", err)
		}
	})
	if err := startLab(t.Context(), "--hosts", "2", "--witness"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Minute, "the witness votes", func(ctx context.Context) error {
		out, asked := virtmesh(ctx, "host1", "", "status", "-o", "json") // with warnings it fails, too
		var status struct {
			Members []struct{ Name, Role string }
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			return errors.Join(asked, err)
		}
		for _, m := range status.Members {
			if m.Name == "host3" && (m.Role == "voter" || m.Role == "leader") {
				return nil
			}
		}
		return fmt.Errorf("the members are %+v", status.Members)
	})
}
