package host

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/volumes"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
)

// A witness needs neither libvirt nor QEMU's user, takes no instance, and says what it is.
func TestAWitnessNeedsNothingOfAGuests(t *testing.T) {
	deps := testDeps(t)
	config := DefaultConfig(deps.Self.StateDir)
	config.Role, config.Hypervisor.URI, config.Hypervisor.User = RoleWitness, "qemu+unix:///system?socket=/nowhere", "nobody-of-that-name"
	h, err := Open(t.Context(), config, deps)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var loops []string
	for _, loop := range h.Loops() {
		loops = append(loops, loop.Name)
	}
	if want := []string{"quarantine", "volumes", "node", "facts"}; !slices.Equal(loops, want) {
		t.Errorf("loops %q, want %q", loops, want)
	}
	if offer, err := h.Offerer().Offer(t.Context(), claims.OfferRequest{}); err != nil || offer.Accepted || !strings.Contains(offer.Reason, "witness") {
		t.Errorf("offer %+v, %v", offer, err)
	}
	if err := h.Guests().Pause(t.Context(), "ns", "vm"); err == nil || !strings.Contains(err.Error(), "ns/vm") {
		t.Errorf("a guest that no witness runs: %v", err)
	}
}

// Instances that are placed on a host keep it from becoming a witness: nobody would look
// after them.
func TestAHostWithInstancesBecomesNoWitness(t *testing.T) {
	deps := testDeps(t)
	var tx objects.Tx
	claims.Publish(&tx, claims.Capacity{Host: "h1"})
	claims.Place(&tx, claims.Instance{Host: "h1", UID: "u1", Namespace: "ns", Name: "vm"}, claims.Epoch{})
	if _, err := tx.Commit(t.Context(), deps.Store); err != nil {
		t.Fatal(err)
	}
	config := DefaultConfig(deps.Self.StateDir)
	config.Role = RoleWitness
	if h, err := Open(t.Context(), config, deps); err == nil || h != nil || !strings.Contains(err.Error(), "instances are placed on this host") {
		t.Errorf("%v, %v", h, err)
	}
	if err := (Config{Role: "king"}).Validate(); err == nil || !strings.Contains(err.Error(), "role") {
		t.Errorf("a role that nobody knows: %v", err)
	}
}

// Volumes keep a host from becoming a witness too: nobody would start their machines, or
// delete them. A claim whose volume was never made does not, nor does any claim keep a host
// that is a witness already from starting.
func TestAHostWithVolumesBecomesNoWitness(t *testing.T) {
	for _, test := range []struct {
		name    string
		phase   corev1.PersistentVolumeClaimPhase
		home    string
		witness bool
		refused bool
	}{
		{name: "a volume is here", phase: corev1.ClaimBound, home: "h1", refused: true},
		{name: "it was never made", phase: corev1.ClaimPending, home: "h1"},
		{name: "it is elsewhere", phase: corev1.ClaimBound, home: "h2"},
		{name: "the host is a witness already", phase: corev1.ClaimBound, home: "h1", witness: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			deps := testDeps(t)
			claim := &corev1.PersistentVolumeClaim{}
			claim.Namespace, claim.Name, claim.Status.Phase = "ns", "data", test.phase
			claim.Annotations = map[string]string{volumes.SelectedNode: test.home}
			objects.AddFinalizer(claim, kinds.VolumeFinalizer)
			node := &corev1.Node{}
			node.Name = "h1"
			if test.witness {
				node.Labels = map[string]string{objects.NodeRoleWitness: ""}
			}
			var tx objects.Tx
			tx.Create(claim)
			tx.Create(node)
			if _, err := tx.Commit(t.Context(), deps.Store); err != nil {
				t.Fatal(err)
			}
			config := DefaultConfig(deps.Self.StateDir)
			config.Role = RoleWitness
			h, err := Open(t.Context(), config, deps)
			if h != nil {
				h.Close()
			}
			if refused := err != nil && strings.Contains(err.Error(), "ns/data") && strings.Contains(err.Error(), RoleWorker); refused != test.refused || !refused && err != nil {
				t.Errorf("%v, want an error: %v", err, test.refused)
			}
		})
	}
}
