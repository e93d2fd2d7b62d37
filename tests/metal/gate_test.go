//go:build metal

package metal

import (
	"context"
	"testing"
)

// While the packet filter is gone and no agent is there to load it again, Debian's kernel
// drops what a guest sends to its host: at the gate, as taking the gate away shows. An agent
// that starts makes both anew.
func TestGateHoldsWithoutTheFilter(t *testing.T) {
	long(t)
	startGuest(t, "host1", "gated")
	eventually(t, guestTimeout, "the guest answers", func(ctx context.Context) error { return answers(ctx, "host1", "gated") })
	guest, err := instance(t.Context(), "host1", "gated")
	if err != nil {
		t.Fatal(err)
	}
	// Of all the bridge's ports together.
	const sent = "cat /sys/class/net/virtmesh0/lower_*/statistics/rx_packets | xargs | tr ' ' +"
	ping := "ping -q -c 3 -W 5 " + guest.Status.Interfaces[0].IP
	undo(t, "host1", "systemctl start virtmesh")
	inside(t, "host1", "systemctl stop virtmesh && nft flush ruleset")
	before := inside(t, "host1", sent)
	if out, err := try(t.Context(), "host1", ping); err == nil {
		t.Errorf("what the guest sends passes without the packet filter:\n%s", out)
	}
	if now := inside(t, "host1", sent); now == before {
		t.Errorf("the guest has sent nothing that the gate could drop: %s packets, as before", now)
	}
	inside(t, "host1", "tc qdisc del dev virtmesh0 clsact && "+ping)
	inside(t, "host1", "systemctl start virtmesh")
	eventually(t, hostTimeout, "gate and filter are there again, and the guest answers", func(ctx context.Context) error {
		_, err := try(ctx, "host1", "tc filter show dev virtmesh0 ingress | grep -q 'virtmesh direct-action' && nft list chain bridge virtmesh prerouting && "+ping)
		return err
	})
}
