package host

import (
	"slices"
	"strings"
	"testing"

	"virtmesh/agent/claims"
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
