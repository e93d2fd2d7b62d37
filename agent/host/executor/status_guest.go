package executor

import (
	"slices"
	"strings"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

// Sources of what is known of a network card.
const (
	// infoSourceGuest says that host and guest both know the card, infoSourceGuestOnly
	// that the guest alone does.
	infoSourceGuest     = "domain, guest-agent"
	infoSourceGuestOnly = "guest-agent"
)

// kindGuestCards is the name under which the pauses between changes of the cards that
// only the guest knows are counted. There is no condition of that name.
const kindGuestCards = kubevirtv1.VirtualMachineInstanceConditionType("interfaces")

// maxGuestCards bounds how many cards the status has that only the guest knows: a
// guest makes as many as it likes, and each is stored on every host.
const maxGuestCards = 16

// describeAgent tells whether the guest's agent is connected and what it says. A
// guest that does not answer keeps its last answer, also over a restart of this
// host's agent. It returns when to look again.
func (e *Executor) describeAgent(before, updated *kubevirtv1.VirtualMachineInstance, r *run) time.Duration {
	const kind = kubevirtv1.VirtualMachineInstanceAgentConnected
	connected, wait := e.flips.settle(r.ref.UID, kind, machine.HasCondition(before, kind), r.domain.AgentConnected)
	if !connected {
		machine.DropConditions(updated, kind, kubevirtv1.VirtualMachineInstanceUnsupportedAgent)
		updated.Status.GuestOSInfo = kubevirtv1.VirtualMachineInstanceGuestOSInfo{}
		return wait
	}
	machine.SetCondition(updated, machine.NewCondition(kind, true, "", ""), r.now)
	info, known, next := e.agents.look(r.ref)
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
	changed, later := e.flips.settle(r.ref.UID, kindGuestCards, false, !slices.EqualFunc(shown, now, sameCard))
	if changed {
		shown = now
	}
	updated.Status.Interfaces = append(updated.Status.Interfaces, shown...)
	return sooner(wait, later)
}

// describeSupport tells when the guest's agent cannot answer what it may be asked. An
// agent that says nothing of itself is not judged. It returns when to look again.
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
	lacks, wait := e.flips.settle(r.ref.UID, kind, machine.HasCondition(updated, kind), missing != "")
	switch {
	case !lacks:
		machine.DropConditions(updated, kind)
	case missing != "":
		machine.SetCondition(updated, machine.NewCondition(kind, true, "AgentCommandsMissing",
			"the guest agent does not offer "+missing), r.now)
	}
	return wait
}

// guestOS converts what the guest says of its operating system.
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

// newGuestCards are the guest's cards that none of the known ones is, by name: bridges
// of its own, or what it made for containers. Its loopback is no card.
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

// bareAddresses takes the length of the prefix off.
func bareAddresses(prefixes []string) []string {
	var addresses []string
	for _, prefix := range prefixes {
		address, _, _ := strings.Cut(prefix, "/")
		addresses = append(addresses, address)
	}
	return addresses
}

// addGuestInterface adds what the guest says of a card to what the host knows. The
// guest's bridges and VLANs on the card have its MAC too: the card itself is the
// first of them, for the guest numbers it before what it puts upon it. The address
// that the host gave stays first, the guest's follow.
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

// keepGuestInterfaces keeps what a guest said of its cards before: nothing was
// heard of it since this process began.
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
