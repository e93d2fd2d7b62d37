package domain

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	v1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// deviceCase is a change of the typical machine, and the host it is made for. What it
// changes of the definition is in testdata/devices.golden under its name.
type deviceCase struct {
	name string
	// spec is merged into spec.domain.
	spec string
	// change does what spec cannot.
	change func(*Input)
	tcg    bool
	// newer says that libvirt 9.0 does not know all of it, and passes over the rest.
	newer bool
}

// deviceCases are grouped by the file that they test.
func deviceCases() []deviceCase {
	return slices.Concat(machineCases(), cpuAndMemoryCases(), networkCases(), peripheralCases())
}

func machineCases() []deviceCase {
	return []deviceCase{
		{name: "clock utc", spec: `{clock: {utc: {}}}`},
		{name: "clock offset", spec: `{clock: {utc: {offsetSeconds: -7200}}}`},
		{name: "clock time zone", spec: `{clock: {timezone: Europe/Berlin}}`},
		{name: "clock timers", spec: `{clock: {utc: {}, timer: {rtc: {tickPolicy: catchup, track: guest}, pit: {tickPolicy: delay}, hpet: {present: false}, kvm: {}, hyperv: {}}}}`},
		{name: "clock timers emulated", tcg: true, spec: `{clock: {utc: {}, timer: {rtc: {}, kvm: {}, hyperv: {}}}}`},
		{name: "features none", spec: `{features: {acpi: {enabled: false}}}`},
		{name: "features apic", spec: `{features: {apic: {endOfInterrupt: true}, smm: {}, kvm: {hidden: true}, pvspinlock: {enabled: false}}}`},
		{name: "features hyperv passthrough", spec: `{features: {hypervPassthrough: {enabled: true}}}`},
		{name: "features hyperv", newer: true, spec: `{features: {hyperv: {spinlocks: {}, vendorid: {vendorid: KVMKVM}, synictimer: {direct: {enabled: false}}, tlbflush: {direct: {}, extended: {}}, ipi: {}, reset: {}}}}`},
		{name: "features emulated", tcg: true, spec: `{features: {kvm: {}, hyperv: {relaxed: {}}}}`},
		{name: "firmware bios serial", spec: `{firmware: {bootloader: {bios: {useSerial: true}}}}`},
		{name: "firmware efi", spec: `{firmware: {bootloader: {efi: {secureBoot: false}}}}`},
		{name: "firmware efi secure", spec: `{firmware: {bootloader: {efi: {}}}}`},
		{name: "firmware serial", spec: `{firmware: {serial: S1}, chassis: {manufacturer: ACME, version: "2", serial: C1, asset: A1, sku: K1}}`},
		{name: "starts paused", change: func(in *Input) { in.VMI.Spec.StartStrategy = ptr(v1.StartStrategyPaused) }},
		{name: "reboot policy", spec: `{rebootPolicy: Terminate}`},
		{name: "machine canonical", change: func(in *Input) { in.Machine.Canonical = map[string]string{"q35": "pc-q35-7.2"} }},
		{name: "machine pc", spec: `{machine: {type: pc}}`},
	}
}

func cpuAndMemoryCases() []deviceCase {
	return []deviceCase{
		{name: "cpu passthrough", spec: `{cpu: {model: host-passthrough}}`},
		{name: "cpu named", spec: `{cpu: {model: Skylake-Client, features: [{name: aes}, {name: hle, policy: disable}]}}`},
		{name: "cpu named with mpx", spec: `{cpu: {model: Skylake-Client, features: [{name: mpx, policy: optional}]}}`},
		{name: "cpu emulated", tcg: true, spec: `{cpu: {model: Skylake-Client, features: [{name: aes}, {name: hle, policy: disable}]}}`},
		{name: "cpu room", spec: `{cpu: {sockets: 2, maxSockets: 8}}`},
		{name: "cpu request", change: func(in *Input) { in.CPUMilli = 4000 }},
		{name: "cpu limit", spec: `{resources: {limits: {cpu: 750m}}}`},
		{name: "memory room", spec: `{memory: {guest: 1Gi, maxGuest: 4Gi}}`},
		{name: "memory and cpu room", spec: `{memory: {guest: 1Gi, maxGuest: 4Gi}, cpu: {sockets: 1, cores: 2, maxSockets: 4}}`},
		{name: "memory huge pages", spec: `{memory: {guest: 1Gi, hugepages: {pageSize: 2Mi}}}`},
		{name: "memory huge pages without memfd", spec: `{memory: {guest: 1Gi, hugepages: {pageSize: 1Gi}}}`, change: func(in *Input) {
			in.VMI.Annotations = map[string]string{v1.MemfdMemoryBackend: "false"}
		}},
		{name: "memory shared", spec: `{devices: {filesystems: [{name: share, virtiofs: {}}]}}`},
		{name: "memory from its request", spec: `{memory: null}`, change: func(in *Input) {
			in.VMI.Spec.Domain.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")}
		}},
		{name: "pinned", spec: `{cpu: {cores: 4, dedicatedCpuPlacement: true, isolateEmulatorThread: true, realtime: {}}}`},
		{name: "pinned with emulator", spec: `{cpu: {cores: 4, dedicatedCpuPlacement: true}}`, change: func(in *Input) { in.Pinning = &Pinning{VCPUs: []int{1, 3, 5, 7}} }},
		{name: "realtime mask", spec: `{cpu: {cores: 4, dedicatedCpuPlacement: true, realtime: {mask: "0-1"}}}`},
		{name: "io threads auto", spec: `{ioThreadsPolicy: auto}`},
		{name: "io threads pool", spec: `{ioThreadsPolicy: supplementalPool, ioThreads: {supplementalPoolThreadCount: 4}}`},
	}
}

func networkCases() []deviceCase {
	nic := func(fields string) string {
		return `{devices: {interfaces: [{name: default, masquerade: {}, ` + fields + `}]}}`
	}
	return []deviceCase{
		{name: "interface down", spec: nic("state: down")},
		{name: "interface up", spec: nic("state: up")},
		{name: "interface absent", spec: nic("state: absent"), change: func(in *Input) { in.NICs = nil }},
		{name: "interface e1000e", spec: nic("model: e1000e")},
		{name: "interface rtl8139", spec: nic("model: rtl8139")},
		{name: "interface boots", spec: nic("bootOrder: 2")},
		{name: "interface place", spec: nic(`pciAddress: "0000:81:01.0", acpiIndex: 3`)},
		{name: "interface address of its own", spec: nic(`macAddress: "02-00-00-00-00-0A"`), change: func(in *Input) {
			in.NICs = map[string]NIC{"default": {TapDevice: "tap0"}}
		}},
		{name: "interface passed through", spec: nic("bootOrder: 1"), change: func(in *Input) {
			in.NICs = map[string]NIC{"default": {PCI: "0000:3b:02.1"}}
		}},
		{name: "interface multiqueue", spec: `{devices: {networkInterfaceMultiqueue: true}}`},
		{name: "no interface", spec: `{devices: {interfaces: []}}`},
	}
}

func peripheralCases() []deviceCase {
	return []deviceCase{
		{name: "graphics none", spec: `{devices: {autoattachGraphicsDevice: false}}`},
		{name: "graphics virtio", spec: `{devices: {video: {type: virtio}}}`},
		{name: "serial console none", spec: `{devices: {autoattachSerialConsole: false}}`},
		{name: "serial console unlogged", spec: `{devices: {logSerialConsole: false}}`},
		{name: "balloon none", spec: `{devices: {autoattachMemBalloon: false}}`},
		{name: "inputs", spec: `{devices: {inputs: [{name: pen, type: tablet, bus: usb}, {name: keys, type: keyboard, bus: virtio}]}}`},
		{name: "input by default", spec: `{devices: {autoattachInputDevice: true}}`},
		{name: "sound", spec: `{devices: {sound: {name: s}}}`},
		{name: "sound ac97", spec: `{devices: {sound: {name: s, model: ac97}}}`},
		{name: "watchdog", spec: `{devices: {watchdog: {name: dog, i6300esb: {action: poweroff}}}}`},
		{name: "panic", spec: `{devices: {panicDevices: [{model: hyperv}, {}]}}`},
		{name: "random numbers none", spec: `{devices: {rng: null}}`},
		{name: "tpm", spec: `{devices: {tpm: {}}}`},
		{name: "tpm off", spec: `{devices: {tpm: {enabled: false}}}`},
		{name: "vsock", spec: `{devices: {autoattachVSOCK: true}}`},
		{name: "host devices", spec: `{devices: {hostDevices: [{name: gpu1, deviceName: a/b}, {name: vgpu1, deviceName: a/c}, {name: dongle, deviceName: a/d}]}}`},
		{name: "no hot-plug", spec: `{devices: {disableHotplug: true}}`},
		{name: "transitional", spec: `{devices: {useVirtioTransitional: true}}`},
		{name: "old Windows", change: func(in *Input) { in.VMI.Annotations = map[string]string{v1.DisablePCIHole64: "true"} }},
		{name: "disks", spec: `{devices: {disks: [{name: root, disk: {bus: sata}, cache: writeback, errorPolicy: ignore}, {name: cloudinit, cdrom: {bus: sata, tray: open}}]}}`},
		{name: "disk lun", spec: `{devices: {disks: [{name: raw, lun: {bus: scsi}}]}}`},
		{name: "disk over the network", spec: `{devices: {disks: [{name: ceph, disk: {bus: virtio}, shareable: true}]}}`},
		{name: "disk drive empty", spec: `{devices: {disks: [{name: empty, cdrom: {bus: scsi}}]}}`},
		{name: "disk place", spec: `{devices: {disks: [{name: root, dedicatedIOThread: true, disk: {bus: virtio, pciAddress: "0000:81:02.0"}}]}}`},
		{name: "disks multiqueue", spec: `{devices: {blockMultiQueue: true}}`},
	}
}

// input is the case as Convert gets it.
func (d deviceCase) input(t *testing.T) Input {
	t.Helper()
	in := prepared
	in.VMI, in.Machine = load(t, "typical"), kvmHost
	if d.tcg {
		in.Machine = tcgHost
	}
	if d.spec != "" {
		text, err := yaml.YAMLToJSON([]byte(d.spec))
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(text, &in.VMI.Spec.Domain); err != nil {
			t.Fatal(err)
		}
	}
	if d.change != nil {
		d.change(&in)
	}
	return in
}

// definition is the XML of an input, with its warnings at the end.
func definition(t *testing.T, in Input) string {
	t.Helper()
	out, warnings, err := Convert(in)
	if err != nil {
		t.Fatal(err)
	}
	text, err := out.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		text += "\n<!-- " + w + " -->"
	}
	return text
}

// TestDevices holds what each choice changes of the machine, and that it changes
// nothing else.
func TestDevices(t *testing.T) {
	var golden strings.Builder
	for _, tc := range deviceCases() {
		before := deviceCase{tcg: tc.tcg}.input(t)
		golden.WriteString("# " + tc.name + "\n")
		for _, line := range changedLines(definition(t, before), definition(t, tc.input(t))) {
			golden.WriteString(line + "\n")
		}
	}
	compare(t, filepath.Join("testdata", "devices.golden"), golden.String())
}

// changedLines lists what a lost, after "-", and what b gained, after "+": the lines
// outside a longest common subsequence of the two.
func changedLines(a, b string) []string {
	from, to := strings.Split(a, "\n"), strings.Split(b, "\n")
	common := make([][]int, len(from)+1)
	common[len(from)] = make([]int, len(to)+1)
	for i := len(from) - 1; i >= 0; i-- {
		common[i] = make([]int, len(to)+1)
		for j := len(to) - 1; j >= 0; j-- {
			if from[i] == to[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(from) || j < len(to) {
		switch {
		case i < len(from) && j < len(to) && from[i] == to[j]:
			i, j = i+1, j+1
		case j == len(to) || i < len(from) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+from[i])
			i++
		default:
			out = append(out, "+ "+to[j])
			j++
		}
	}
	return out
}
