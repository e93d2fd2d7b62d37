package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
	"virtmesh/netplug"
	"virtmesh/netplug/nad"
)

// buildWant returns the whole network that the instances of this host need now, with the
// taps that cannot be part of it. connecting, if not nil, is one of these instances.
func (n *Network) buildWant(connecting *kubevirtv1.VirtualMachineInstance) *builder {
	b := &builder{
		network: n, addresses: n.addresses(), bridges: map[string]netplug.Bridge{},
		names: map[string]string{}, cards: map[string]string{}, refused: map[string]error{},
	}
	b.want.DNS = netplug.DNS{Domain: n.Domain, Records: map[string][]netip.Addr{}}
	b.want.Bridges = []netplug.Bridge{n.podBridge()}
	// Guests that run come first: an instance that starts must not take the MAC address
	// or the tap of one of them.
	instances := n.instancesHere(connecting)
	slices.SortStableFunc(instances, func(x, y *kubevirtv1.VirtualMachineInstance) int {
		return cmp.Compare(starting(x), starting(y))
	})
	for _, vmi := range instances {
		if !vmi.IsFinal() {
			b.addInstance(vmi)
		}
	}
	for _, name := range sortedKeys(b.bridges) {
		b.want.Bridges = append(b.want.Bridges, b.bridges[name])
	}
	b.want.Protected, b.want.Allowed, b.want.Router = n.Closed(), n.AllowedNetworks, n.Router
	b.want.MaxConnections = n.ConnectionsPerGuest
	return b
}

// starting is 0 for an instance whose guest runs, and 1 for one without.
func starting(vmi *kubevirtv1.VirtualMachineInstance) int {
	if vmi.Status.Phase == kubevirtv1.Running {
		return 0
	}
	return 1
}

func (n *Network) podBridge() netplug.Bridge {
	return netplug.Bridge{
		Name: PodBridge, Address: netip.PrefixFrom(gateway(n.Subnet), n.Subnet.Bits()),
		NAT: true, DNS: true, DHCP: &netplug.DHCP{Domain: n.Domain},
	}
}

// builder collects a Want, instance by instance.
type builder struct {
	network   *Network
	addresses map[string]netip.Addr
	bridges   map[string]netplug.Bridge
	// names and cards are the Keys of the taps, by name and by bridge and MAC. refused
	// holds the reasons of the taps left out, by Key: one invalid tap in the Want would
	// leave all guests without network.
	names   map[string]string
	cards   map[string]string
	refused map[string]error
	want    netplug.Want
}

// addTap adds a tap to the Want, and reports whether the tap can be part of it.
func (b *builder) addTap(tap netplug.Tap) bool {
	card := tap.Bridge + " " + tap.MAC.String()
	if err := b.checkTap(tap, card); err != nil {
		b.refused[tap.Key()] = err
		return false
	}
	b.names[tap.Name], b.cards[card] = tap.Key(), tap.Key()
	b.want.Taps = append(b.want.Taps, tap)
	return true
}

// checkTap says why a tap cannot be part of the Want. card is its bridge and MAC.
func (b *builder) checkTap(tap netplug.Tap, card string) error {
	if err := tap.Validate(); err != nil {
		return err
	}
	// The name is a hash of 60 bits: whoever chooses the names of many machines can find
	// two with one tap.
	if holder, taken := b.names[tap.Name]; taken {
		return fmt.Errorf("its tap would have the name %s, as that of %s: give the virtual machine or the interface another name", tap.Name, holder)
	}
	if holder, taken := b.cards[card]; taken {
		return fmt.Errorf("MAC address %s is already that of %s on this network", tap.MAC, holder)
	}
	return nil
}

// newTap returns the tap of a card, which is in no network yet.
func (n *Network) newTap(vmi *kubevirtv1.VirtualMachineInstance, nic kubevirtv1.Interface) netplug.Tap {
	return netplug.Tap{
		Name:      n.tapName(vmi.Namespace, vmi.Name, nic.Name),
		Namespace: vmi.Namespace, VM: vmi.Name, Interface: nic.Name,
		MAC: macOf(vmi, nic), Queues: 1, MACSpoofCheck: true,
		LinkDown: nic.State == kubevirtv1.InterfaceStateLinkDown,
	}
}

// addInstance adds the taps of the instance.
func (b *builder) addInstance(vmi *kubevirtv1.VirtualMachineInstance) {
	networks := networksByName(vmi)
	for _, nic := range cardsOf(vmi) {
		tap := b.network.newTap(vmi, nic)
		network := networks[nic.Name]
		switch {
		case network.Pod != nil:
			b.addPodTap(vmi, tap)
		case network.Multus != nil:
			b.addAttachedTap(vmi, tap)
		}
	}
}

func (b *builder) addPodTap(vmi *kubevirtv1.VirtualMachineInstance, tap netplug.Tap) {
	address, ok := b.addresses[leaseKey(domain.Ref(vmi), tap.Interface)]
	if !ok {
		// The instance is not being started yet.
		return
	}
	tap.Bridge, tap.Address, tap.IPSpoofCheck, tap.Hostname = PodBridge, address, true, machine.Hostname(vmi)
	if !b.addTap(tap) {
		return
	}
	record := machine.HostLabel(vmi.Name) + "." + vmi.Namespace
	b.want.DNS.Records[record] = append(b.want.DNS.Records[record], address)
}

func (b *builder) addAttachedTap(vmi *kubevirtv1.VirtualMachineInstance, tap netplug.Tap) {
	attachment, ok := b.network.attached.of(leaseKey(domain.Ref(vmi), tap.Interface))
	if !ok {
		// The instance is not being started yet, or Connect told the user why not.
		return
	}
	if !b.addTap(attachment.Attach(tap)) {
		return
	}
	bridge, ok := b.bridges[attachment.Bridge]
	if !ok {
		bridge = b.network.hostBridge(attachment.Bridge)
	}
	bridge.VLANFiltering = bridge.VLANFiltering || attachment.VLAN != 0
	b.bridges[attachment.Bridge] = bridge
}

// hostBridge returns the bridge of a secondary network as the host's configuration says: with
// its uplink, or without one a bridge that the administrator made. The configuration may no
// longer name that of a guest that runs, which keeps it.
func (n *Network) hostBridge(name string) netplug.Bridge {
	if b, ok := n.offeredBridge(name); ok && b.Uplink != "" {
		return netplug.Bridge{Name: name, Uplink: b.Uplink}
	}
	return netplug.Bridge{Name: name, AllowExisting: true}
}

// offeredBridge returns the bridge that this host offers under a name.
func (n *Network) offeredBridge(name string) (HostBridge, bool) {
	i := slices.IndexFunc(n.Bridges, func(b HostBridge) bool { return b.Name == name })
	if i < 0 {
		return HostBridge{}, false
	}
	return n.Bridges[i], true
}

// permittedAttachment reads the definition of a secondary network for a guest that starts. A
// bridge leads to what the host is connected to, so its administrator says which ones there
// are for guests; and a namespace uses its own definitions and those for all, as Multus has it
// where it isolates namespaces.
func (n *Network) permittedAttachment(vmi *kubevirtv1.VirtualMachineInstance, network kubevirtv1.Network) (nad.Network, error) {
	attachment, err := n.attachment(vmi, network)
	if err != nil {
		return nad.Network{}, err
	}
	key := definitionKey(vmi, network)
	if key.Namespace != vmi.Namespace && key.Namespace != metav1.NamespaceDefault {
		return nad.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: only machines of its namespace may use it: define the network in namespace %s, or in %s for all", key, vmi.Namespace, metav1.NamespaceDefault)
	}
	if _, ok := n.offeredBridge(attachment.Bridge); !ok {
		return nad.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: host %s does not offer bridge %s to guests: its administrator names bridges in network.bridges of agent.yaml", key, n.Host, attachment.Bridge)
	}
	return attachment, nil
}

// definitionKey names the definition of a secondary network: one of the machine's namespace,
// or NAMESPACE/NAME.
func definitionKey(vmi *kubevirtv1.VirtualMachineInstance, network kubevirtv1.Network) objects.Key {
	if namespace, name, ok := strings.Cut(network.Multus.NetworkName, "/"); ok {
		return objects.Key{Namespace: namespace, Name: name}
	}
	return objects.Key{Namespace: vmi.Namespace, Name: network.Multus.NetworkName}
}

// attachment reads the definition of a secondary network.
func (n *Network) attachment(vmi *kubevirtv1.VirtualMachineInstance, network kubevirtv1.Network) (nad.Network, error) {
	if network.Multus == nil {
		return nad.Network{}, fmt.Errorf("only the pod network and NetworkAttachmentDefinitions (multus) are supported")
	}
	key := definitionKey(vmi, network)
	definition, ok := n.Networks.Get(key)
	if !ok {
		return nad.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s does not exist", key)
	}
	attachment, err := nad.Parse(definition.Spec.Config)
	if err != nil {
		return nad.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: %w", key, err)
	}
	if attachment.Bridge == PodBridge {
		return nad.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: bridge %s is that of the pod network", key, PodBridge)
	}
	return attachment, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
