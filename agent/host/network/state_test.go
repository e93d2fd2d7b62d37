package network

import (
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"
)

// TestStatesOfCards has a card go down, come back, and be taken out of a running guest.
func TestStatesOfCards(t *testing.T) {
	w := newWorld(t)
	w.define("ns", "lan", lan)
	vmi := w.create(attach(instance("a"), "second", "lan"))
	w.connect(vmi)
	set := func(state kubevirtv1.InterfaceState) {
		vmi = w.update(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) {
			for i := range vmi.Spec.Domain.Devices.Interfaces {
				vmi.Spec.Domain.Devices.Interfaces[i].State = state
			}
		})
	}
	for _, state := range []kubevirtv1.InterfaceState{"", kubevirtv1.InterfaceStateLinkDown, kubevirtv1.InterfaceStateLinkUp} {
		set(state)
		down := state == kubevirtv1.InterfaceStateLinkDown
		shown := map[bool]string{true: "down", false: "up"}[down]
		for i, card := range []string{"default", "second"} {
			tap, ok := w.tap(vmi, card)
			if !ok || tap.LinkDown != down {
				t.Errorf("state %q: tap of %s is there: %v, without link: %v", state, card, ok, tap.LinkDown)
			}
			if got := w.network.Interfaces(vmi)[i].LinkState; got != shown {
				t.Errorf("state %q of %s is shown as %q", state, card, got)
			}
		}
	}
	set(kubevirtv1.InterfaceStateAbsent)
	if want := w.want(); len(want.Taps) != 0 || len(want.DNS.Records) != 0 {
		t.Errorf("absent cards have taps %v and names %v", want.Taps, want.DNS.Records)
	}
	if shown := w.network.Interfaces(vmi); len(shown) != 0 {
		t.Errorf("absent cards are shown: %+v", shown)
	}
}

// TestAbsentCardTakesNothing starts a guest with a card that is absent from the beginning:
// it needs neither an address nor the network that it names.
func TestAbsentCardTakesNothing(t *testing.T) {
	w := newWorld(t)
	vmi := attach(instance("a"), "second", "not-defined")
	for i := range vmi.Spec.Domain.Devices.Interfaces {
		vmi.Spec.Domain.Devices.Interfaces[i].State = kubevirtv1.InterfaceStateAbsent
	}
	nics, err := w.network.Connect(t.Context(), w.create(vmi))
	if err != nil || len(nics) != 0 || len(w.network.leases.Leases()) != 0 {
		t.Errorf("connected %v with leases %v: %v", nics, w.network.leases.Leases(), err)
	}
}
