package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/netplug"
)

func TestPodBridgeIsAlwaysWanted(t *testing.T) {
	w := newWorld(t)
	want := w.want()
	if len(want.Bridges) != 1 || len(want.Taps) != 0 {
		t.Fatalf("%+v", want)
	}
	b := want.Bridges[0]
	if b.Name != PodBridge || b.Address.String() != "10.64.3.1/24" || !b.NAT || !b.DNS || b.DHCP == nil {
		t.Errorf("%+v", b)
	}
	if want.DNS.Domain != "mesh.test" {
		t.Errorf("domain %q", want.DNS.Domain)
	}
}

// Guests are kept away from cloud metadata, from the hosts and from what the operator lists,
// but for the exceptions.
func TestGuestsAreKeptAway(t *testing.T) {
	w := newWorld(t)
	w.config.ProtectedNetworks = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	w.config.AllowedNetworks = []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}
	w.config.Router, w.config.ConnectionsPerGuest = true, 100
	w.restart()
	want := w.want()
	if !want.Router || want.MaxConnections != 100 {
		t.Error("the host is no router")
	}
	for _, addr := range []string{"169.254.169.254", "127.0.0.1", "192.0.2.1", "198.51.100.1"} {
		if !slices.ContainsFunc(want.Protected, func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr(addr)) }) {
			t.Errorf("%s is not protected: %v", addr, want.Protected)
		}
	}
	if !slices.Equal(want.Allowed, w.config.AllowedNetworks) {
		t.Errorf("allowed %v", want.Allowed)
	}
}

func TestHostAddresses(t *testing.T) {
	got, err := HostAddresses()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range got {
		if !addr.Is4() || addr.IsLoopback() || addr.IsLinkLocalUnicast() {
			t.Errorf("%s is listed", addr)
		}
	}
	// Who sends to another network has an address of an interface.
	conn, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		t.Skipf("this machine has no route: %v", err)
	}
	defer conn.Close()
	if own := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(); !slices.Contains(got, own) {
		t.Errorf("%s is missing from %v", own, got)
	}
}

func TestPodTap(t *testing.T) {
	w := newWorld(t)
	vmi := instance("web")
	vmi.Spec.Hostname = "www"
	w.create(vmi)
	nics, err := w.network.Connect(t.Context(), vmi)
	if err != nil {
		t.Fatal(err)
	}
	tap, ok := w.tap(vmi, "default")
	if !ok {
		t.Fatal("there is no tap")
	}
	if tap.Bridge != PodBridge || tap.Hostname != "www" || !tap.MACSpoofCheck || !tap.IPSpoofCheck {
		t.Errorf("%+v", tap)
	}
	if !subnet.Contains(tap.Address) || tap.Address == gateway(subnet) {
		t.Errorf("address %s", tap.Address)
	}
	if got := nics["default"]; got.TapDevice != tap.Name || got.MAC != tap.MAC.String() {
		t.Errorf("the domain gets %+v, the host has %s with %s", got, tap.Name, tap.MAC)
	}
	if got := w.plug.last.DNS.Records["web.ns"]; len(got) != 1 || got[0] != tap.Address {
		t.Errorf("name: %v", got)
	}
	status := w.network.Interfaces(vmi)
	if len(status) != 1 || status[0].IP != tap.Address.String() || status[0].MAC != tap.MAC.String() {
		t.Errorf("status: %+v", status)
	}
}

// The domain asks for one queue, also where the instance asks for more. A tap that
// is made otherwise cannot be opened by it.
func TestTapsHaveOneQueueLikeTheDomain(t *testing.T) {
	w := newWorld(t)
	vmi := instance("a")
	vmi.Spec.Domain.CPU = &kubevirtv1.CPU{Cores: 4}
	multiqueue := true
	vmi.Spec.Domain.Devices.NetworkInterfaceMultiQueue = &multiqueue
	w.connect(w.create(vmi))
	if tap, ok := w.tap(vmi, "default"); !ok || tap.Queues != 1 {
		t.Errorf("the tap has %d queues", tap.Queues)
	}
	if status := w.network.Interfaces(vmi); status[0].QueueCount != 1 {
		t.Errorf("status says %d queues", status[0].QueueCount)
	}
}

func TestOnlyThisHostsLivingInstancesAreWanted(t *testing.T) {
	w := newWorld(t)
	here, elsewhere := w.create(instance("here")), instance("elsewhere")
	elsewhere.Status.NodeName = "host2"
	w.create(elsewhere)
	unconnected := w.create(instance("unconnected"))
	w.connect(here)
	if _, err := w.network.leases.Allocate(leaseKey(refOf(elsewhere), "default"), macOf(elsewhere, kubevirtv1.Interface{Name: "default"})); err != nil {
		t.Fatal(err)
	}
	for vmi, wanted := range map[*kubevirtv1.VirtualMachineInstance]bool{here: true, elsewhere: false, unconnected: false} {
		if _, ok := w.tap(vmi, "default"); ok != wanted {
			t.Errorf("%s: tap %v, want %v", vmi.Name, ok, wanted)
		}
	}
	here = w.update(here, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Status.Phase = kubevirtv1.Succeeded })
	if want := w.want(); len(want.Taps) != 0 || len(want.DNS.Records) != 0 {
		t.Errorf("%s has ended, and wanted is %+v, %v", here.Name, want.Taps, want.DNS.Records)
	}
}

// Whoever asks for a running guest's MAC address gets no network, and takes
// none from anybody.
func TestMACAddressOfAnotherGuestIsRefused(t *testing.T) {
	w := newWorld(t)
	const mac = "02:aa:bb:cc:dd:ee"
	first := instance("second-by-name")
	first.Spec.Domain.Devices.Interfaces[0].MacAddress = mac
	w.create(first)
	w.connect(first)
	first = w.update(first, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Status.Phase = kubevirtv1.Running })
	thief := instance("a-thief")
	thief.Spec.Domain.Devices.Interfaces[0].MacAddress = mac
	w.create(thief)
	if _, err := w.network.Connect(t.Context(), thief); err == nil || !strings.Contains(err.Error(), mac) {
		t.Errorf("error %v, want one that names the address", err)
	}
	if _, ok := w.tap(first, "default"); !ok {
		t.Error("the guest that runs lost its tap")
	}
	if _, ok := w.tap(thief, "default"); ok {
		t.Error("the thief has a tap")
	}
	w.connect(w.create(instance("third")))
}

// Two machines whose taps would have one name: the later one gets no network and an
// error that says why, and all others keep theirs.
func TestTapsOfOneNameRefuseTheLaterMachine(t *testing.T) {
	w := newWorld(t)
	w.network.tapName = func(namespace, vm, card string) string {
		if strings.HasPrefix(vm, "twin") {
			vm = "twin"
		}
		return netplug.TapName(namespace, vm, card)
	}
	other, first := w.create(instance("other")), w.create(instance("twin-of-a"))
	w.connect(other)
	w.connect(first)
	first = w.update(first, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Status.Phase = kubevirtv1.Running })
	later := w.create(instance("twin"))
	_, err := w.network.Connect(t.Context(), later)
	if err == nil || !strings.Contains(err.Error(), "ns/twin-of-a/default") || !strings.Contains(err.Error(), "another name") {
		t.Errorf("error %v, want one that names the other machine and the remedy", err)
	}
	if tap, ok := w.tap(first, "default"); !ok || tap.VM != first.Name {
		t.Errorf("the tap is now of %+v", tap)
	}
	w.connect(first)
	w.connect(other)
	w.connect(w.create(instance("third")))
}

// The claim alone says whose network this host serves. A status that names the host
// gives no tap, no name and no address, and one that names another host takes none.
func TestTheClaimDecidesNotTheStatus(t *testing.T) {
	w := newWorld(t)
	liar, honest := instance("liar"), instance("honest")
	w.createOn(liar, "host2")
	honest.Status.NodeName = "host2"
	w.createOn(honest, thisHost)
	for _, vmi := range []*kubevirtv1.VirtualMachineInstance{liar, honest} {
		if _, err := w.network.leases.Allocate(leaseKey(refOf(vmi), "default"), macOf(vmi, vmi.Spec.Domain.Devices.Interfaces[0])); err != nil {
			t.Fatal(err)
		}
	}
	if want := w.want(); len(want.Taps) != 1 || want.Taps[0].VM != "honest" || len(want.DNS.Records) != 1 {
		t.Errorf("wanted is %+v, %v", want.Taps, want.DNS.Records)
	}
	w.network.matchInstances()
	if leases := w.network.leases.Leases(); len(leases) != 1 || !strings.Contains(leases[0].Key, "honest") {
		t.Errorf("addresses are kept for %+v", leases)
	}
	w.release(honest)
	if want := w.want(); len(want.Taps) != 0 {
		t.Errorf("without a claim wanted is %+v", want.Taps)
	}
}

func TestMACFollowsTheVirtualMachine(t *testing.T) {
	nic := kubevirtv1.Interface{Name: "default"}
	owned := func(vmi *kubevirtv1.VirtualMachineInstance, kind, name string, uid types.UID) string {
		controller := true
		vmi.OwnerReferences = []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: kind, Name: name, UID: uid, Controller: &controller}}
		return macOf(vmi, nic).String()
	}
	named := func(name string, uid types.UID) *kubevirtv1.VirtualMachineInstance {
		vmi := instance(name)
		vmi.UID = uid
		return vmi
	}
	if owned(named("a", "1"), "VirtualMachine", "a", "vm") != owned(named("a", "2"), "VirtualMachine", "a", "vm") {
		t.Error("a restart of the virtual machine changes its card")
	}
	if owned(named("a", "1"), "VirtualMachine", "a", "vm") == owned(named("a", "1"), "VirtualMachine", "a", "other") ||
		macOf(named("a", "1"), nic).String() == macOf(named("a", "2"), nic).String() {
		t.Error("two machines have one address")
	}
	// A user may write any owner into an instance, and one set owns many instances.
	for _, kind := range []string{"VirtualMachine", "VirtualMachineInstanceReplicaSet"} {
		if first, second := owned(named("a", "1"), kind, "a", "one"), owned(named("b", "2"), kind, "a", "one"); first == second {
			t.Errorf("two instances that name one %s have one address", kind)
		}
	}
	if vmi := instance("a"); macOf(vmi, kubevirtv1.Interface{Name: "default"}).String() == macOf(vmi, kubevirtv1.Interface{Name: "other"}).String() {
		t.Error("two cards have one address")
	}
	running := instance("a")
	running.Status.Interfaces = []kubevirtv1.VirtualMachineInstanceNetworkInterface{{MAC: "02:00:00:00:00:07"}, {Name: "default", MAC: "02:00:00:00:00:08"}}
	if got := macOf(running, nic).String(); got != "02:00:00:00:00:08" {
		t.Errorf("the card of a guest that runs became %s", got)
	}
	nic.MacAddress = "02-00-00-00-00-09"
	if got := owned(running, "VirtualMachine", "a", "vm"); got != "02:00:00:00:00:09" {
		t.Errorf("the address asked for became %s", got)
	}
}

func TestReleaseGivesTheAddressBack(t *testing.T) {
	w := newWorld(t)
	vmi, other := w.create(instance("a")), w.create(instance("b"))
	w.connect(vmi)
	w.connect(other)
	for range 2 {
		if err := w.network.Release(refOf(vmi)); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := w.tap(vmi, "default"); ok {
		t.Error("the tap is still wanted")
	}
	if _, ok := w.tap(other, "default"); !ok || len(w.network.addresses()) != 1 {
		t.Errorf("the other one: %v", w.network.addresses())
	}
}

func TestAddressesSurviveARestart(t *testing.T) {
	w := newWorld(t)
	vmi := w.create(instance("a"))
	w.connect(vmi)
	before, _ := w.tap(vmi, "default")
	w.restart()
	if after, ok := w.tap(vmi, "default"); !ok || after.Address != before.Address || after.MAC.String() != before.MAC.String() {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func TestFailureOfAnotherTapDoesNotConcernTheInstance(t *testing.T) {
	w := newWorld(t)
	a, b := w.create(instance("a")), w.create(instance("b"))
	broken := errors.New("no such device")
	w.plug.failed = map[string]error{"tap " + netplug.TapName("ns", "b", "default"): broken}
	w.connect(a)
	if _, err := w.network.Connect(t.Context(), b); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestRunFollowsTheInstancesAndDropsOldLeases(t *testing.T) {
	w := newWorld(t)
	gone := instance("gone")
	gone.UID = "gone"
	if _, err := w.network.leases.Allocate(leaseKey(refOf(gone), "default"), macOf(gone, kubevirtv1.Interface{Name: "default"})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.network.Run(ctx) }()
	<-w.plug.set
	if left := w.network.addresses(); len(left) != 0 {
		t.Errorf("leases of the past: %v", left)
	}
	vmi := w.create(instance("a"))
	w.connect(vmi)
	w.update(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Status.Phase = kubevirtv1.Failed })
	w.AwaitShown(func() bool {
		w.plug.mu.Lock()
		defer w.plug.mu.Unlock()
		return len(w.plug.last.Taps) == 0
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
