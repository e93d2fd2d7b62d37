package netplug_test

import (
	"fmt"
	"net"
	"net/netip"

	"virtmesh/netplug"
)

// The plan for one guest on a bridge with NAT, on a host that has no network of netplug yet.
func ExamplePlanFor() {
	want := netplug.Want{
		Bridges: []netplug.Bridge{{
			Name: "vm-pod", Address: netip.MustParsePrefix("10.9.0.1/16"),
			NAT: true, DNS: true, DHCP: &netplug.DHCP{Domain: "vm.example"},
		}},
		Taps: []netplug.Tap{{
			Name:      netplug.TapName("default", "web", "net0"),
			Namespace: "default", VM: "web", Interface: "net0",
			Bridge: "vm-pod", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
			Address: netip.MustParseAddr("10.9.0.7"), Hostname: "web",
			IPSpoofCheck: true,
		}},
	}
	if err := want.Validate(); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(netplug.PlanFor(want, netplug.World{}))
	// Output:
	// ip link add vm-pod type bridge
	// ip link set vm-pod address 02:9f:13:e4:50:d1
	// sysctl -w net/ipv6/conf/vm-pod/disable_ipv6=1
	// sysctl -w net/ipv4/conf/vm-pod/rp_filter=1
	// sysctl -w net/ipv4/conf/vm-pod/arp_ignore=1
	// ip addr add 10.9.0.1/16 dev vm-pod
	// ip link set vm-pod up
	// nft -f 7541a89a30a318e8
	// tc filter replace dev vm-pod ingress bpf direct-action virtmesh
	// sysctl -w net/ipv4/ip_forward=1
	// ip tuntap add vm-p2bplg2ap4df mode tap vnet_hdr
	// ip link set vm-p2bplg2ap4df address fe:00:00:00:00:01
	// sysctl -w net/ipv6/conf/vm-p2bplg2ap4df/disable_ipv6=1
	// ip link set vm-p2bplg2ap4df master vm-pod
	// ip link set vm-p2bplg2ap4df up
}
