//go:build metal

package metal

import (
	"context"
	"testing"
	"time"
)

// Two hosts and a witness: one host loses its power, and the other goes on accepting changes
// while its guest notices nothing; when the power is back, so is the host, as the same member.
// The witness stays in the lab when the test has ended.
func TestPowerCutOfOneOfTwoHostsWithAWitness(t *testing.T) {
	long(t)
	args := []string{"up", "--metal", "--hosts", "2", "--witness"}
	if debian != "" {
		args = append(args, "--package", debian)
	}
	if _, err := lab(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
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
