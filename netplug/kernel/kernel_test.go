package kernel

import (
	"os"
	"slices"
	"strings"
	"testing"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
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

// TestFilterReadsAsWritten has nft(8) print what was loaded: the ruleset that is compiled
// here must mean what its printed form says.
func TestFilterReadsAsWritten(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	k, _ := hostWithUplink(t)
	rules := netplug.FilterFor(netplugtest.EveryRule())
	if err := k.Do(t.Context(), netplug.LoadFilter{Ruleset: rules}); err != nil {
		t.Fatal(err)
	}
	ours := normal(netplugtest.Run(t, "nft", "-y", "-nn", "list", "ruleset"))
	// What nft makes of the printed form, printed again, has its own way to say things.
	netplugtest.Run(t, "nft", "flush", "ruleset")
	file := t.TempDir() + "/rules"
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	netplugtest.Run(t, "nft", "-f", file)
	theirs := normal(netplugtest.Run(t, "nft", "-y", "-nn", "list", "ruleset"))
	if !slices.Equal(ours, theirs) {
		t.Errorf("loaded here:\n%s\n\nloaded by nft from the printed form:\n%s", strings.Join(ours, "\n"), strings.Join(theirs, "\n"))
	}
}

// normal drops what does not matter: spaces, the order of a map, the mark of what is
// loaded.
func normal(listing string) []string {
	var out []string
	skip := false
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "chain "+markChain):
			skip = true
		case skip:
			skip = line != "}"
		case line != "":
			out = append(out, line)
		}
	}
	return out
}

func TestFilterNoticesChanges(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	k, _ := hostWithUplink(t)
	rules := netplug.FilterFor(netplugtest.EveryRule())
	for _, change := range []string{
		"add rule bridge virtmesh prerouting accept",
		"flush chain inet virtmesh forward",
		"delete table bridge virtmesh",
	} {
		if err := k.Do(t.Context(), netplug.LoadFilter{Ruleset: rules}); err != nil {
			t.Fatal(err)
		}
		netplugtest.Run(t, "nft", strings.Fields(change)...)
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
