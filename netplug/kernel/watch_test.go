package kernel

import (
	"context"
	"os"
	"regexp"
	"testing"
	"time"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// repairWithin is how soon a lost filter must be back. A busy machine gets more.
const repairWithin = patience

// watch calls Set after each report of the kernel, until the end of the test, and returns
// what every Set that changed something did.
func (b *bed) watch() <-chan netplug.Result {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	repairs, began, done := make(chan netplug.Result, 100), make(chan struct{}, 1), make(chan error, 1)
	go func() {
		done <- b.plug.WatchFilter(ctx, func() {
			res, err := b.plug.Set(ctx, b.want)
			if err != nil && ctx.Err() == nil {
				b.t.Errorf("repair: %v", err)
			}
			if len(res.Plan.Steps) > 0 {
				repairs <- res
			}
			select {
			case began <- struct{}{}:
			default:
			}
		})
	}()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	<-began
	return repairs
}

// TestFilterIsRepairedAtOnce has others remove and change the filter. Each time it is back
// by the kernel's report alone, and what is loaded again wakes nobody into loading it once
// more.
func TestFilterIsRepairedAtOnce(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	b.set()
	repairs := b.watch()
	for _, change := range []string{
		"flush ruleset",
		"delete table bridge virtmesh",
		"flush chain inet virtmesh forward",
		"flush map bridge virtmesh taps",
	} {
		begin := time.Now()
		netplugtest.Run(t, "nft", change)
		select {
		case res := <-repairs:
			t.Logf("after %q the filter is back in %v", change, time.Since(begin))
			if !res.FilterLost {
				t.Errorf("after %q the Set does not say that the filter was lost:\n%s", change, res.Plan)
			}
		case <-time.After(repairWithin):
			t.Fatalf("after %q nothing is repaired", change)
		}
	}
	netplugtest.Run(t, "nft", "add table ip other")
	select {
	case res := <-repairs:
		t.Errorf("without a change of ours there is a repair:\n%s", res.Plan)
	case <-time.After(silence):
	}
	if res := b.set(); len(res.Plan.Steps) != 0 || res.FilterLost {
		t.Errorf("the network is not as wanted afterwards:\n%s", res.Plan)
	}
}

// TestGateHoldsWithoutFilter has something remove the filter while nobody repairs it, as
// when the agent is off. The guest, which was let through before, then reaches neither the
// host, nor anything beyond it, nor with addresses that are not its own, until the filter is
// back. What passes the gate has none of netplug's marks.
func TestGateHoldsWithoutFilter(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	b.outside.Run("ip", "route", "add", "10.9.0.0/24", "via", "10.50.0.1")
	b.set()
	g, _ := b.boot(b.want.Taps[0])
	all := []string{"10.9.0.1", "10.50.0.2"}
	for _, addr := range all {
		if !reaches(g.Host, addr) {
			t.Errorf("the guest does not reach %s", addr)
		}
	}
	for _, remove := range []string{"flush ruleset", "delete table bridge virtmesh", "flush table bridge virtmesh", "flush chain bridge virtmesh input"} {
		netplugtest.Run(t, "nft", remove)
		for _, addr := range append(all, "10.50.0.1") {
			if answers(g.Host, addr) {
				t.Errorf("after %q the guest reaches %s", remove, addr)
			}
		}
		g.Run("ip", "addr", "add", "10.9.0.99/24", "dev", "eth0")
		if _, err := g.Try("ping", "-c", "3", "-i", "0.2", "-W", "1", "-I", "10.9.0.99", "10.50.0.2"); err == nil {
			t.Errorf("after %q the guest reaches the outside by another's address", remove)
		}
		g.Run("ip", "addr", "del", "10.9.0.99/24", "dev", "eth0")
		b.set()
	}
	netplugtest.Run(t, "nft", "add table ip probe; "+
		"add chain ip probe in { type filter hook input priority -400; }; add rule ip probe in meta mark != 0 drop; "+
		"add chain ip probe through { type filter hook forward priority -400; }; add rule ip probe through meta mark != 0 drop")
	for _, addr := range all {
		if !reaches(g.Host, addr) {
			t.Errorf("with the filter back, and what has a mark dropped, the guest does not reach %s", addr)
		}
	}
	document, err := os.ReadFile("../../docs/upgrade.md")
	if err != nil {
		t.Fatal(err)
	}
	netplugtest.Run(t, "sh", "-c", regexp.MustCompile(`(?m)^for bridge in .*$`).FindString(string(document))+" || true")
	if res := b.set(); len(res.Plan.Steps) != 1 || !reaches(g.Host, "10.9.0.1") {
		t.Errorf("the gate that was removed is not made again, or does not let the guest through:\n%s", res.Plan)
	}
}

// TestGateMeetsRulesOfOthers has others use the mark: who sets all of it on a frame, as rules
// of the host do with br_netfilter, does not close the gate, and on bridges of others, which
// have no gate, frames have none of netplug's marks.
func TestGateMeetsRulesOfOthers(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	b := newBed(t)
	netplugtest.Run(t, "ip", "link", "add", "br-admin", "type", "bridge")
	netplugtest.Run(t, "ip", "addr", "add", "10.60.0.1/24", "dev", "br-admin")
	netplugtest.Run(t, "ip", "link", "set", "br-admin", "up")
	b.want.Bridges = append(b.want.Bridges, netplug.Bridge{Name: "br-admin", AllowExisting: true})
	admin := b.card("admin", "br-admin", 0x14)
	b.set()
	guest := netplugtest.NewGuest(t, admin.Name, admin.MAC)
	guest.Run("ip", "addr", "add", "10.60.0.2/24", "dev", "eth0")
	netplugtest.Run(t, "nft", "add table ip probe; "+
		"add chain ip probe in { type filter hook input priority -400; }; add rule ip probe in iifname br-admin meta mark != 0 drop")
	if !reaches(guest.Host, "10.60.0.1") {
		t.Error("on a bridge of the administrator frames have a mark of netplug")
	}
	netplugtest.Run(t, "nft", "add table bridge other; "+
		"add chain bridge other pre { type filter hook prerouting priority 0; }; add rule bridge other pre meta mark set 0x7; "+
		"add rule ip probe in iifname vm-pod meta mark != 0x7 drop")
	g, _ := b.boot(b.want.Taps[0])
	for _, addr := range []string{"10.9.0.1", "10.50.0.2"} {
		if !reaches(g.Host, addr) {
			t.Errorf("where others set the whole mark the guest does not reach %s, or the gate took more than its own bit", addr)
		}
	}
}
