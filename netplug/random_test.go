package netplug_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// TestAnyWantOnAnyWorld sets random valid Wants on one host. After each Set, a second one
// has nothing to do, links that netplug did not make are unchanged, and every tap that did
// not fail exists.
func TestAnyWantOnAnyWorld(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		k := netplugtest.NewFake(hand()...)
		for range rapid.IntRange(1, 4).Draw(r, "wants") {
			w := drawWant(r)
			if err := w.Validate(); err != nil {
				r.Fatalf("drawn want is not valid: %v", err)
			}
			before := k.World()
			plan := netplug.PlanFor(w, before)
			for _, s := range plan.Steps {
				if plan.Blocked[s.Subject] != nil {
					r.Fatalf("%s is blocked, but has a step: %s", s.Subject, s)
				}
				if err := k.Do(t.Context(), s.Op); err != nil {
					r.Fatalf("%s: %v\nin\n%s", s, err, plan)
				}
			}
			after := k.World()
			if again := netplug.PlanFor(w, after); len(again.Steps) > 0 {
				r.Fatalf("after\n%s\nthere is still to do\n%s\non\n%s", plan, again, after)
			}
			checkHand(r, after)
			for _, tap := range w.Taps {
				there := strings.Contains(after.String(), "link "+tap.Name+" type tap master "+tap.Bridge+" ")
				if !there && plan.Blocked["tap "+tap.Name] == nil {
					r.Fatalf("tap %s is neither there nor blocked:\n%s", tap.Name, after)
				}
			}
			drawLife(r, k)
		}
	})
}

// checkHand checks that everything that someone else set up is unchanged, except uplinks.
func checkHand(r *rapid.T, w netplug.World) {
	for _, l := range hand() {
		line := l.String()
		if l.Kind == netplug.KindDevice {
			line = "link " + l.Name + " type device"
		}
		if !strings.Contains(w.String(), line) {
			r.Fatalf("%q is changed:\n%s", line, w)
		}
	}
}

// drawLife lets machines open and close taps.
func drawLife(r *rapid.T, k *netplugtest.Fake) {
	k.Change(func(w *netplug.World) {
		for i := range w.Links {
			if strings.HasPrefix(w.Links[i].Alias, "virtmesh:tap:") {
				w.Links[i].Carrier = rapid.Bool().Draw(r, "carrier")
			}
		}
	})
}

func drawWant(r *rapid.T) netplug.Want {
	var w netplug.Want
	uplinks := []string{"up0", "up1", "none", "br-hand"}
	for i, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"vm-pod", "br1", "br2", "br-hand"}), 0, 4, rapid.ID).Draw(r, "bridges") {
		b := netplug.Bridge{
			Name:          name,
			MTU:           rapid.SampledFrom([]int{0, 1400, 9000}).Draw(r, "mtu"),
			Isolated:      rapid.Bool().Draw(r, "isolated"),
			VLANFiltering: rapid.Bool().Draw(r, "filtering"),
			AllowExisting: rapid.Bool().Draw(r, "existing"),
		}
		if rapid.Bool().Draw(r, "gateway") && !b.AllowExisting {
			b.Address = netip.MustParsePrefix(fmt.Sprintf("10.%d.0.1/16", i))
			b.NAT = rapid.Bool().Draw(r, "nat")
		}
		if u := rapid.IntRange(0, len(uplinks)).Draw(r, "uplink"); u < len(uplinks) {
			b.Uplink = uplinks[u]
			uplinks = append(uplinks[:u:u], uplinks[u+1:]...)
			b.UplinkVLAN = rapid.SampledFrom([]int{0, 0, 100, 200}).Draw(r, "uplinkVLAN")
		}
		w.Bridges = append(w.Bridges, b)
	}
	if len(w.Bridges) == 0 {
		return w
	}
	for i, vm := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "hand"}), 0, 4, rapid.ID).Draw(r, "taps") {
		b := rapid.SampledFrom(w.Bridges).Draw(r, "bridge")
		t := tapOf(b.Name, vm, byte(i))
		t.MAC = net.HardwareAddr{2, 0, 0, 0, byte(rapid.IntRange(0, 1).Draw(r, "mac")), byte(i)}
		t.Queues = rapid.IntRange(0, 2).Draw(r, "queues")
		t.LinkDown = rapid.Bool().Draw(r, "down")
		t.MACSpoofCheck = rapid.Bool().Draw(r, "spoof")
		if b.VLANFiltering {
			t.VLAN = rapid.SampledFrom([]int{0, 1, 7, 8}).Draw(r, "vlan")
			t.PreserveDefaultVLAN = rapid.Bool().Draw(r, "preserve")
		}
		w.Taps = append(w.Taps, t)
	}
	return w
}
