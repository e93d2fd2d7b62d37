package membership

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

// TestBlockedGossipIsNamed: hosts that gossip has lost, while their agents run, look dead
// in every list. The operator must read that a port is blocked and not that a host died.
func TestBlockedGossipIsNamed(t *testing.T) {
	t.Parallel()
	status := &admin.Status{Host: "host1", Members: []admin.Member{
		{Name: "host1", State: "alive"}, {Name: "host2", State: "dead"}, {Name: "host3", State: "dead"},
		{Name: "host4", State: stateUnknown}, {Name: "host5", State: "alive"}, {Name: "host6", State: stateUnknown},
		{Name: "host7", State: "dead"}, {Name: "host8", State: "dead"},
	}}
	lost := map[string]time.Duration{"host2": time.Minute, "host3": time.Hour, "host7": time.Second, "host8": time.Hour}
	replica := raftstore.Status{Peers: []raftstore.PeerStatus{
		{ID: "host1", Leader: true}, {ID: "host2", Silence: time.Second, Heard: true}, {ID: "host3", Silence: time.Hour, Heard: true},
		{ID: "host4", Silence: 2 * time.Second, Heard: true}, {ID: "host5", Silence: time.Second, Heard: true},
		{ID: "host7", Silence: 3 * time.Second, Heard: true}, // it has just lost its power: nobody has heard it since
		{ID: "host8", Silence: time.Second},                  // the leader is new
	}}
	got := strings.Join(contradictions(status, replica, lost, 10*time.Second, 7946), "\n")
	for host, want := range map[string]bool{"host1 a": false, "host2 a": true, "host3 a": false, "host4 a": true, "host5 a": false, "host6 a": false, "host7 a": false, "host8 a": false} {
		if strings.Contains(got, host) != want {
			t.Errorf("%s is named: %v, in\n%s", host, !want, got)
		}
	}
	if !strings.Contains(got, "port 7946 (TCP and UDP) blocked") {
		t.Errorf("no remedy in\n%s", got)
	}
}

// TestRoles: an operator sees who votes, who follows, and whom.
func TestRoles(t *testing.T) {
	t.Parallel()
	members := map[string]*admin.Member{}
	for _, name := range []string{"host1", "host2", "host3", "host4", "host5"} {
		members[name] = &admin.Member{Name: name, Role: roleNone, Lag: -1}
	}
	addReplicas(members, raftstore.Status{Leader: "host1", Voters: []string{"host1", "host2"}, Peers: []raftstore.PeerStatus{
		{ID: "host1", Voter: true, Leader: true}, {ID: "host2", Voter: true},
		{ID: "host3"}, {ID: "host4", Follower: true, Source: "host2", Lag: 7},
	}})
	for name, want := range map[string]admin.Member{
		"host1": {Role: "leader"}, "host2": {Role: "voter"}, "host3": {Role: "replica"},
		"host4": {Role: "follower", Source: "host2", Lag: 7}, "host5": {Role: "none", Lag: -1},
	} {
		if want.Name = name; *members[name] != want {
			t.Errorf("%s is shown as %+v, want %+v", name, *members[name], want)
		}
	}
}

// A host that went back to a version below the mesh's level is named, with what to do.
func TestHostsBelowTheLevelAreNamed(t *testing.T) {
	t.Parallel()
	status := &admin.Status{Level: &admin.Level{Mesh: 3}, Members: []admin.Member{
		{Name: "host1", Version: "2.0", FeatureLevel: 3}, {Name: "host2", Version: "1.0", FeatureLevel: 2}, {Name: "host3"},
	}}
	got := belowLevel(status)
	if len(got) != 1 || !strings.HasPrefix(got[0], "host2 runs version 1.0") || !strings.Contains(got[0], "up to 2, and the mesh is at 3") {
		t.Errorf("warnings %q", got)
	}
}

// Each warning names the host, says what is the matter with it and what to do. That a host was
// not heard since the agent started does not mean that it never ran.
func TestStatusSaysWhatToDo(t *testing.T) {
	t.Parallel()
	status := &admin.Status{Host: "host1", Members: []admin.Member{
		{Name: "host1", State: "alive"}, {Name: "host2", State: "dead"}, {Name: "host3", State: "suspect"}, {Name: "host4", State: stateUnknown, Role: roleNone},
		{Name: "host5", State: stateRemoved}, {Name: "host6", State: "left"},
	}}
	got := warnings(status, raftstore.Status{Voters: []string{"host1", "host2", "host3"}})
	for i, want := range []string{
		"the voters (host1, host2, host3) is back: start their hosts; only if a majority is gone for good",
		"host2 is dead: its agent does not answer, and its machines wait for it: start it there (systemctl start virtmesh), or, if the host will not come back, take it out with 'virtmesh node remove host2'",
		"host3 is suspect: it did not answer a moment ago, and is dead to host1",
		"host4 is unknown: the agent on host1 has heard nothing of that host's agent since its own start: start it there",
		"host5 was removed from the mesh, and its agent runs: stop it there",
		"host6 is left",
	} {
		if i >= len(got) || !strings.Contains(got[i], want) {
			t.Errorf("warning %d of %q does not say %q", i, got, want)
		}
	}
	if waits := leaderless(nil); strings.Contains(waits, "()") {
		t.Errorf("without voters: %s", waits)
	}
}

// What keeps a replica from working is told on every host, not only on its own: the mesh may
// be one failure from losing its majority.
func TestStatusTellsOfStuckReplicas(t *testing.T) {
	t.Parallel()
	status := &admin.Status{Host: "host1", Leader: "host1"}
	replica := raftstore.Status{Peers: []raftstore.PeerStatus{
		{ID: "host1", Alive: true, Failure: "told as its own"},
		{ID: "host2", Alive: true},
		{ID: "host3", Alive: true, Failure: "its state differs"},
		{ID: "host4", Failure: "told as dead"},
	}}
	want := []string{"the replica on host3 does not keep up: its state differs"}
	if got := warnings(status, replica); !slices.Equal(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
}

// A host that lacks a pool is named with what it says of it; hosts that lack the same one
// are named together, and dead ones are not.
func TestHostsWithoutAPoolAreNamed(t *testing.T) {
	t.Parallel()
	node := func(name string, ready, pools corev1.ConditionStatus, message string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		objects.SetNodeCondition(n, corev1.NodeCondition{Type: corev1.NodeReady, Status: ready}, time.Now())
		objects.SetNodeCondition(n, corev1.NodeCondition{Type: objects.NodePoolsUsable, Status: pools, Message: message}, time.Now())
		return n
	}
	got := hostWarnings([]*corev1.Node{
		node("host3", corev1.ConditionTrue, corev1.ConditionFalse, "pool nfs hangs"), node("host1", corev1.ConditionTrue, corev1.ConditionFalse, "pool nfs hangs"),
		node("host2", corev1.ConditionTrue, corev1.ConditionTrue, "well"), node("host4", corev1.ConditionUnknown, corev1.ConditionFalse, "pool nfs hangs"),
		node("host5", corev1.ConditionTrue, corev1.ConditionFalse, "pool local is read-only"),
	})
	full := node("host6", corev1.ConditionTrue, corev1.ConditionTrue, "well")
	objects.SetNodeCondition(full, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue, Message: "no room"}, time.Now())
	if got := hostWarnings([]*corev1.Node{full}); !slices.Equal(got, []string{"host6: no room"}) {
		t.Errorf("a full disk: %q", got)
	}
	bare := node("host7", corev1.ConditionFalse, corev1.ConditionTrue, "well")
	objects.SetNodeCondition(bare, corev1.NodeCondition{Type: objects.NodeHypervisorReady, Status: corev1.ConditionFalse, Message: "no libvirt"}, time.Now())
	if got := hostWarnings([]*corev1.Node{bare}); !slices.Equal(got, []string{"host7: no libvirt"}) {
		t.Errorf("a host without its hypervisor: %q", got)
	}
	if want := []string{"host1, host3: pool nfs hangs", "host5: pool local is read-only"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A leader that hangs, as a stopped process does, is still the leader until the others elect
// another. An operator who looks in that moment sees what the host that he asked knows.
func TestStatusOutlastsALeaderThatHangs(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	first.peers.records.mu.Lock() // it needs them to say how far the others are
	defer first.peers.records.mu.Unlock()
	status, err := second.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(status.Members) != 2 || status.Leader != "host1" || status.Level == nil {
		t.Errorf("status %+v", status)
	}
	if !slices.ContainsFunc(status.Warnings, func(w string) bool { return strings.HasPrefix(w, "host1 leads, and does not answer host2: ") }) {
		t.Errorf("warnings %q", status.Warnings)
	}
}
