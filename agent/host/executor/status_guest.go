package executor

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

// Values of infoSource in the status of a network card.
const (
	// infoSourceGuest marks a card that host and guest agent both report,
	// infoSourceGuestOnly one that only the guest agent reports.
	infoSourceGuest     = "domain, guest-agent"
	infoSourceGuestOnly = "guest-agent"
)

// kindGuestWords is the key in flips for changes of what the guest says of itself: its
// system, its addresses and cards of its own. There is no condition of that name.
const kindGuestWords = kubevirtv1.VirtualMachineInstanceConditionType("guest")

// Bounds of what the status shows of the guest's own words. A guest can make any number
// of cards and addresses, and the status is stored on every host.
const (
	maxGuestCards = 16
	// maxCardAddresses bounds the guest's addresses on one card, and maxGuestAddresses
	// those on all cards.
	maxCardAddresses  = 16
	maxGuestAddresses = 64
)

// describeAgent sets condition AgentConnected and what the guest agent reports. When
// the guest agent does not answer, the status keeps its last answer, also over a
// restart of this host's agent. It returns the time until the next look.
func (e *Executor) describeAgent(before, updated *kubevirtv1.VirtualMachineInstance, r *run) time.Duration {
	const kind = kubevirtv1.VirtualMachineInstanceAgentConnected
	connected, wait := e.flips.limitChange(r.ref.UID, kind, machine.HasCondition(before, kind), r.domain.AgentConnected)
	if !connected {
		machine.DropConditions(updated, kind, kubevirtv1.VirtualMachineInstanceUnsupportedAgent)
		updated.Status.GuestOSInfo = kubevirtv1.VirtualMachineInstanceGuestOSInfo{}
		return wait
	}
	machine.SetCondition(updated, machine.NewCondition(kind, true, "", ""), r.now)
	info, known, next := e.agents.lastAnswer(r.ref)
	wait = sooner(wait, next)
	if !known {
		updated.Status.Interfaces = shownWords(before, updated.Status.Interfaces).cards
		return wait
	}
	wait = sooner(wait, e.describeSupport(updated, info, r))
	shown, now := shownWords(before, updated.Status.Interfaces), newWords(updated.Status.Interfaces, info)
	changed, later := e.flips.limitChange(r.ref.UID, kindGuestWords, false, !reflect.DeepEqual(shown, now))
	if changed {
		shown = now
	}
	updated.Status.GuestOSInfo, updated.Status.Interfaces = shown.os, shown.cards
	return sooner(wait, later)
}

// guestWords is what a status shows of the guest's own words.
type guestWords struct {
	os kubevirtv1.VirtualMachineInstanceGuestOSInfo
	// cards are all cards of the status: those that the host knows, with what the guest
	// says of them, and those that only the guest knows.
	cards []kubevirtv1.VirtualMachineInstanceNetworkInterface
}

// shownWords is what the status before shows, on the cards as the host knows them now.
func shownWords(before *kubevirtv1.VirtualMachineInstance, known []kubevirtv1.VirtualMachineInstanceNetworkInterface) guestWords {
	cards := cloneCards(known)
	keepGuestInterfaces(cards, before.Status.Interfaces)
	return guestWords{os: before.Status.GuestOSInfo, cards: append(cards, guestOnlyCards(before)...)}
}

// newWords is what the guest's answer says, on the cards as the host knows them, within
// bounds and in an order of ours.
func newWords(known []kubevirtv1.VirtualMachineInstanceNetworkInterface, info hypervisor.GuestInfo) guestWords {
	cards, left := cloneCards(known), maxGuestAddresses
	for i := range cards {
		left -= addGuestInterface(&cards[i], info.Interfaces, left)
	}
	return guestWords{os: guestOS(info.OS), cards: append(cards, newGuestCards(known, info.Interfaces, left)...)}
}

func cloneCards(cards []kubevirtv1.VirtualMachineInstanceNetworkInterface) []kubevirtv1.VirtualMachineInstanceNetworkInterface {
	var clones []kubevirtv1.VirtualMachineInstanceNetworkInterface
	for i := range cards {
		clones = append(clones, *cards[i].DeepCopy())
	}
	return clones
}

// describeSupport sets condition UnsupportedAgent when the guest agent lacks commands
// that are needed. An agent that lists no commands leaves the condition as it is. It
// returns the time until the next look; zero for never.
func (e *Executor) describeSupport(updated *kubevirtv1.VirtualMachineInstance, info hypervisor.GuestInfo, r *run) time.Duration {
	const kind = kubevirtv1.VirtualMachineInstanceUnsupportedAgent
	if len(info.Commands) == 0 {
		return 0
	}
	var enabled []string
	for _, command := range info.Commands {
		if command.Enabled {
			enabled = append(enabled, command.Name)
		}
	}
	missing := machine.MissingAgentCommands(enabled)
	lacks, wait := e.flips.limitChange(r.ref.UID, kind, machine.HasCondition(updated, kind), missing != "")
	switch {
	case !lacks:
		machine.DropConditions(updated, kind)
	case missing != "":
		machine.SetCondition(updated, machine.NewCondition(kind, true, "AgentCommandsMissing",
			"the guest agent does not offer "+missing), r.now)
	}
	return wait
}

// guestOS converts the guest agent's description of the operating system.
func guestOS(os hypervisor.GuestOS) kubevirtv1.VirtualMachineInstanceGuestOSInfo {
	return kubevirtv1.VirtualMachineInstanceGuestOSInfo{
		Name: os.Name, Version: os.Version, PrettyName: os.PrettyName, VersionID: os.VersionID,
		KernelRelease: os.KernelRelease, KernelVersion: os.KernelVersion, Machine: os.Machine, ID: os.ID,
	}
}

// guestOnlyCards are the cards of a status that only the guest knows.
func guestOnlyCards(vmi *kubevirtv1.VirtualMachineInstance) []kubevirtv1.VirtualMachineInstanceNetworkInterface {
	var cards []kubevirtv1.VirtualMachineInstanceNetworkInterface
	for _, card := range vmi.Status.Interfaces {
		if card.InfoSource == infoSourceGuestOnly {
			cards = append(cards, card)
		}
	}
	return cards
}

// newGuestCards returns the cards that only the guest knows, sorted by name, with at most
// so many addresses: its own bridges, or interfaces that it made for containers. Its
// loopback is left out.
func newGuestCards(known []kubevirtv1.VirtualMachineInstanceNetworkInterface, guest []hypervisor.GuestInterface, most int) []kubevirtv1.VirtualMachineInstanceNetworkInterface {
	type id struct{ name, mac string }
	addresses := map[id][]string{}
	for _, nic := range guest {
		hosts := slices.ContainsFunc(known, func(card kubevirtv1.VirtualMachineInstanceNetworkInterface) bool {
			return card.MAC != "" && strings.EqualFold(card.MAC, nic.MAC)
		})
		if hosts || nic.MAC == "" || nic.Name == "lo" {
			continue
		}
		card := id{nic.Name, nic.MAC}
		addresses[card] = append(addresses[card], nic.Addresses...)
	}
	ids := slices.SortedFunc(maps.Keys(addresses), func(a, b id) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.mac, b.mac))
	})
	var cards []kubevirtv1.VirtualMachineInstanceNetworkInterface
	for _, id := range ids[:min(len(ids), maxGuestCards)] {
		card := kubevirtv1.VirtualMachineInstanceNetworkInterface{InterfaceName: id.name, MAC: id.mac, InfoSource: infoSourceGuestOnly}
		most -= addAddresses(&card, sortedAddresses(addresses[id]), most)
		cards = append(cards, card)
	}
	return cards
}

// sortedAddresses returns the addresses without their prefix lengths, each once: IPv4
// first, then IPv6, and those that are valid on one link only last. The order in which a
// guest lists them means nothing.
func sortedAddresses(prefixes []string) []string {
	var addresses []netip.Addr
	for _, prefix := range prefixes {
		bare, _, _ := strings.Cut(prefix, "/")
		if address, err := netip.ParseAddr(bare); err == nil {
			addresses = append(addresses, address)
		}
	}
	slices.SortFunc(addresses, func(a, b netip.Addr) int {
		if local := a.IsLinkLocalUnicast(); local != b.IsLinkLocalUnicast() {
			if local {
				return 1
			}
			return -1
		}
		return a.Compare(b)
	})
	var sorted []string
	for _, address := range slices.Compact(addresses) {
		sorted = append(sorted, address.String())
	}
	return sorted
}

// addGuestInterface adds what the guest agent reports of a card to what the host knows,
// and returns how many addresses that added, at most most.
// The guest's bridges and VLANs on the card have the same MAC. The first interface
// with the MAC is the card itself, because the guest numbers the card before it puts
// others on it. The address that the host gave stays first; the guest's follow.
func addGuestInterface(known *kubevirtv1.VirtualMachineInstanceNetworkInterface, guest []hypervisor.GuestInterface, most int) int {
	var prefixes []string
	for _, nic := range guest {
		if known.MAC == "" || !strings.EqualFold(known.MAC, nic.MAC) {
			continue
		}
		if known.InfoSource != infoSourceGuest {
			known.InfoSource, known.InterfaceName = infoSourceGuest, nic.Name
		}
		prefixes = append(prefixes, nic.Addresses...)
	}
	return addAddresses(known, sortedAddresses(prefixes), most)
}

// addAddresses appends addresses that the card does not have yet, at most most and
// maxCardAddresses of them, and returns how many.
func addAddresses(known *kubevirtv1.VirtualMachineInstanceNetworkInterface, addresses []string, most int) (added int) {
	if known.IP != "" && !slices.Contains(known.IPs, known.IP) {
		known.IPs = append([]string{known.IP}, known.IPs...)
	}
	for _, address := range addresses {
		if added < min(most, maxCardAddresses) && !slices.Contains(known.IPs, address) {
			known.IPs = append(known.IPs, address)
			added++
		}
	}
	if known.IP == "" && len(known.IPs) > 0 {
		known.IP = known.IPs[0]
	}
	return added
}

// keepGuestInterfaces copies to the cards what the guest agent reported of them in the
// status before.
func keepGuestInterfaces(cards, before []kubevirtv1.VirtualMachineInstanceNetworkInterface) {
	for i := range cards {
		known := &cards[i]
		for _, old := range before {
			if old.Name == known.Name && strings.EqualFold(old.MAC, known.MAC) && old.InfoSource == infoSourceGuest {
				known.InfoSource, known.InterfaceName = old.InfoSource, old.InterfaceName
				addAddresses(known, old.IPs, maxGuestAddresses)
			}
		}
	}
}
