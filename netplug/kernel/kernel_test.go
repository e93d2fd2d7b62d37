package kernel

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
	"virtmesh/netplug/ruleset"
)

// hostWithUplink returns the kernel of a namespace with a link "up0", which ends in
// another namespace, as the wire to the world outside.
func hostWithUplink(t *testing.T) (*Kernel, *netplugtest.Host) {
	t.Helper()
	outside := netplugtest.NewHost(t)
	netplugtest.Run(t, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", outside.PID())
	k, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k, outside
}

func TestKernelSuite(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	k, _ := hostWithUplink(t)
	netplugtest.TestKernel(t, k, "up0")
}

// TestFilterIsLoadedWhole has the kernel count what was printed: no rule is lost or merged
// on the way, and loading again adds none.
func TestFilterIsLoadedWhole(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	k, _ := hostWithUplink(t)
	rules := netplug.FilterFor(netplugtest.EveryRule(), netplugtest.EveryTransit(), netplugtest.EveryGate())
	for range 2 {
		if err := k.Do(t.Context(), netplug.LoadFilter{Ruleset: rules}); err != nil {
			t.Fatal(err)
		}
		for _, table := range rules.Tables {
			listing := netplugtest.Run(t, "nft", "-a", "list", "table", string(table.Family), table.Name)
			// Tables, chains, two of them as marks, maps and sets have handles as well as rules.
			got := strings.Count(listing, "# handle") - 1 - len(table.Chains) - 2 - len(table.Maps) - len(table.Sets)
			if got != table.RuleCount() {
				t.Errorf("table %s has %d rules, want %d:\n%s", table.Family, got, table.RuleCount(), listing)
			}
		}
	}
}

// TestFilterThatCannotBeLoaded changes nothing, and the error tells what nft(8) said.
func TestFilterThatCannotBeLoaded(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	k, _ := hostWithUplink(t)
	good := netplug.FilterFor(netplugtest.EveryRule(), netplugtest.EveryTransit(), netplugtest.EveryGate())
	if err := k.Do(t.Context(), netplug.LoadFilter{Ruleset: good}); err != nil {
		t.Fatal(err)
	}
	bad := netplug.FilterFor(netplugtest.EveryRule(), netplugtest.EveryTransit(), netplugtest.EveryGate())
	bad.Tables[0].Chains = append(bad.Tables[0].Chains, ruleset.Chain{Name: "x", Rules: []ruleset.Rule{{Do: ruleset.Jump{Chain: "none"}}}})
	err := k.Do(t.Context(), netplug.LoadFilter{Ruleset: bad})
	if err == nil || !strings.Contains(err.Error(), "No such file or directory") {
		t.Errorf("a jump to no chain: %v", err)
	}
	if w, err := k.Observe(t.Context(), nil); err != nil || w.Filter != good.Fingerprint() {
		t.Errorf("afterwards the filter is %q, want %q: %v", w.Filter, good.Fingerprint(), err)
	}
}

func TestFilterNoticesChanges(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	k, _ := hostWithUplink(t)
	rules := netplug.FilterFor(netplugtest.EveryRule(), netplugtest.EveryTransit(), netplugtest.EveryGate())
	for _, change := range []string{
		"add rule bridge virtmesh prerouting accept",
		"flush chain inet virtmesh forward",
		"delete table bridge virtmesh",
		"insert rule inet virtmesh input accept; delete rule inet virtmesh input handle $last",
		"delete element bridge virtmesh taps { vm-mac }",
		"add element bridge virtmesh taps { vm-x : accept }",
		"chain bridge virtmesh prerouting { policy drop; }",
		"add chain inet virtmesh other { type filter hook output priority 0; policy drop; }",
		"delete chain inet virtmesh loaded_$mark",
	} {
		if err := k.Do(t.Context(), netplug.LoadFilter{Ruleset: rules}); err != nil {
			t.Fatal(err)
		}
		chain := netplugtest.Run(t, "nft", "-a", "list", "chain", "inet", "virtmesh", "input")
		table := netplugtest.Run(t, "nft", "list", "table", "inet", "virtmesh")
		change = os.Expand(change, func(name string) string {
			if name == "mark" {
				return regexp.MustCompile(`loaded_(\w+)`).FindStringSubmatch(table)[1]
			}
			handles := regexp.MustCompile(`handle (\d+)`).FindAllStringSubmatch(chain, -1)
			return handles[len(handles)-1][1]
		})
		netplugtest.Run(t, "nft", change)
		w, err := k.Observe(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if w.Filter != netplug.FilterChanged {
			t.Errorf("after %q the filter is %q, want %q", change, w.Filter, netplug.FilterChanged)
		}
	}
	// Tables of others do not matter.
	if err := k.Do(t.Context(), netplug.LoadFilter{Ruleset: rules}); err != nil {
		t.Fatal(err)
	}
	netplugtest.Run(t, "nft", "add", "table", "ip", "virtmesh")
	w, err := k.Observe(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if w.Filter != rules.Fingerprint() {
		t.Errorf("beside another's table the filter is %q, want %q", w.Filter, rules.Fingerprint())
	}
}
