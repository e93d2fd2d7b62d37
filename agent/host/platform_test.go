package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/objects"
	"virtmesh/gossip"
)

var testSelf = Self{Name: "h1", Advertise: "192.0.2.1", Facts: gossip.Facts{Zone: "z", Version: "v1"}}

// hypervisorReady is the condition of the Node that a description is for.
func hypervisorReady(d publish.Description) corev1.NodeCondition {
	for _, c := range d.Conditions {
		if c.Type == objects.NodeHypervisorReady {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// What placement and users learn of the platform is what the hypervisor and the probe
// have found.
func TestAPlatformIsDescribedAsItWasFound(t *testing.T) {
	p, hv := testPlatform(t)
	hv.Machine().SetCapabilities(func(c *hypervisor.Capabilities) {
		c.CPUs, c.MemoryBytes, c.HostVendor, c.HostModel, c.CPUModels, c.HostFeatures = 4, 8<<30, "Intel", "Haswell", []string{"Penryn"}, []string{"avx"}
	})
	p.look(t.Context())
	d := p.describe(testSelf, "10.64.0.0/22")
	if d.Unknown || d.NotReady != "" || d.Capacity.CPUMilli != 4000 || d.Capacity.MemoryBytes != 8<<30 || d.Allocatable.MemoryBytes != 7<<30 {
		t.Errorf("unknown %v, %q, capacity %+v, allocatable %+v", d.Unknown, d.NotReady, d.Capacity, d.Allocatable)
	}
	want := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "h1"}}
	if !reflect.DeepEqual(d.Addresses, want) || d.PodCIDR != "10.64.0.0/22" || d.Zone != "z" {
		t.Errorf("described as %+v", d)
	}
	if !d.KVM || d.KVMReason == "" || d.CPUVendor != "Intel" || d.HostModel != "Haswell" || !slices.Equal(d.CPUModels, []string{"Penryn"}) || !slices.Equal(d.CPUFeatures, []string{"avx"}) {
		t.Errorf("processor of %+v", d)
	}
	if e := d.Emulator; !e.EFI || !e.SecureBoot || !e.TPM || !slices.Contains(e.MachineTypes, "q35") {
		t.Errorf("emulator %+v", e)
	}
	if info, err := p.Info(); err != nil || info.CanonicalMachine("q35") != "pc-q35-7.2" {
		t.Errorf("q35 is %s, %v", info.CanonicalMachine("q35"), err)
	}
}

// An agent that starts before its hypervisor is a part of the mesh, promises nothing, leaves
// what its Node says of the host, and has found the hypervisor as soon as it is there.
func TestTheHypervisorMayComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, hv := testPlatform(t)
		hv.Machine().SetAway(true)
		p.look(t.Context())
		d := p.describe(testSelf, "10.64.0.0/22")
		if c := hypervisorReady(d); !d.Unknown || !strings.Contains(d.NotReady, "libvirtd") || c.Status != corev1.ConditionFalse {
			t.Errorf("unknown %v, not ready %q, condition %+v", d.Unknown, d.NotReady, c)
		}
		if _, err := p.Ability(); !errors.Is(err, hypervisor.ErrUnavailable) {
			t.Errorf("the host offers something: %v", err)
		}
		if _, err := p.Info(); !errors.Is(err, hypervisor.ErrUnavailable) {
			t.Errorf("instances are converted for a host that nobody knows: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		hv.Machine().SetAway(false)
		synctest.Wait()
		if able, err := p.Ability(); err != nil || able.Allocatable.CPUMilli != 8000 {
			t.Errorf("the host offers %+v, %v", able, err)
		}
		if d := p.describe(testSelf, ""); d.Unknown || d.NotReady != "" || hypervisorReady(d).Status != corev1.ConditionTrue {
			t.Errorf("described as %+v", d)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The package of libvirt is upgraded: the daemon is away for a moment, of which the Node
// says nothing, and then the Node has the new versions. A daemon that stays away is said,
// and what was known of the host stays.
func TestAnUpgradeOfTheHypervisorIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, hv := testPlatform(t)
		p.look(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		hv.Machine().SetAway(true)
		time.Sleep(lookEvery + time.Second)
		if _, err := p.Ability(); err == nil {
			t.Error("a host whose hypervisor is away offers something")
		}
		if d := p.describe(testSelf, ""); d.NotReady != "" || hypervisorReady(d).Status != corev1.ConditionTrue {
			t.Errorf("a moment of absence is told the mesh: %+v", d)
		}
		time.Sleep(lookEvery + lossPatience)
		if d := p.describe(testSelf, ""); d.Unknown || d.NotReady == "" || d.Capacity.CPUMilli != 8000 || hypervisorReady(d).Status != corev1.ConditionFalse {
			t.Errorf("described as %+v", d)
		}
		hv.Machine().SetCapabilities(func(c *hypervisor.Capabilities) {
			c.LibraryVersion, c.HypervisorVersion, c.CPUModels = "10.0.0", "8.2.0", []string{"EPYC-v4"}
		})
		hv.Machine().SetAway(false)
		synctest.Wait()
		d := p.describe(testSelf, "")
		if c := hypervisorReady(d); d.NotReady != "" || c.Status != corev1.ConditionTrue || c.Message != "libvirt 10.0.0 and QEMU 8.2.0" {
			t.Errorf("not ready %q, condition %+v", d.NotReady, c)
		}
		if d.Info.ContainerRuntimeVersion != "libvirt://10.0.0" || !slices.Equal(d.CPUModels, []string{"EPYC-v4"}) {
			t.Errorf("described as %+v", d)
		}
		if able, err := p.Ability(); err != nil || !slices.Equal(able.CPUModels, []string{"EPYC-v4"}) {
			t.Errorf("the host offers %+v, %v", able, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// An administrator mends what keeps guests apart, and restarts libvirtd: the Node says so
// without a restart of the agent.
func TestConfinementFollowsTheHypervisor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, hv := testPlatform(t)
		with := func(model string) {
			hv.Machine().SetCapabilities(func(c *hypervisor.Capabilities) { c.SecurityModels = []string{"dac", model} })
		}
		confined := func() string {
			found, _, _ := p.last()
			return strings.Join(found.confined.Faults(), "; ")
		}
		conf := filepath.Join(p.confined.Root, "etc/libvirt/qemu.conf")
		if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(conf, []byte("seccomp_sandbox = 0\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		with("")
		p.look(t.Context())
		if got := confined(); !strings.Contains(got, "seccomp") || !strings.Contains(got, "AppArmor") {
			t.Errorf("it lacks %s", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		if err := os.Remove(conf); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery + time.Second)
		if got := confined(); !strings.Contains(got, "seccomp") {
			t.Errorf("what libvirtd has not read counts: it lacks %s", got)
		}
		hv.Machine().SetAway(true)
		with("apparmor")
		hv.Machine().SetAway(false)
		synctest.Wait()
		if got := confined(); strings.Contains(got, "seccomp") || strings.Contains(got, "AppArmor") {
			t.Errorf("it lacks %s", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
