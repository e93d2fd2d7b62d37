//go:build metal

package metal

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
)

// Emulated on an emulated host, a guest takes seconds to start and a minute or two to
// boot when nothing else runs on this machine.
const (
	startTimeout = 8 * time.Minute
	guestTimeout = 10 * time.Minute
)

// startGuest starts a small guest on a host, asking that host, and waits until it is
// Running. It ends with the test.
func startGuest(t *testing.T, host, name string, change ...func(*kubevirtv1.VirtualMachineInstanceSpec)) {
	t.Helper()
	manifest, err := virtmesh(t.Context(), host, "", "vm", "create", name, "--image", tiny, "--memory", "96Mi", "--dry-run", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	vm := &kubevirtv1.VirtualMachine{}
	if err := json.Unmarshal([]byte(manifest), vm); err != nil {
		t.Fatal(err)
	}
	vm.Spec.Template.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": host}
	for _, f := range change {
		f(&vm.Spec.Template.Spec)
	}
	data, err := json.Marshal(vm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := virtmesh(t.Context(), host, string(data), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		defer cancel()
		if _, err := virtmesh(ctx, host, "", "vm", "delete", name); err != nil {
			t.Errorf("delete the guest: %v", err)
		}
	})
	eventually(t, startTimeout, name+" is Running", func(ctx context.Context) error {
		vmi, err := instance(ctx, host, name)
		if err == nil && vmi.Status.Phase != kubevirtv1.Running {
			err = fmt.Errorf("it is %s: %+v", vmi.Status.Phase, vmi.Status.Conditions)
		}
		return err
	})
}

// onNetwork gives a guest a second card on a network.
func onNetwork(name string) func(*kubevirtv1.VirtualMachineInstanceSpec) {
	return func(spec *kubevirtv1.VirtualMachineInstanceSpec) {
		spec.Networks = append(spec.Networks, kubevirtv1.Network{Name: name,
			NetworkSource: kubevirtv1.NetworkSource{Multus: &kubevirtv1.MultusNetwork{NetworkName: name}}})
		spec.Domain.Devices.Interfaces = append(spec.Domain.Devices.Interfaces, kubevirtv1.Interface{Name: name,
			InterfaceBindingMethod: kubevirtv1.InterfaceBindingMethod{Bridge: &kubevirtv1.InterfaceBridge{}}})
	}
}

// instance is what a host says of a guest.
func instance(ctx context.Context, host, name string) (*kubevirtv1.VirtualMachineInstance, error) {
	out, err := virtmesh(ctx, host, "", "get", "vmi", name, "-o", "json")
	if err != nil {
		return nil, err
	}
	vmi := &kubevirtv1.VirtualMachineInstance{}
	return vmi, json.Unmarshal([]byte(out), vmi)
}

// guestsConfined is what a host's Node says of what keeps its guests apart.
func guestsConfined(t *testing.T, host string) corev1.NodeCondition {
	t.Helper()
	out, err := virtmesh(t.Context(), host, "", "get", "node", host, "-o", "json")
	node := &corev1.Node{}
	if err == nil {
		err = json.Unmarshal([]byte(out), node)
	}
	if err != nil {
		t.Fatal(err)
	}
	return objects.NodeCondition(node, objects.NodeGuestsConfined)
}

// answers pings a guest from the host that runs it. A guest that has booted answers.
func answers(ctx context.Context, host, name string) error {
	vmi, err := instance(ctx, host, name)
	if err != nil {
		return err
	}
	if len(vmi.Status.Interfaces) == 0 {
		return fmt.Errorf("the guest is %s and has no address", vmi.Status.Phase)
	}
	_, err = try(ctx, vmi.Status.NodeName, "ping -c 1 -W 5 "+vmi.Status.Interfaces[0].IP)
	return err
}

// cpuTime is the processor time in nanoseconds that a guest has used on a host.
func cpuTime(t *testing.T, host, name string) int64 {
	t.Helper()
	text := inside(t, host, "virsh domstats --cpu-total default_"+name+" | sed -n 's/.*cpu.time=//p'")
	used, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// qemuOf is the process that a guest runs in on a host.
func qemuOf(t *testing.T, host, name string) string {
	t.Helper()
	pid := inside(t, host, "pgrep -f 'qemu-system-x86_64.*guest=[a-z]*_"+name+"'")
	if !regexp.MustCompile(`^\d+$`).MatchString(pid) {
		t.Fatalf("the guest's processes are %q", pid)
	}
	return pid
}

// guestServices is the process that answers guests on a host: its ID, its user and what it
// may do.
func guestServices(t *testing.T, host string) string {
	t.Helper()
	process := inside(t, host, "systemctl show -P MainPID virtmesh-guest-services")
	state := inside(t, host, `systemctl show -P ActiveState virtmesh-guest-services; systemctl show -P NRestarts virtmesh-guest-services; stat -c %U /proc/`+process+`; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/`+process+`/status`)
	if want := "active\n0\nvirtmesh-guests\nCapEff:\t0000000000000400\nCapBnd:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2"; state != want {
		t.Errorf("guest services are\n%s\nand not\n%s", state, want)
	}
	return process
}

// A host that was installed by the book has nothing that doctor finds fault with and no
// service that failed.
func TestHostIsInOrder(t *testing.T) {
	if out, err := try(t.Context(), "host1", "virtmesh doctor"); err != nil {
		t.Errorf("doctor: %v\n%s", err, out)
	}
	if failed := inside(t, "host1", "systemctl --failed --plain --no-legend"); failed != "" {
		t.Errorf("failed units:\n%s", failed)
	}
	if debian != "" {
		// dpkg says what differs, and succeeds all the same. The image has no documentation.
		if changed := inside(t, "host1", `dpkg --verify virtmesh | sed -E '\#^missing +/usr/share/(doc|man)#d'; systemctl --quiet is-enabled virtmesh`); changed != "" {
			t.Errorf("files that are not as in the package:\n%s", changed)
		}
	}
}

// On a stock host a guest is confined: by AppArmor with a profile of its own, by seccomp,
// and by a user of its own without capabilities. And it does not notice what happens to the agent.
func TestGuestIsConfinedAndOutlivesTheAgent(t *testing.T) {
	startGuest(t, "host1", "confined")
	pid := qemuOf(t, "host1", "confined")
	uuid := inside(t, "host1", "virsh domuuid default_confined")
	if label, want := inside(t, "host1", "cat /proc/"+pid+"/attr/current"), "libvirt-"+uuid+" (enforce)"; label != want {
		t.Errorf("the guest's AppArmor label is %q, want %q", label, want)
	}
	confined, err := instance(t.Context(), "host1", "confined")
	if err != nil || confined.Status.RuntimeUser < 1_900_000_000 {
		t.Errorf("the guest's user is %d, which other guests may have too; %v", confined.Status.RuntimeUser, err)
	}
	status := inside(t, "host1", "cat /proc/"+pid+"/status")
	for field, want := range map[string]string{"CapEff": "0000000000000000", "Seccomp": "2", "Uid": fmt.Sprint(confined.Status.RuntimeUser)} {
		if got := regexp.MustCompile(`(?m)^` + field + `:\s+(\S+)`).FindStringSubmatch(status); got == nil || got[1] != want {
			t.Errorf("%s of the guest's process is %v, want %s", field, got, want)
		}
	}
	if told := guestsConfined(t, "host1"); told.Status != corev1.ConditionTrue {
		t.Errorf("the Node says of the confinement of guests: %+v", told)
	}
	services := guestServices(t, "host1")
	for _, how := range []string{"systemctl restart virtmesh", "systemctl kill --signal KILL --kill-whom main virtmesh"} {
		before := inside(t, "host1", "systemctl show -P MainPID virtmesh")
		inside(t, "host1", how)
		eventually(t, 8*time.Minute, "another agent after "+how, func(ctx context.Context) error {
			now, err := try(ctx, "host1", "systemctl show -P MainPID virtmesh && virtmesh status >/dev/null")
			if err == nil && now == before {
				err = fmt.Errorf("process %s still", now)
			}
			return err
		})
		if now := qemuOf(t, "host1", "confined"); now != pid {
			t.Errorf("after %s the guest's process is %s, it was %s", how, now, pid)
		}
		if now := guestServices(t, "host1"); now != services {
			t.Errorf("after %s guest services are %q, and were %q", how, now, services)
		}
		used := cpuTime(t, "host1", "confined")
		eventually(t, time.Minute, "the guest goes on", func(context.Context) error {
			if now := cpuTime(t, "host1", "confined"); now <= used {
				return fmt.Errorf("it has used %d ns of processor time, as before", now)
			}
			return nil
		})
	}
	// The guest's profile was loaded since the host started, or nothing is known of AppArmor.
	loaded := false
	for line := range strings.Lines(inside(t, "host1", `journalctl -b -q -k -o cat --grep 'apparmor="'`)) {
		loaded = loaded || strings.Contains(line, `apparmor="STATUS"`) && strings.Contains(line, "libvirt-"+uuid)
		if strings.Contains(line, `apparmor="DENIED"`) && !strings.Contains(line, `"swtpm"`) {
			t.Errorf("AppArmor denied: %s", line)
		}
	}
	if !loaded {
		t.Error("the journal does not have that the guest's profile was loaded")
	}
}

// The lab's registry takes images from anyone who reaches it, so on the lab's network only
// hosts do, and not a neighbour of this machine that knows the way.
func TestRegistryIsForHostsOnly(t *testing.T) {
	_, port, found := strings.Cut(strings.TrimSuffix(tiny, "/tiny:latest"), ":")
	if !found {
		t.Fatalf("the reference %q has no port", tiny)
	}
	gateway := inside(t, "host1", "ip -4 route show default | cut -d ' ' -f 3")
	open, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(gateway, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	_, other, _ := net.SplitHostPort(open.Addr().String())
	connect := func(port string) string {
		return "timeout 5 bash -c 'exec 3<>/dev/tcp/" + gateway + "/" + port + "'"
	}
	inside(t, "host1", connect(port))

	const neighbour = "vm-metal-test"
	shell := func(script string) error {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", script, err, out)
		}
		return nil
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", neighbour).Run() }) // it may not be there
	if err := shell(`set -e
		ip netns add ` + neighbour + `
		ip link add vmmetaltest type veth peer name eth0 netns ` + neighbour + `
		ip address add 198.51.100.1/24 dev vmmetaltest
		ip link set vmmetaltest up
		ip -n ` + neighbour + ` address add 198.51.100.2/24 dev eth0
		ip -n ` + neighbour + ` link set eth0 up
		ip -n ` + neighbour + ` route add ` + gateway + ` via 198.51.100.1`); err != nil {
		t.Fatal(err)
	}
	if err := shell("ip netns exec " + neighbour + " " + connect(other)); err != nil {
		t.Fatalf("the neighbour reaches nothing at all: %v", err)
	}
	if shell("ip netns exec "+neighbour+" "+connect(port)) == nil {
		t.Errorf("a neighbour of this machine reaches the registry at %s:%s", gateway, port)
	}
}
