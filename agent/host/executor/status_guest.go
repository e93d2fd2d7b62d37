package executor

import (
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

// kindGuestCards is the key in flips for changes of the cards that only the guest
// knows. There is no condition of that name.
const kindGuestCards = kubevirtv1.VirtualMachineInstanceConditionType("interfaces")

// maxGuestCards bounds how many cards that only the guest knows the status shows: a
// guest can make any number of them, and the status is stored on every host.
const maxGuestCards = 16

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
		keepGuestInterfaces(updated, before.Status.Interfaces)
		updated.Status.Interfaces = append(updated.Status.Interfaces, guestOnlyCards(before)...)
		return wait
	}
	updated.Status.GuestOSInfo = guestOS(info.OS)
	wait = sooner(wait, e.describeSupport(updated, info, r))
	for i := range updated.Status.Interfaces {
		addGuestInterface(&updated.Status.Interfaces[i], info.Interfaces)
	}
	shown, now := guestOnlyCards(before), newGuestCards(updated.Status.Interfaces, info.Interfaces)
	changed, later := e.flips.limitChange(r.ref.UID, kindGuestCards, false, !slices.EqualFunc(shown, now, sameCard))
	if changed {
		shown = now
	}
	updated.Status.Interfaces = append(updated.Status.Interfaces, shown...)
	return sooner(wait, later)
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

func sameCard(a, b kubevirtv1.VirtualMachineInstanceNetworkInterface) bool {
	return a.InterfaceName == b.InterfaceName && a.MAC == b.MAC && slices.Equal(a.IPs, b.IPs)
}

// newGuestCards returns the cards that only the guest knows, sorted by name: its own
// bridges, or interfaces that it made for containers. Its loopback is left out.
func newGuestCards(known []kubevirtv1.VirtualMachineInstanceNetworkInterface, guest []hypervisor.GuestInterface) []kubevirtv1.VirtualMachineInstanceNetworkInterface {
	var cards []kubevirtv1.VirtualMachineInstanceNetworkInterface
	for _, nic := range guest {
		hosts := slices.ContainsFunc(known, func(card kubevirtv1.VirtualMachineInstanceNetworkInterface) bool {
			return card.MAC != "" && strings.EqualFold(card.MAC, nic.MAC)
		})
		if hosts || nic.MAC == "" || nic.Name == "lo" {
			continue
		}
		card := kubevirtv1.VirtualMachineInstanceNetworkInterface{InterfaceName: nic.Name, MAC: nic.MAC, InfoSource: infoSourceGuestOnly}
		addAddresses(&card, bareAddresses(nic.Addresses))
		cards = append(cards, card)
	}
	slices.SortStableFunc(cards, func(a, b kubevirtv1.VirtualMachineInstanceNetworkInterface) int {
		return strings.Compare(a.InterfaceName, b.InterfaceName)
	})
	return cards[:min(len(cards), maxGuestCards)]
}

// bareAddresses returns the addresses without their prefix lengths.
func bareAddresses(prefixes []string) []string {
	var addresses []string
	for _, prefix := range prefixes {
		address, _, _ := strings.Cut(prefix, "/")
		addresses = append(addresses, address)
	}
	return addresses
}

// addGuestInterface adds what the guest agent reports of a card to what the host knows.
// The guest's bridges and VLANs on the card have the same MAC. The first interface
// with the MAC is the card itself, because the guest numbers the card before it puts
// others on it. The address that the host gave stays first; the guest's follow.
func addGuestInterface(known *kubevirtv1.VirtualMachineInstanceNetworkInterface, guest []hypervisor.GuestInterface) {
	var addresses []string
	for _, nic := range guest {
		if known.MAC == "" || !strings.EqualFold(known.MAC, nic.MAC) {
			continue
		}
		if known.InfoSource != infoSourceGuest {
			known.InfoSource, known.InterfaceName = infoSourceGuest, nic.Name
		}
		addresses = append(addresses, bareAddresses(nic.Addresses)...)
	}
	addAddresses(known, addresses)
}

// addAddresses appends addresses that the card does not have yet.
func addAddresses(known *kubevirtv1.VirtualMachineInstanceNetworkInterface, addresses []string) {
	if known.IP != "" && !slices.Contains(known.IPs, known.IP) {
		known.IPs = append([]string{known.IP}, known.IPs...)
	}
	for _, address := range addresses {
		if !slices.Contains(known.IPs, address) {
			known.IPs = append(known.IPs, address)
		}
	}
	if known.IP == "" && len(known.IPs) > 0 {
		known.IP = known.IPs[0]
	}
}

// keepGuestInterfaces copies what the guest agent reported of its cards from the status
// before: the agent has not answered since this process began.
func keepGuestInterfaces(vmi *kubevirtv1.VirtualMachineInstance, before []kubevirtv1.VirtualMachineInstanceNetworkInterface) {
	for i := range vmi.Status.Interfaces {
		known := &vmi.Status.Interfaces[i]
		for _, old := range before {
			if old.Name == known.Name && strings.EqualFold(old.MAC, known.MAC) && old.InfoSource == infoSourceGuest {
				known.InfoSource, known.InterfaceName = old.InfoSource, old.InterfaceName
				addAddresses(known, old.IPs)
			}
		}
	}
}
