package libvirt

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

const hostXML = `<capabilities><host><uuid>6f1c1d9e-37b7-4d5b-9d0e-8b6e2a3c4d01</uuid>
<cpu><arch>x86_64</arch><model>EPYC</model><pages unit='KiB' size='4'/><pages unit='KiB' size='2048'/><pages unit='KiB' size='1048576'/></cpu>
<topology><cells num='2'>
<cell id='0'><memory unit='KiB'>1048576</memory><pages unit='KiB' size='4'>200000</pages><pages unit='KiB' size='2048'>64</pages>
<cpus num='2'><cpu id='0'/><cpu id='2'/></cpus></cell>
<cell id='1'><memory unit='KiB'>2097152</memory><pages unit='KiB' size='2048'>0</pages><cpus num='1'><cpu id='1'/></cpus></cell>
</cells></topology><secmodel><model>none</model></secmodel><secmodel><model>dac</model><baselabel type='kvm'>+64055:+109</baselabel></secmodel></host>
<guest><os_type>hvm</os_type><arch name='i686'><emulator>/usr/bin/qemu-system-i386</emulator><machine maxCpus='1'>isapc</machine><domain type='kvm'/></arch></guest>
<guest><os_type>hvm</os_type><arch name='x86_64'><emulator>/usr/bin/qemu-system-x86_64</emulator>
<machine maxCpus='288'>pc-q35-7.2</machine><machine canonical='pc-q35-7.2' maxCpus='288'>q35</machine>
<machine maxCpus='255' deprecated='yes'>pc-i440fx-2.0</machine><machine>none</machine>
<domain type='qemu'/></arch></guest></capabilities>`

func parsedHost(t *testing.T, text string) hypervisor.Capabilities {
	t.Helper()
	caps := &libvirtxml.Caps{}
	if err := caps.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	var out hypervisor.Capabilities
	hostCapabilities(caps, &out)
	return out
}

func TestHostCapabilities(t *testing.T) {
	want := hypervisor.Capabilities{
		SecurityModels: []string{"dac"},
		HostUUID:       "6f1c1d9e-37b7-4d5b-9d0e-8b6e2a3c4d01", Arch: "x86_64", Emulator: "/usr/bin/qemu-system-x86_64",
		CPUs: 3, MemoryBytes: 3 << 30, HugepageSizes: []uint64{2048, 1048576},
		NUMANodes: []hypervisor.NUMANode{
			{ID: 0, MemoryBytes: 1 << 30, CPUs: []int{0, 2}, Hugepages: map[uint64]int64{2048: 64}},
			{ID: 1, MemoryBytes: 2 << 30, CPUs: []int{1}, Hugepages: map[uint64]int64{2048: 0}},
		},
		Machines: []hypervisor.MachineType{
			{Name: "pc-q35-7.2", Canonical: "pc-q35-7.2", MaxVCPUs: 288},
			{Name: "q35", Canonical: "pc-q35-7.2", MaxVCPUs: 288},
			{Name: "pc-i440fx-2.0", Canonical: "pc-i440fx-2.0", MaxVCPUs: 255, Deprecated: true},
			{Name: "none", Canonical: "none"},
		},
	}
	if got := parsedHost(t, hostXML); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestGuestCapabilities(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       hypervisor.Capabilities
	}{
		{"everything", `<domainCapabilities><vcpu max='288'/>
<os supported='yes'><enum name='firmware'><value>bios</value><value>efi</value></enum><loader supported='yes'><enum name='secure'><value>yes</value><value>no</value></enum></loader></os>
<cpu><mode name='host-model' supported='yes'><model fallback='forbid'>EPYC-Rome</model><vendor>AMD</vendor>
<feature policy='require' name='x2apic'/><feature policy='disable' name='svm'/></mode>
<mode name='custom' supported='yes'><model usable='yes'>qemu64</model><model usable='no'>Icelake-Server</model></mode></cpu>
<devices><tpm supported='yes'><enum name='backendModel'><value>passthrough</value><value>emulator</value></enum></tpm></devices>
<features><sev supported='yes'/></features></domainCapabilities>`, hypervisor.Capabilities{
			MaxVCPUs: 288, EFI: true, SecureBoot: true, TPM: true, HostModel: "EPYC-Rome", HostVendor: "AMD",
			HostFeatures: []string{"x2apic"}, CPUModels: []string{"qemu64"}, MemoryEncryption: []string{"sev"},
		}},
		{"no swtpm and no secure firmware", `<domainCapabilities><vcpu max='255'/>
<os supported='yes'><enum name='firmware'><value>efi</value></enum><loader supported='yes'><enum name='secure'><value>no</value></enum></loader></os>
<devices><tpm supported='yes'><enum name='backendModel'><value>passthrough</value></enum></tpm></devices>
<features><sev supported='no'/></features></domainCapabilities>`, hypervisor.Capabilities{MaxVCPUs: 255, EFI: true}},
		{"secure means nothing without EFI", `<domainCapabilities><os supported='yes'><enum name='firmware'><value>bios</value></enum>
<loader supported='yes'><enum name='secure'><value>yes</value></enum></loader></os></domainCapabilities>`, hypervisor.Capabilities{}},
		{"emulation lacks host-model", `<domainCapabilities><cpu><mode name='host-model' supported='no'><model>EPYC</model></mode></cpu></domainCapabilities>`, hypervisor.Capabilities{}},
		{"nothing", `<domainCapabilities/>`, hypervisor.Capabilities{}},
	} {
		caps := &libvirtxml.DomainCaps{}
		if err := caps.Unmarshal(c.text); err != nil {
			t.Fatal(err)
		}
		var got hypervisor.Capabilities
		guestCapabilities(caps, &got)
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", c.name, got, c.want)
		}
	}
}

func TestVersionsAreDotted(t *testing.T) {
	for v, want := range map[uint32]string{9_000_000: "9.0.0", 7_002_022: "7.2.22", 11_010_001: "11.10.1", 0: "0.0.0"} {
		if got := dotted(v); got != want {
			t.Errorf("%d is %s, want %s", v, got, want)
		}
	}
}

// TestCapabilitiesAreBelievedForAWhile: a poll costs nothing, and a restart of the
// daemon, an upgrade of the emulator, or time, makes it read anew.
func TestCapabilitiesAreBelievedForAWhile(t *testing.T) {
	emulator := filepath.Join(t.TempDir(), "qemu")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(emulator, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	now := time.Date(2024, 11, 26, 12, 0, 0, 0, time.UTC)
	var c capabilityCache
	if _, ok := c.lookUp(1, false, now); ok {
		t.Error("something is known at first")
	}
	c.store(hypervisor.Capabilities{HostUUID: "a", Emulator: emulator}, 1, false, now)
	for _, step := range []struct {
		name     string
		connects uint64
		emulated bool
		after    time.Duration
		do       func()
		known    bool
	}{
		{"at once", 1, false, 0, nil, true},
		{"soon", 1, false, capabilitiesAge - time.Second, nil, true},
		{"late", 1, false, capabilitiesAge, nil, false},
		{"KVM no longer works", 1, true, 0, nil, false},
		{"another daemon", 2, false, 0, nil, false},
		{"another emulator", 1, false, 0, func() { write("newer") }, false},
		{"no emulator", 1, false, 0, func() { _ = os.Remove(emulator) }, false},
	} {
		if step.do != nil {
			step.do()
		}
		got, ok := c.lookUp(step.connects, step.emulated, now.Add(step.after))
		if ok != step.known || ok && got.HostUUID != "a" {
			t.Errorf("%s: known %v, %+v", step.name, ok, got)
		}
	}
	c.store(hypervisor.Capabilities{Emulator: emulator}, 3, false, now)
	if _, ok := c.lookUp(3, false, now); !ok {
		t.Error("what was read without an emulator is read again and again")
	}
}

// TestRealCapabilities: the machine that q35 means is among the machines, and a restart
// of the daemon is noticed.
func TestRealCapabilities(t *testing.T) {
	d := startDaemon(t)
	driver := d.open(t)
	first, err := driver.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	alias, ok := first.Machine("q35")
	canonical, there := first.Machine(alias.Canonical)
	if !ok || !there || alias.Canonical == "q35" || canonical.Canonical != canonical.Name || alias.MaxVCPUs != canonical.MaxVCPUs || alias.MaxVCPUs < 2 {
		t.Errorf("q35 is %+v, which is %+v", alias, canonical)
	}
	if first.MaxVCPUs != alias.MaxVCPUs {
		t.Errorf("q35 has at most %d CPUs, and the host's guests %d", alias.MaxVCPUs, first.MaxVCPUs)
	}
	if !first.EFI || !first.TPM {
		t.Errorf("EFI %v, TPM %v, although this machine has both", first.EFI, first.TPM)
	}
	begun := time.Now()
	const polls = 1000
	for range polls {
		if _, err := driver.Capabilities(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("%d polls took %s", polls, took)
	}
	if err := d.StopLibvirtd(t.Context()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); driver.available(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the driver does not notice that its daemon has ended")
		}
	}
	if _, err := driver.Capabilities(t.Context()); err == nil {
		t.Error("a daemon that is gone still has capabilities")
	}
}
