package network

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	k8scni "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/netplug"
	"virtmesh/storage/durable"
)

// PodBridge is the bridge of the default network on every host.
const PodBridge = "virtmesh0"

// Plug is what this package needs of a *netplug.Plug.
type Plug interface {
	Set(ctx context.Context, want netplug.Want) (netplug.Result, error)
	WatchFilter(ctx context.Context, changed func()) error
}

// HostBridge is a bridge of the host that secondary networks use.
type HostBridge struct {
	// Name is what a NetworkAttachmentDefinition calls it.
	Name string
	// Uplink is the host's interface that connects it to the other hosts. Without one the
	// bridge is the administrator's.
	Uplink string
}

// Config describes a Network. All fields but Bridges, Protection, Subscribe, FilterLost
// and ConnectionsPerGuest are required.
type Config struct {
	// Host is this host's name.
	Host string
	// Subnet is this host's part of the default network.
	Subnet netip.Prefix
	// Domain is the DNS domain of guests.
	Domain string
	// LeaseFile keeps the addresses of the default network.
	LeaseFile string
	// AttachmentFile keeps what cards in secondary networks are attached to. Its
	// directory must exist.
	AttachmentFile string
	// Bridges are the bridges this host offers to secondary networks, and no others.
	Bridges []HostBridge
	// Protection says to which addresses guests may not open connections.
	Protection
	// ConnectionsPerGuest is how many connections a guest may have to and through the host;
	// 0 for any number.
	ConnectionsPerGuest int
	// Router says that the host forwards traffic of others by its administrator's wish.
	Router bool
	// Subscribe calls a function whenever Protected may have changed, until the
	// function that it returns is called.
	Subscribe func(func()) (cancel func())
	// FilterLost is called when something else had changed or removed the packet filter,
	// which is loaded again or about to be. It does not block.
	FilterLost func()
	Instances  *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	// Claims say which instances this host runs.
	Claims   *claims.Cache
	Networks *objects.Informer[*k8scni.NetworkAttachmentDefinition]
	Plug     Plug
	Logger   *slog.Logger
}

// Network connects instances. Its methods may be called at once.
type Network struct {
	Config
	leases   *netplug.Allocator
	attached *attachments

	// changed wakes Run.
	changed chan struct{}
	// setting serialises calls of Plug's Set, so that the last call has the newest
	// instances.
	setting sync.Mutex
	// tapName is netplug.TapName, except in tests.
	tapName func(namespace, vm, card string) string
}

// New makes a Network, and reads the files of addresses and attachments.
func New(config Config) (*Network, error) {
	if config.Host == "" || config.Instances == nil || config.Claims == nil || config.Networks == nil || config.Plug == nil || config.Logger == nil {
		return nil, errors.New("host network: a required field of its configuration is missing")
	}
	leases, err := netplug.OpenAllocator(config.LeaseFile, durable.WriteFile, config.Subnet, gateway(config.Subnet))
	if err != nil {
		return nil, fmt.Errorf("host network: %w", err)
	}
	attached, err := openAttachments(config.AttachmentFile)
	if err != nil {
		return nil, fmt.Errorf("host network: %w", err)
	}
	return &Network{Config: config, leases: leases, attached: attached, changed: make(chan struct{}, 1), tapName: netplug.TapName}, nil
}

// gateway is the host's own address in its subnet: the first one.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// isOnThisHost reports whether the instance's claim names this host. What the status
// says of its host gives no right to a tap or an address.
func (n *Network) isOnThisHost(vmi *kubevirtv1.VirtualMachineInstance) bool {
	claim, claimed := n.Claims.Instance(vmi.UID)
	return claimed && claim.Host == n.Host
}

// instancesHere returns the instances whose claims name this host, and connecting if it is
// not nil, ordered by key. The claims say which they are, so that those of other hosts
// are not looked at.
func (n *Network) instancesHere(connecting *kubevirtv1.VirtualMachineInstance) []*kubevirtv1.VirtualMachineInstance {
	uids := map[objects.Key]types.UID{}
	for _, claim := range n.Claims.OnHost(n.Host) {
		if claim.Host == n.Host {
			uids[claim.Key()] = claim.UID
		}
	}
	if connecting != nil {
		uids[objects.KeyOf(connecting)] = connecting.UID
	}
	var here []*kubevirtv1.VirtualMachineInstance
	for _, key := range slices.SortedFunc(maps.Keys(uids), objects.CompareKeys) {
		if vmi, ok := n.Instances.Get(key); ok && vmi.UID == uids[key] {
			here = append(here, vmi)
		}
	}
	return here
}

// setNetwork builds the wanted network and applies it to the host. connecting, if not nil,
// is an instance of this host whose claim the cache may not have yet. refused holds the
// taps that cannot be part of it, by Key, with the reasons.
func (n *Network) setNetwork(ctx context.Context, connecting *kubevirtv1.VirtualMachineInstance) (result netplug.Result, refused map[string]error, err error) {
	n.setting.Lock()
	defer n.setting.Unlock()
	b := n.buildWant(connecting)
	result, err = n.Plug.Set(ctx, b.want)
	if result.FilterLost && n.FilterLost != nil {
		n.FilterLost()
	}
	if err != nil {
		return result, b.refused, fmt.Errorf("set the host's network: %w", err)
	}
	return result, b.refused, nil
}

// Connect implements the executor's Network.
func (n *Network) Connect(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]domain.NIC, error) {
	networks := networksByName(vmi)
	for _, nic := range cardsOf(vmi) {
		if networks[nic.Name].Pod == nil {
			if err := n.storeAttachment(vmi, networks[nic.Name]); err != nil {
				return nil, fmt.Errorf("network %s: %w", nic.Name, err)
			}
			continue
		}
		if _, err := n.leases.Allocate(leaseKey(domain.Ref(vmi), nic.Name), macOf(vmi, nic)); err != nil {
			return nil, fmt.Errorf("address for interface %s: %w", nic.Name, err)
		}
	}
	// A Set that fails because of another instance does not matter to this one.
	result, refused, err := n.setNetwork(ctx, vmi)
	nics := map[string]domain.NIC{}
	for _, nic := range cardsOf(vmi) {
		tap := n.newTap(vmi, nic)
		if tapErr := cmp.Or(refused[tap.Key()], result.Tap(tap.Name)); tapErr != nil {
			return nil, fmt.Errorf("interface %s: %w", nic.Name, tapErr)
		}
		nics[nic.Name] = domain.NIC{TapDevice: tap.Name, MAC: tap.MAC.String()}
	}
	if err != nil && len(result.Failed) == 0 {
		return nil, err
	}
	return nics, nil
}

// Interfaces implements the executor's Network.
func (n *Network) Interfaces(vmi *kubevirtv1.VirtualMachineInstance) []kubevirtv1.VirtualMachineInstanceNetworkInterface {
	addresses := n.addresses()
	var list []kubevirtv1.VirtualMachineInstanceNetworkInterface
	for _, nic := range cardsOf(vmi) {
		status := kubevirtv1.VirtualMachineInstanceNetworkInterface{
			Name: nic.Name, MAC: macOf(vmi, nic).String(), InfoSource: "domain", QueueCount: 1, LinkState: linkState(nic),
			PodInterfaceName: n.newTap(vmi, nic).Name,
		}
		if address, ok := addresses[leaseKey(domain.Ref(vmi), nic.Name)]; ok {
			status.IP = address.String()
			status.IPs = []string{status.IP}
		}
		list = append(list, status)
	}
	return list
}

// Release implements the executor's Network. The taps are removed with the next change
// of the instances, which the end of this instance is. A file that cannot be written
// does not delay that end; it is written later.
func (n *Network) Release(ref hypervisor.Ref) error {
	prefix := leaseKey(ref, "")
	err := n.attached.removeAttachments(func(key string) bool { return strings.HasPrefix(key, prefix) })
	for _, lease := range n.leases.Leases() {
		if strings.HasPrefix(lease.Key, prefix) {
			err = errors.Join(err, n.leases.Release(lease.Key))
		}
	}
	if err != nil {
		n.Logger.Warn("the released addresses of an instance could not be saved yet", "instance", ref.Namespace+"/"+ref.Name, "err", err)
		n.wake()
	}
	return nil
}

func (n *Network) addresses() map[string]netip.Addr {
	addresses := map[string]netip.Addr{}
	for _, lease := range n.leases.Leases() {
		addresses[lease.Key] = lease.Address
	}
	return addresses
}

// storeAttachment reads the definition of a secondary network for a guest that
// starts, and stores the attachment.
func (n *Network) storeAttachment(vmi *kubevirtv1.VirtualMachineInstance, network kubevirtv1.Network) error {
	attachment, err := n.permittedAttachment(vmi, network)
	if err != nil {
		return err
	}
	return n.attached.putAttachment(leaseKey(domain.Ref(vmi), network.Name), attachment)
}

// cardsOf lists the network cards that the guest has. A card in the state "absent" was
// unplugged, and has neither a tap nor an address.
func cardsOf(vmi *kubevirtv1.VirtualMachineInstance) []kubevirtv1.Interface {
	return slices.DeleteFunc(slices.Clone(vmi.Spec.Domain.Devices.Interfaces), func(nic kubevirtv1.Interface) bool {
		return nic.State == kubevirtv1.InterfaceStateAbsent
	})
}

// linkState is the state of the card's link as status reports it: "up" or "down".
func linkState(nic kubevirtv1.Interface) string {
	return string(cmp.Or(nic.State, kubevirtv1.InterfaceStateLinkUp))
}

// leaseKey names a card of one instance by its UID: a new instance of the same name
// must not get the addresses of the old one.
func leaseKey(ref hypervisor.Ref, card string) string {
	return ref.Namespace + "/" + ref.Name + "/" + ref.UID + "/" + card
}

// macOf is the card's address: the one asked for, or the one that it started with, or one
// in the range for locally administered addresses that follows from the machine. So it
// survives restarts, and no reference to an owner that a user writes gives an instance
// the address of another.
func macOf(vmi *kubevirtv1.VirtualMachineInstance, nic kubevirtv1.Interface) net.HardwareAddr {
	if mac, err := net.ParseMAC(nic.MacAddress); err == nil {
		return mac
	}
	// An earlier version derived it in another way. A guest that runs keeps its card.
	for _, card := range vmi.Status.Interfaces {
		if mac, err := net.ParseMAC(card.MAC); err == nil && card.Name == nic.Name {
			return mac
		}
	}
	sum := sha256.Sum256([]byte(domain.Machine(vmi) + "/" + nic.Name))
	return append(net.HardwareAddr{0x02}, sum[:5]...)
}

func networksByName(vmi *kubevirtv1.VirtualMachineInstance) map[string]kubevirtv1.Network {
	networks := map[string]kubevirtv1.Network{}
	for _, network := range vmi.Spec.Networks {
		networks[network.Name] = network
	}
	return networks
}
