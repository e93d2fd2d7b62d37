package libvirt

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtmesh/agent/host/hypervisor"
)

// emulator returns the process of a guest's emulator.
func emulator(t *testing.T, owner hypervisor.Owner) int {
	t.Helper()
	out, err := exec.Command("pgrep", "-f", "-x", ".*qemu-system.*"+owner.UID+".*").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(out))[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// An emulator that hangs must not hide the counters of other guests.
func TestOneHungGuestHidesNoOther(t *testing.T) {
	d := startDaemon(t)
	driver := d.open(t)
	var owners []hypervisor.Owner
	for i := range 3 {
		owner := hypervisor.Owner{Ref: hypervisor.Ref{Namespace: "hung", Name: fmt.Sprintf("vm%d", i), UID: randomUUID()}, Host: "h", Epoch: 1}
		if _, err := driver.Start(t.Context(), d.guestXML(t, owner), hypervisor.StartOptions{Paused: true}); err != nil {
			t.Fatal(err)
		}
		owners = append(owners, owner)
	}
	// An emulator that begins to boot its guest may take seconds to answer.
	awaitStats(t, driver, 3)
	pid := emulator(t, owners[1])
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	// On a busy machine another guest's counters may be late now and then, but not
	// always, and no scrape waits for the one that hangs.
	deadline := time.Now().Add(2 * time.Minute)
	for shown := 0; shown < 3; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		all, err := driver.Stats(ctx)
		cancel()
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("scrape: %v; %d showed the other guests", err, shown)
		}
		seen := map[string]bool{}
		for _, s := range all {
			seen[s.Ref.Name] = true
		}
		if seen["vm1"] {
			t.Errorf("a scrape shows %v", seen)
		}
		if seen["vm0"] && seen["vm2"] {
			shown++
		}
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	awaitStats(t, driver, 3)
}

// awaitStats waits until the counters of so many guests are told.
func awaitStats(t *testing.T, driver *Driver, guests int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		all, err := driver.Stats(t.Context())
		if err == nil && len(all) == guests {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the counters of %d guests are told, %v; want %d", len(all), err, guests)
		}
	}
}
