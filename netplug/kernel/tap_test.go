package kernel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// TestTapsOpenAsLibvirtOpensThem opens taps with the flags that libvirt uses for an
// interface of type ethernet with an unmanaged target: IFF_VNET_HDR for a virtio card,
// IFF_MULTI_QUEUE for one with more than one queue.
func TestTapsOpenAsLibvirtOpensThem(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	k, _ := hostWithUplink(t)
	for _, op := range []netplug.Op{
		netplug.AddTap{Name: "vm-one", Alias: "virtmesh:tap:one"},
		netplug.AddTap{Name: "vm-four", Alias: "virtmesh:tap:four", MultiQueue: true},
		netplug.SetUp{Link: "vm-one", Up: true},
	} {
		if err := k.Do(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		tap    string
		queues int
		flags  uint16
		want   error
	}{
		{"vm-one", 1, 0, nil},
		{"vm-one", 1, unix.IFF_VNET_HDR, nil},
		{"vm-one", 1, unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE, unix.EINVAL},
		{"vm-four", 4, unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE, nil},
		{"vm-four", 1, unix.IFF_VNET_HDR, unix.EINVAL},
	} {
		var files []*os.File
		for range tc.queues {
			f, err := netplugtest.OpenTap(tc.tap, tc.flags)
			if !errors.Is(err, tc.want) {
				t.Errorf("open %s with flags %x: %v, want %v", tc.tap, tc.flags, err, tc.want)
			}
			if f != nil {
				files = append(files, f)
			}
		}
		if got, want := carrierOf(t, k, tc.tap), tc.want == nil; got != want {
			t.Errorf("%s in use: %v, want %v", tc.tap, got, want)
		}
		for _, f := range files {
			f.Close()
		}
		if carrierOf(t, k, tc.tap) {
			t.Errorf("%s is in use after it was closed", tc.tap)
		}
	}
}

func carrierOf(t *testing.T, k *Kernel, tap string) bool {
	t.Helper()
	w, err := k.Observe(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range w.Links {
		if l.Name == tap {
			return l.Carrier
		}
	}
	t.Fatalf("no link %s", tap)
	return false
}

// TestManyGuests sets a host with many guests, and then one more.
func TestManyGuests(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	b.want.Taps = nil
	const guests = 250
	for n := range guests {
		b.want.Taps = append(b.want.Taps, podTap(fmt.Sprint("many", n), net.HardwareAddr{2, 0, 0, 0, 1, byte(n)}, fmt.Sprintf("10.9.0.%d", n+2)))
	}
	all := b.want.Taps
	timed := func(what string, steps bool) {
		begin := time.Now()
		res := b.set()
		t.Logf("%s: %s, %d steps", what, time.Since(begin).Round(time.Millisecond), len(res.Plan.Steps))
		if steps != (len(res.Plan.Steps) > 0) {
			t.Errorf("%s has %d steps", what, len(res.Plan.Steps))
		}
	}
	b.want.Taps = all[:guests-1]
	timed("many guests", true)
	timed("the same again", false)
	b.want.Taps = all
	timed("one more", true)
	timed("the same again", false)
	b.want.Taps = all[1:]
	timed("one less", true)
}
