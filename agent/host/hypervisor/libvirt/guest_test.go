package libvirt

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// TestHostileGuestIsBounded: whatever an agent says, what is passed on is small, valid
// text, and addresses are addresses.
func TestHostileGuestIsBounded(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	var out hypervisor.GuestInfo
	mergeGuestInfo(&out, libvirt.DOMAIN_GUEST_INFO_OS, &libvirt.DomainGuestInfo{
		OS: &libvirt.DomainGuestInfoOS{PrettyName: long, Name: "a\x00\x1b[31m\xff\xfe\nb\u009b\u202e"},
	})
	mergeGuestInfo(&out, libvirt.DOMAIN_GUEST_INFO_HOSTNAME, &libvirt.DomainGuestInfo{Hostname: long, OS: &libvirt.DomainGuestInfoOS{}})
	users := make([]libvirt.DomainGuestInfoUser, 5000)
	mergeGuestInfo(&out, libvirt.DOMAIN_GUEST_INFO_USERS, &libvirt.DomainGuestInfo{Users: users})
	mergeGuestInfo(&out, libvirt.DOMAIN_GUEST_INFO_INTERFACES, &libvirt.DomainGuestInfo{
		Interfaces: []libvirt.DomainGuestInfoInterface{{
			Name: "eth0", Hwaddr: "not a MAC",
			Addrs: []libvirt.DomainGuestInfoIPAddress{
				{Addr: "10.0.0.5", Prefix: 24}, {Addr: "<script>", Prefix: 8}, {Addr: "fe80::1", Prefix: 900}, {Addr: "fe80::2", Prefix: 64},
			},
		}},
	})
	if !out.Truncated {
		t.Error("nothing is said to be cut")
	}
	if len(out.Hostname) != maxGuestString || len(out.OS.PrettyName) != maxGuestString || len(out.Users) != maxGuestUsers {
		t.Errorf("lengths %d, %d, %d", len(out.Hostname), len(out.OS.PrettyName), len(out.Users))
	}
	if out.OS.Name != "a[31m b" {
		t.Errorf("control characters pass: %q", out.OS.Name)
	}
	nic := out.Interfaces[0]
	if nic.MAC != "" || len(nic.Addresses) != 2 || nic.Addresses[0] != "10.0.0.5/24" || nic.Addresses[1] != "fe80::2/64" {
		t.Errorf("interface: %+v", nic)
	}
}

func TestAgentDescribesItself(t *testing.T) {
	const answer = `{"return":{"version":"7.2.0","supported_commands":[` +
		`{"enabled":true,"name":"guest-ping","success-response":true},{"enabled":false,"name":"guest-exec"}]}}`
	var out hypervisor.GuestInfo
	if err := mergeAgentInfo(&out, answer); err != nil {
		t.Fatal(err)
	}
	want := []hypervisor.GuestCommand{{Name: "guest-ping", Enabled: true}, {Name: "guest-exec"}}
	if out.AgentVersion != "7.2.0" || !slices.Equal(out.Commands, want) || out.Truncated {
		t.Errorf("%+v", out)
	}
	for _, hostile := range []string{
		"", "null and void", `{"return":[1]}`,
		`{"return":{"version":"` + strings.Repeat("x", maxAgentAnswer) + `"}}`,
	} {
		var out hypervisor.GuestInfo
		if err := mergeAgentInfo(&out, hostile); err == nil || out.AgentVersion != "" || len(out.Commands) != 0 {
			t.Errorf("%.40q is read as %+v, %v", hostile, out, err)
		}
	}
	many := `{"return":{"supported_commands":[` + strings.Repeat(`{"name":"a"},`, maxGuestCommands) + `{"name":"a"}]}}`
	out = hypervisor.GuestInfo{}
	if err := mergeAgentInfo(&out, many); err != nil || len(out.Commands) != maxGuestCommands || !out.Truncated {
		t.Errorf("%d commands, %v", len(out.Commands), err)
	}
}

func TestDomainTellsDisksAndMemory(t *testing.T) {
	domain := &libvirtxml.Domain{}
	if err := domain.Unmarshal(`<domain><currentMemory unit='KiB'>1024</currentMemory><devices>
		<disk><target dev='vda'/><alias name='ua-root'/></disk><disk><target dev='sda'/></disk></devices></domain>`); err != nil {
		t.Fatal(err)
	}
	if got := diskTargets(domain); got["root"] != "vda" || currentMemory(domain) != 1<<20 {
		t.Errorf("disks %v, %d bytes", got, currentMemory(domain))
	}
	if got := diskTargets(&libvirtxml.Domain{}); got != nil || currentMemory(&libvirtxml.Domain{}) != 0 {
		t.Errorf("nothing reads as %v", got)
	}
}

func FuzzBounded(f *testing.F) {
	f.Add("web-1")
	f.Add(strings.Repeat("\u00e9", 300))
	f.Fuzz(func(t *testing.T, s string) {
		got := bounded(&hypervisor.GuestInfo{}, s)
		if len(got) > maxGuestString || !utf8.ValidString(got) {
			t.Errorf("%q", got)
		}
	})
}

// The user is the one in libvirt's label for users, whoever chose it.
func TestUserOfAnEmulator(t *testing.T) {
	for label, want := range map[libvirtxml.DomainSecLabel]uint32{
		{Type: "static", Model: "dac", Label: "+1900000123:+109"}: 1_900_000_123,
		{Type: "dynamic", Model: "dac", Label: "64055:64055"}:     64055,
		{Type: "dynamic", Model: "dac", Label: "qemu:qemu"}:       0,
		{Type: "none", Model: "dac"}:                              0,
		{Model: "apparmor", Label: "+7:+7"}:                       0,
	} {
		domain := &libvirtxml.Domain{SecLabel: []libvirtxml.DomainSecLabel{{Model: "apparmor", Label: "libvirt-1"}, label}}
		if got := emulatorUser(domain); got != want {
			t.Errorf("%+v: %d, want %d", label, got, want)
		}
	}
}
