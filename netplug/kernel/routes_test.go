package kernel

import (
	"net/netip"
	"slices"
	"testing"

	"virtmesh/netplug"
	"virtmesh/netplug/netplugtest"
)

// TestRoutes: guests must not get what the host reaches by any table.
func TestRoutes(t *testing.T) {
	if !netplugtest.OwnNamespace(t) {
		return
	}
	hostWithUplink(t)
	for _, args := range [][]string{
		{"link", "set", "lo", "up"}, {"link", "set", "up0", "up"}, {"address", "add", "192.0.2.2/24", "dev", "up0"},
		{"route", "add", "default", "via", "192.0.2.1"}, {"route", "add", "10.65.0.0/16", "via", "192.0.2.1"},
		{"route", "add", "10.66.0.0/16", "dev", "up0", "table", "100"}, {"route", "add", "unreachable", "10.67.0.0/16"},
		{"route", "add", "198.51.100.7", "dev", "up0"},
	} {
		netplugtest.Run(t, "ip", args...)
	}
	got, err := Routes()
	if err != nil {
		t.Fatal(err)
	}
	for destination, device := range map[string]string{
		"192.0.2.0/24": "up0", "10.65.0.0/16": "up0", "10.66.0.0/16": "up0", "198.51.100.7/32": "up0", "10.67.0.0/16": "",
	} {
		// The kernel may say that a route to nowhere is by lo.
		if !slices.ContainsFunc(got, func(r netplug.Route) bool {
			return r.Destination == netip.MustParsePrefix(destination) && (r.Device == device || device == "")
		}) {
			t.Errorf("no route to %s by %q in %v", destination, device, got)
		}
	}
	if len(got) != 5 {
		t.Errorf("%v has other routes", got)
	}
}
