package network

import (
	"strings"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/netplug"
)

const lan = `{"type":"bridge","bridge":"br-lan","macspoofchk":true,"mtu":1400,"portIsolation":true}`

func TestSecondaryNetwork(t *testing.T) {
	w := newWorld(t)
	w.define("ns", "lan", lan)
	w.define("default", "tagged", `{"type":"bridge","bridge":"br-lan","vlan":42}`)
	w.define("ns", "made", `{"type":"bridge","bridge":"br-admin"}`)
	vmi := w.create(attach(attach(attach(instance("a"), "one", "lan"), "two", "default/tagged"), "three", "made"))
	nics, err := w.network.Connect(t.Context(), vmi)
	if err != nil || len(nics) != 4 {
		t.Fatalf("%v, %v", nics, err)
	}
	one, _ := w.tap(vmi, "one")
	if one.Bridge != "br-lan" || !one.MACSpoofCheck || one.IPSpoofCheck || one.MTU != 1400 || !one.Isolated || one.VLAN != 0 || one.Address.IsValid() {
		t.Errorf("%+v", one)
	}
	if two, _ := w.tap(vmi, "two"); two.Bridge != "br-lan" || two.VLAN != 42 || !two.PreserveDefaultVLAN || two.MACSpoofCheck || two.Isolated {
		t.Errorf("%+v", two)
	}
	bridges := map[string]netplug.Bridge{}
	for _, b := range w.want().Bridges {
		bridges[b.Name] = b
	}
	if b := bridges["br-lan"]; b.Uplink != "eth1" || !b.VLANFiltering || b.AllowExisting {
		t.Errorf("%+v", b)
	}
	if b := bridges["br-admin"]; !b.AllowExisting || b.Uplink != "" {
		t.Errorf("a bridge of the administrator: %+v", b)
	}
}

// A definition leads to the bridges that the host offers, and serves its namespace, or all if
// it is in namespace default.
func TestDefinitionsThatAreNotPermitted(t *testing.T) {
	w := newWorld(t)
	w.define("ns", "docker", `{"type":"bridge","bridge":"docker0"}`)
	w.define("ns", "unnamed", `{"type":"bridge"}`)
	w.define("other", "lan", lan)
	for network, want := range map[string]string{
		"docker":    "network second: NetworkAttachmentDefinition ns/docker: host host1 does not offer bridge docker0 to guests",
		"unnamed":   "does not offer bridge cni0",
		"other/lan": "NetworkAttachmentDefinition other/lan: only machines of its namespace may use it",
	} {
		vmi := w.create(attach(instance("a-"+strings.ReplaceAll(network, "/", "-")), "second", network))
		if _, err := w.network.Connect(t.Context(), vmi); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", network, err, want)
		}
		if tap, ok := w.tap(vmi, "second"); ok {
			t.Errorf("%s: there is a tap %+v", network, tap)
		}
	}
}

// A guest that an earlier version connected keeps its network, though it could not start
// with it any more.
func TestRunningGuestsKeepWhatIsNotOffered(t *testing.T) {
	w := newWorld(t)
	w.define("other", "lan", `{"type":"bridge","bridge":"docker0"}`)
	vmi := w.create(attach(instance("a"), "second", "other/lan"))
	w.update(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Status.Phase = kubevirtv1.Running })
	w.network.matchInstances()
	if tap, ok := w.tap(vmi, "second"); !ok || tap.Bridge != "docker0" {
		t.Errorf("a tap is %v: %+v", ok, tap)
	}
}

func TestFaultyDefinitionIsNamedAndHarmsNobodyElse(t *testing.T) {
	for name, test := range map[string]struct{ config, want string }{
		"missing":        {"", "NetworkAttachmentDefinition ns/net does not exist"},
		"no json":        {"{", "NetworkAttachmentDefinition ns/net"},
		"unsupported":    {`{"type":"macvlan"}`, "macvlan"},
		"the pod bridge": {`{"type":"bridge","bridge":"` + PodBridge + `"}`, PodBridge},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if test.config != "" {
				w.define("ns", "net", test.config)
			}
			bad := w.create(attach(instance("bad"), "second", "net"))
			_, err := w.network.Connect(t.Context(), bad)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "second") {
				t.Errorf("error %v, want %q of network second", err, test.want)
			}
			good := w.create(instance("good"))
			w.connect(good)
			if _, ok := w.tap(good, "default"); !ok {
				t.Error("the other instance has no tap")
			}
		})
	}
}

func TestUnsupportedNetworkIsRefused(t *testing.T) {
	w := newWorld(t)
	vmi := instance("a")
	vmi.Spec.Networks = nil
	w.create(vmi)
	if _, err := w.network.Connect(t.Context(), vmi); err == nil || !strings.Contains(err.Error(), "multus") {
		t.Errorf("error %v", err)
	}
}
