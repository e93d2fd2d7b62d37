package libvirt

import (
	"strings"
	"testing"
	"unicode/utf8"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// TestHostileGuestIsBounded: whatever an agent says, what is passed on is small, valid
// text, and addresses are addresses.
func TestHostileGuestIsBounded(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	var out hypervisor.GuestInfo
	mergeGuestInfo(&out, libvirt.DOMAIN_GUEST_INFO_OS, &libvirt.DomainGuestInfo{
		OS: &libvirt.DomainGuestInfoOS{PrettyName: long, Name: "a\x00\x1b[31m\xff\xfe\nb"},
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
	if out.OS.Name != "a[31mb" {
		t.Errorf("control characters pass: %q", out.OS.Name)
	}
	nic := out.Interfaces[0]
	if nic.MAC != "" || len(nic.Addresses) != 2 || nic.Addresses[0] != "10.0.0.5/24" || nic.Addresses[1] != "fe80::2/64" {
		t.Errorf("interface: %+v", nic)
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
