//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"
)

const attachment = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: lan, namespace: %s}
spec:
  config: '{"cniVersion": "0.3.1", "name": "lan", "type": "bridge", "bridge": "br1"}'
`

// Two guests on different hosts meet on a second network, and each has an
// address of its host's default network.
func TestSecondNetworkSpansHosts(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "host1")
	a := connect(t, "host1")
	apply(t, "host1", fmt.Sprintf(attachment, ns))
	for i, host := range []string{"host1", "host2"} {
		apply(t, "host1", machine(ns, fmt.Sprintf("net-%d", i+1), func(vm *kubevirtv1.VirtualMachine) {
			spec := &vm.Spec.Template.Spec
			spec.NodeSelector = map[string]string{"kubernetes.io/hostname": host}
			spec.Networks = append(spec.Networks, kubevirtv1.Network{Name: "lan",
				NetworkSource: kubevirtv1.NetworkSource{Multus: &kubevirtv1.MultusNetwork{NetworkName: "lan"}}})
			spec.Domain.Devices.Interfaces = append(spec.Domain.Devices.Interfaces, kubevirtv1.Interface{Name: "lan",
				InterfaceBindingMethod: kubevirtv1.InterfaceBindingMethod{Bridge: &kubevirtv1.InterfaceBridge{}}})
		}))
	}
	for i, host := range []string{"host1", "host2"} {
		vmi := waitRunning(t, a, ns, fmt.Sprintf("net-%d", i+1), 2*time.Minute)
		if vmi.Status.NodeName != host {
			t.Errorf("%s runs on %s, its node selector says %s", vmi.Name, vmi.Status.NodeName, host)
		}
		if len(vmi.Status.Interfaces) != 2 || vmi.Status.Interfaces[0].IP == "" {
			t.Errorf("%s reports the interfaces %+v", vmi.Name, vmi.Status.Interfaces)
		}
	}
	one, two := openConsole(t, "host3", ns, "net-1"), openConsole(t, "host3", ns, "net-2")
	one.run(t, "ifconfig eth1 192.168.77.1 netmask 255.255.255.0 up", 2*time.Minute)
	two.run(t, "ifconfig eth1 192.168.77.2 netmask 255.255.255.0 up", 2*time.Minute)
	if answer := one.run(t, "ping -c 3 -W 5 192.168.77.2 | grep -c 'bytes from'", time.Minute); !strings.HasPrefix(answer, "3") {
		t.Errorf("host1's guest pinged host2's over the second network: %q of 3 answers", answer)
	}
	vmi, err := a.instance(t.Context(), ns, "net-1")
	if err != nil {
		t.Fatal(err)
	}
	if answer := one.run(t, "ip -4 addr show dev eth0", time.Minute); !strings.Contains(answer, vmi.Status.Interfaces[0].IP) {
		t.Errorf("the guest has %q, its status says %s", answer, vmi.Status.Interfaces[0].IP)
	}
}
