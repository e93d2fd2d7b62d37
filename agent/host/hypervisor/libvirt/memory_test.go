package libvirt

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/host/hypervisor"
)

// TestMemoryDeviceIsResized: a guest with a virtio-mem device can have more than it
// booted with, in the device's steps and up to its size.
func TestMemoryDeviceIsResized(t *testing.T) {
	d := startDaemon(t)
	driver := d.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	owner := hypervisor.Owner{Ref: hypervisor.Ref{Namespace: "memory", Name: "vm", UID: "0f7d8a1e-0000-4000-8000-0000000000e1"}, Host: "host1", Epoch: 1}
	xml := d.guestXML(t, owner)
	xml = strings.Replace(xml, "<memory unit='MiB'>32</memory>", "<maxMemory slots='4' unit='MiB'>1024</maxMemory><memory unit='MiB'>64</memory>", 1)
	xml = strings.Replace(xml, "<vcpu", "<cpu><numa><cell id='0' cpus='0-1' memory='64' unit='MiB'/></numa></cpu><vcpu", 1)
	xml = strings.Replace(xml, "</devices>", `<memory model='virtio-mem'><target><size unit='MiB'>128</size><node>0</node>
<block unit='MiB'>2</block><requested unit='MiB'>0</requested></target><alias name='ua-extra'/></memory></devices>`, 1)
	if _, err := driver.Start(ctx, xml, hypervisor.StartOptions{Paused: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.virsh(t, "destroy", owner.DomainName()); d.virsh(t, "undefine", owner.DomainName()) })
	const mib = 1 << 20
	for _, step := range []struct {
		bytes     int64
		requested string // of the device, in KiB
	}{
		{96 * mib, "32768"}, {96*mib + 1, "34816"}, {192 * mib, "131072"}, {192 * mib, "131072"}, {64 * mib, "0"}, {48 * mib, "0"},
	} {
		if err := driver.SetMemory(ctx, owner.Ref, step.bytes); err != nil {
			t.Fatalf("%d bytes: %v", step.bytes, err)
		}
		live, err := driver.LiveDefinition(ctx, owner.Ref)
		if err != nil || !strings.Contains(live, "<requested unit='KiB'>"+step.requested+"<") {
			t.Errorf("%d bytes: the device is not asked for %s KiB: %v", step.bytes, step.requested, err)
		}
	}
	if err := driver.SetMemory(ctx, owner.Ref, 192*mib+1); !errors.Is(err, hypervisor.ErrInvalid) {
		t.Errorf("more than the device has: %v", err)
	}
}
