package nad

import (
	"errors"
	"net"
	"strings"
	"testing"

	"virtmesh/netplug"
)

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		config string
		want   Network
	}{
		"as KubeVirt's guide": {
			`{"cniVersion":"0.3.1","name":"br1-net","type":"cnv-bridge","bridge":"br1","macspoofchk":true,"vlan":100,"preserveDefaultVlan":false}`,
			Network{Name: "br1-net", Bridge: "br1", VLAN: 100, MACSpoofCheck: true},
		},
		"plugin of CNI, default bridge": {
			`{"cniVersion":"1.0.0","type":"bridge","mtu":9000,"ipam":{},"portIsolation":true,"unknown":[1]}`,
			Network{Bridge: "cni0", MTU: 9000, Isolated: true},
		},
		"list, as for network boot": {
			`{"cniVersion":"0.3.1","name":"pxe","plugins":[{"type":"cnv-bridge","bridge":"br1","vlan":1},{"type":"cnv-tuning"}]}`,
			Network{Name: "pxe", Bridge: "br1", VLAN: 1, PreserveDefaultVLAN: true},
		},
		"guards": {
			`{"type":"bridge","bridge":"br1","raGuard":true,"dhcpGuard":true,"maxMACs":3}`,
			Network{Bridge: "br1", RAGuard: true, DHCPGuard: true, MaxMACs: 3},
		},
		"VLANs of the guest's own": {`{"type":"bridge","bridge":"br1","guestVLANs":true}`, Network{Bridge: "br1", GuestVLANs: true}},
		"VLAN 0 is none": {
			`{"type":"bridge","bridge":"br1","vlan":0,"preserveDefaultVlan":true}`,
			Network{Bridge: "br1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(tc.config)
			if err != nil || got != tc.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tc.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for config, want := range map[string]string{
		``:                                 "config: is empty",
		`{`:                                "config: unexpected end of JSON",
		`[]`:                               "config: json: cannot unmarshal array",
		`{"type":"bridge","vlan":"100"}`:   "vlan: is a string, want int",
		`{"bridge":"br1"}`:                 "type: is missing",
		`{"type":"bridge","vlan":4095}`:    "vlan: 4095 is not between 0 and 4094",
		`{"type":"bridge","vlan":-1}`:      "vlan: -1 is not",
		`{"type":"bridge","mtu":20}`:       "mtu: 20 is not",
		`{"type":"bridge","bridge":"a b"}`: `bridge: "a b" cannot name a bridge`,
		`{"type":"bridge","bridge":"toolongforabridge"}`:       "bridge: ",
		`{"type":"bridge","bridge":"vm-pod"}`:                  `bridge: "vm-pod": names that begin`,
		`{"type":"bridge","ipam":{"type":"dhcp"}}`:             "ipam: is not supported",
		`{"type":"bridge","isGateway":true}`:                   "isGateway: is not supported",
		`{"type":"bridge","vlanTrunk":[{"id":1}]}`:             "vlanTrunk: is not supported",
		`{"type":"bridge","maxMACs":-1}`:                       "maxMACs: -1 is not between",
		`{"type":"bridge","maxMACs":5000}`:                     "maxMACs: 5000 is not between",
		`{"type":"bridge","guestVLANs":true,"vlan":7}`:         "guestVLANs: cannot be combined with vlan",
		`{"type":"bridge","guestVLANs":true,"dhcpGuard":true}`: "guestVLANs: cannot be combined with raGuard or dhcpGuard",
		`{"plugins":[]}`: "plugins: is empty",
		`{"type":"bridge","plugins":[{"type":"bridge"}]}`:                     "type: cannot be combined with plugins",
		`{"plugins":[{"plugins":[{"type":"bridge"}]}]}`:                       "plugins[0].type: is missing",
		`{"plugins":[{"type":"bridge","vlan":9999}]}`:                         "plugins[0].vlan: 9999",
		`{"type":"bridge","bridge":"` + strings.Repeat("a", maxConfig) + `"}`: "config: is longer",
	} {
		_, err := Parse(config)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: error is %v, want %q", config, err, want)
		}
		if errors.Is(err, ErrUnsupportedType) {
			t.Errorf("%.80s: the type is not at fault: %v", config, err)
		}
	}
	for _, config := range []string{
		`{"type":"macvlan","master":"eth1"}`,
		`{"type":"ovn-k8s-cni-overlay","topology":"layer2"}`,
		`{"plugins":[{"type":"sriov"}]}`,
		`{"plugins":[{"type":"bridge"},{"type":"firewall"}]}`,
	} {
		if _, err := Parse(config); !errors.Is(err, ErrUnsupportedType) {
			t.Errorf("%s: error is %v", config, err)
		}
	}
}

// TestAttach builds a valid Want from two networks on one bridge.
func TestAttach(t *testing.T) {
	plain := Network{Bridge: "br1", MTU: 1400, Isolated: true}
	tagged := Network{Bridge: "br1", VLAN: 7, PreserveDefaultVLAN: true, MACSpoofCheck: true}
	tap := func(name string, n byte) netplug.Tap {
		return netplug.Tap{Name: name, Namespace: "ns", VM: "vm", Interface: name, MAC: net.HardwareAddr{2, 0, 0, 0, 0, n}}
	}
	w := netplug.Want{
		Bridges: []netplug.Bridge{{Name: "br1", VLANFiltering: true}},
		Taps:    []netplug.Tap{plain.Attach(tap("vm-a", 1)), tagged.Attach(tap("vm-b", 2))},
	}
	if err := w.Validate(); err != nil {
		t.Fatal(err)
	}
	if a, b := w.Taps[0], w.Taps[1]; a.MaxMACs != defaultMACs || a.TaggedFrames || b.TaggedFrames {
		t.Errorf("the taps are %+v and %+v", a, b)
	}
	plan := netplug.PlanFor(w, netplug.World{}).String()
	for _, want := range []string{
		"ip link add br1 type bridge vlan_filtering 1\n",
		"ip link set vm-a mtu 1400\n", "bridge link set dev vm-a isolated on\n",
		"bridge vlan add dev vm-b vid 7 pvid untagged\n", "bridge vlan add dev vm-b vid 1 untagged\n",
	} {
		if !strings.Contains(plan, want) {
			t.Errorf("plan lacks %q:\n%s", want, plan)
		}
	}
}

// FuzzParse checks that every accepted configuration gives a valid Want.
func FuzzParse(f *testing.F) {
	f.Add(`{"cniVersion":"0.3.1","name":"n","type":"bridge","bridge":"br1","vlan":100,"macspoofchk":true,"mtu":1500,"ipam":{}}`)
	f.Add(`{"name":"pxe","plugins":[{"type":"cnv-bridge","bridge":"br1","vlan":1},{"type":"tuning"}]}`)
	f.Fuzz(func(t *testing.T, config string) {
		n, err := Parse(config)
		if err != nil {
			return
		}
		w := netplug.Want{
			Bridges: []netplug.Bridge{{Name: n.Bridge, VLANFiltering: n.VLAN != 0}},
			Taps:    []netplug.Tap{n.Attach(netplug.Tap{Name: "vm-a", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}})},
		}
		if err := w.Validate(); err != nil {
			t.Fatalf("%s\nis accepted, but makes no valid network: %v", config, err)
		}
	})
}
