package main

import (
	"os"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"
)

func TestParseMetric(t *testing.T) {
	text := []byte("# HELP a_total a\na_total_more 7\na_total{result=\"ok\"} 8\na_total 1.5e+03\n")
	if v, err := parseMetric(text, "a_total"); err != nil || v != 1500 {
		t.Errorf("a_total is %v, %v", v, err)
	}
	if _, err := parseMetric(text, "b_total"); err == nil {
		t.Error("a metric that is not there was found")
	}
	if _, err := parseMetric([]byte("a_total x\n"), "a_total"); err == nil {
		t.Error("x was taken for a number")
	}
}

func TestParseMemory(t *testing.T) {
	const text = "Name:\tvirtmesh\nVmRSS:\t  195312 kB\nRssAnon:\t 1 kB\n00400000-7fff rollup\nRss: 195312 kB\nAnonymous:   100000 kB\n"
	m, err := parseMemory(text)
	if err != nil || number(m.rss) != "200" || number(m.anonymous) != "102.4" {
		t.Errorf("read %+v, %v; want 200 and 102.4 MB", m, err)
	}
	if _, err := parseMemory("VmRSS: 5 kB\n"); err == nil {
		t.Error("memory without its anonymous part was accepted")
	}
}

// The likeness must share nothing with the domain it is taken from, and be the
// same otherwise.
func TestLikenessSharesNothing(t *testing.T) {
	pattern, err := os.ReadFile("testdata/pattern.xml")
	if err != nil {
		t.Fatal(err)
	}
	text, disks, err := likeness(string(pattern), "/floor")
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range []string{"default_pattern", "11111111-2222", "02:00:00:00:00:01", "vm-tap", "/var/lib", "/var/log", "/run/", "metadata"} {
		if strings.Contains(text, own) {
			t.Errorf("the likeness still has %s", own)
		}
	}
	if want := (copiedDisk{"/var/lib/virtmesh/ephemeral/root.qcow2", "/floor/disk0"}); len(disks) != 1 || disks[0] != want {
		t.Errorf("disks to copy are %v, want %v", disks, want)
	}
	d := &libvirtxml.Domain{}
	if err := d.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	if d.SysInfo[0].SMBIOS.System.Entry[0].Value != d.UUID {
		t.Error("the firmware's UUID is not the domain's, which libvirt refuses")
	}
	if d.Memory.Value != 98304 || len(d.Devices.Interfaces) != 1 || d.Devices.Interfaces[0].Target.Managed != "no" {
		t.Errorf("the likeness lost something: %s", text)
	}
}
