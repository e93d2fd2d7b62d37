package netplug_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"virtmesh/netplug"
)

var podSubnet = netip.MustParsePrefix("10.9.0.0/24")

func macOf(n int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)} }

func open(t *testing.T, path string, subnet netip.Prefix, reserved ...netip.Addr) *netplug.Allocator {
	t.Helper()
	a, err := netplug.OpenAllocator(path, os.WriteFile, subnet, reserved...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func allocate(t *testing.T, a *netplug.Allocator, key string, n int) netip.Addr {
	t.Helper()
	addr, err := a.Allocate(key, macOf(n))
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestAllocatorRemembers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "leases.json")
	a := open(t, path, podSubnet)
	one, two := allocate(t, a, "ns/one/net0", 1), allocate(t, a, "ns/two/net0", 2)
	if one == two || !podSubnet.Contains(one) || !podSubnet.Contains(two) {
		t.Fatalf("addresses are %s and %s", one, two)
	}
	a = open(t, path, podSubnet)
	if got := allocate(t, a, "ns/two/net0", 77); got != two {
		t.Errorf("after a restart and with another card the address is %s, was %s", got, two)
	}
	if err := a.Release("ns/one/net0"); err != nil {
		t.Fatal(err)
	}
	if got := allocate(t, open(t, path, podSubnet), "other", 1); got != one {
		t.Errorf("the same card gets %s once its address is free again, was %s", got, one)
	}
	if err := a.Retain(func(key string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if got := open(t, path, podSubnet).Leases(); len(got) != 0 {
		t.Errorf("leases are %v", got)
	}
}

func TestAllocatorFillsItsPool(t *testing.T) {
	gateway := netip.MustParseAddr("10.9.0.1")
	a := open(t, filepath.Join(t.TempDir(), "l"), netip.MustParsePrefix("10.9.0.0/28"), gateway)
	seen := map[netip.Addr]bool{gateway: true, netip.MustParseAddr("10.9.0.0"): true, netip.MustParseAddr("10.9.0.15"): true}
	for n := range 13 {
		addr := allocate(t, a, fmt.Sprint(n), n)
		if seen[addr] {
			t.Fatalf("%s is given out twice, or not to be given out", addr)
		}
		seen[addr] = true
	}
	if _, err := a.Allocate("more", macOf(99)); !errors.Is(err, netplug.ErrPoolFull) {
		t.Errorf("a full pool gives %v", err)
	}
}

func TestAllocatorAtOnce(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "l"), podSubnet)
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			if _, err := a.Allocate(fmt.Sprint(n%25), macOf(n)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	for _, l := range a.Leases() {
		seen[l.Address] = true
	}
	if len(a.Leases()) != 25 || len(seen) != 25 {
		t.Errorf("%d leases of %d addresses, want 25", len(a.Leases()), len(seen))
	}
}

func TestAllocatorAndItsFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "l")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := netplug.OpenAllocator(path, os.WriteFile, podSubnet); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a broken file: %v", err)
	}
	if _, err := netplug.OpenAllocator(path, os.WriteFile, netip.MustParsePrefix("fd00::/64")); err == nil {
		t.Error("allocates from an IPv6 subnet")
	}
	// The subnet was changed: its leases are void, and so is one that is now the gateway.
	a := open(t, filepath.Join(dir, "m"), podSubnet)
	old := allocate(t, a, "k", 1)
	if got := open(t, filepath.Join(dir, "m"), netip.MustParsePrefix("10.8.0.0/24")).Leases(); len(got) != 0 {
		t.Errorf("leases of another subnet: %v", got)
	}
	if got := open(t, filepath.Join(dir, "m"), podSubnet, old).Leases(); len(got) != 0 {
		t.Errorf("lease of a reserved address: %v", got)
	}
	// What cannot be written down is not given out.
	a = open(t, filepath.Join(dir, "none"), podSubnet)
	if err := os.Mkdir(filepath.Join(dir, "none"), 0o700); err != nil {
		t.Fatal(err)
	}
	if addr, err := a.Allocate("k", macOf(1)); err == nil || len(a.Leases()) != 0 {
		t.Errorf("gives out %s without writing it down", addr)
	}
}

// TestAllocatorReleasesOnAFullDisk releases an address while the file cannot be written.
func TestAllocatorReleasesOnAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	a := open(t, path, podSubnet)
	addr := allocate(t, a, "k", 1)
	saved, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A directory in its place lets no file be put there, not even by root.
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := a.Release("k"); err == nil || len(a.Leases()) != 0 {
		t.Errorf("error %v, and the leases are %v", err, a.Leases())
	}
	if err := a.Flush(); err == nil {
		t.Error("there is nothing to save")
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, saved, 0o600), a.Flush()); err != nil {
		t.Fatal(err)
	}
	b := open(t, path, podSubnet)
	if got := allocate(t, b, "other", 1); got != addr {
		t.Errorf("the address is not free after a restart: %v", b.Leases())
	}
}

func TestPickIsTheSameEverywhere(t *testing.T) {
	free := func(netip.Addr) bool { return false }
	one, err := netplug.Pick(podSubnet, macOf(1), free)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := netplug.Pick(podSubnet, macOf(1), free); again != one {
		t.Errorf("picks %s, then %s", one, again)
	}
	// Changing the choice would give machines another address as they move to an
	// upgraded host.
	if want := netip.MustParseAddr("10.9.0.61"); one != want {
		t.Errorf("picks %s, want %s", one, want)
	}
	next, err := netplug.Pick(podSubnet, macOf(1), func(a netip.Addr) bool { return a == one })
	if err != nil || next == one {
		t.Errorf("picks a taken address: %s, %v", next, err)
	}
}
