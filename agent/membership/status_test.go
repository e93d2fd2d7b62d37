package membership

import (
	"strings"
	"testing"
	"time"

	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

// TestBlockedGossipIsNamed: hosts that gossip has lost, while their agents run, look dead
// in every list. The operator must read that a port is blocked and not that a host died.
func TestBlockedGossipIsNamed(t *testing.T) {
	status := &admin.Status{Host: "host1", Members: []admin.Member{
		{Name: "host1", State: "alive"}, {Name: "host2", State: "dead"}, {Name: "host3", State: "dead"},
		{Name: "host4", State: stateUnknown}, {Name: "host5", State: "alive"}, {Name: "host6", State: stateUnknown},
	}}
	replica := raftstore.Status{Peers: []raftstore.PeerStatus{
		{ID: "host1", Leader: true}, {ID: "host2", Silence: time.Second}, {ID: "host3", Silence: time.Hour},
		{ID: "host4", Silence: 2 * time.Second}, {ID: "host5", Silence: time.Second},
	}}
	got := strings.Join(contradictions(status, replica, 10*time.Second, 7946), "\n")
	for host, want := range map[string]bool{"host1 a": false, "host2 a": true, "host3 a": false, "host4 a": true, "host5 a": false, "host6 a": false} {
		if strings.Contains(got, host) != want {
			t.Errorf("%s is named: %v, in\n%s", host, !want, got)
		}
	}
	if !strings.Contains(got, "port 7946 (TCP and UDP) blocked") {
		t.Errorf("no remedy in\n%s", got)
	}
}
