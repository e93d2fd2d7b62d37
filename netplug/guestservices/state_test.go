package guestservices

import (
	"bytes"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"virtmesh/netplug/dhcp"
	"virtmesh/netplug/dns"
)

func wholeState() State {
	gateway := netip.MustParsePrefix("10.9.0.1/24")
	addr := netip.MustParseAddr
	return State{
		Bridges: []Bridge{{Name: "br0", Gateway: gateway, DNS: true, DHCP: &dhcp.Pool{
			Gateway: gateway, LeaseTime: time.Hour, MTU: 1400, DNS: []netip.Addr{addr("10.9.0.1")}, Domain: "vm.example", Search: []string{"vm.example"},
			Reservations: []dhcp.Reservation{{
				MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Address: addr("10.9.0.9"), Hostname: "a", Search: []string{"ns.vm.example"},
				Options: dhcp.Options{BootFile: "f", TFTPServer: "10.9.0.2", NTPServers: []netip.Addr{addr("10.9.0.3")}, Private: map[uint8]string{230: "x"}},
			}},
		}}, {Name: "br1", Gateway: netip.MustParsePrefix("10.10.0.1/24"), DNS: true}},
		Zone: dns.Zone{Domain: "vm.example", Records: map[string][]netip.Addr{"a.ns": {addr("10.9.0.9"), addr("fd00::9")}},
			Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}},
	}
}

func TestStateComesBackWhole(t *testing.T) {
	for _, want := range []State{{}, wholeState()} {
		data, err := Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(data)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nis read as %+v, %v", data, got, err)
		}
	}
}

// TestFileOfThisVersion holds the format: a process reads what an agent of another version
// has written, either way.
func TestFileOfThisVersion(t *testing.T) {
	const text = `{"version":1,"bridges":[{"name":"br0","gateway":"10.9.0.1/24","dhcp":{"leaseSeconds":3600,"mtu":1400,"dns":["10.9.0.1"],` +
		`"domain":"vm.example","search":["vm.example"],"reservations":[{"mac":"02:00:00:00:00:01","address":"10.9.0.9","hostname":"a",` +
		`"search":["ns.vm.example"],"bootFile":"f","tftpServer":"10.9.0.2","ntpServers":["10.9.0.3"],"private":{"230":"x"}}]},"dns":true},` +
		`{"name":"br1","gateway":"10.10.0.1/24","dns":true}],"zone":{"domain":"vm.example","records":{"a.ns":["10.9.0.9","fd00::9"]},"upstreams":["192.0.2.1:53"]}}`
	if data, err := Encode(wholeState()); err != nil || string(data) != text {
		t.Errorf("the state is written as\n%s\nand not\n%s\n%v", data, text, err)
	}
	later := strings.Replace(text, `"name":"br0"`, `"later":{"x":1},"name":"br0"`, 1)
	if got, err := Decode([]byte(later)); err != nil || !reflect.DeepEqual(got, wholeState()) {
		t.Errorf("with a field of a later version it is read as %+v, %v", got, err)
	}
}

func TestFaultsNameTheirField(t *testing.T) {
	good, err := Encode(wholeState())
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 256)
	for name, c := range map[string]struct{ old, new, says string }{
		"no JSON":          {"{", "", "state of guest services"},
		"later version":    {`"version":1`, `"version":2`, "version: 2 is not 1"},
		"no version":       {`"version":1,`, "", "version: 0"},
		"no interface":     {`"br0"`, `"a/b"`, "bridges[0].name"},
		"long interface":   {`"br0"`, `"0123456789abcdef"`, "bridges[0].name"},
		"bridge twice":     {`"br1"`, `"br0"`, "bridges[1].name"},
		"IPv6 gateway":     {"10.9.0.1/24", "fd00::1/64", "bridges[0].gateway"},
		"no gateway":       {`"gateway":"10.10.0.1/24",`, "", "bridges[1].gateway"},
		"lease":            {"3600", "-1", "leaseSeconds"},
		"MTU":              {"1400", "70000", "mtu"},
		"name server":      {`"dns":["10.9.0.1"]`, `"dns":["fd00::1"]`, "dhcp.dns"},
		"pool's domain":    {`"domain":"vm.example","search"`, `"domain":"a..b","search"`, "dhcp.domain"},
		"search":           {`"ns.vm.example"`, `"` + long + `"`, "reservations[0].search"},
		"card":             {"02:00:00:00:00:01", "x", "reservations[0].mac"},
		"InfiniBand card":  {"02:00:00:00:00:01", "00:00:00:00:00:00:00:00", "reservations[0].mac"},
		"address":          {`"address":"10.9.0.9"`, `"address":""`, "reservations[0].address"},
		"hostname":         {`"hostname":"a"`, `"hostname":"` + long + `"`, "hostname"},
		"private option":   {`"230"`, `"50"`, "private[50]"},
		"zone's domain":    {`"zone":{"domain":"vm.example"`, `"zone":{"domain":"` + long + `"`, "zone.domain"},
		"record":           {`"a.ns":`, `".":`, "zone.records"},
		"record's address": {`"fd00::9"`, `""`, "zone.records"},
		"upstream":         {`"192.0.2.1:53"`, `""`, "zone.upstreams"},
	} {
		if !bytes.Contains(good, []byte(c.old)) {
			t.Fatalf("%s: %q is not there", name, c.old)
		}
		if _, err := Decode(bytes.Replace(good, []byte(c.old), []byte(c.new), 1)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v does not say %q", name, err, c.says)
		}
	}
	if _, err := Decode(make([]byte, maxFile+1)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a file that is too large: %v", err)
	}
	if _, err := Encode(State{Bridges: []Bridge{{Name: "br0"}}}); err == nil {
		t.Error("a state that nobody can read is written")
	}
}

// FuzzDecode reads what may be in the file. What is accepted can be written again, and is
// then read as the same.
func FuzzDecode(f *testing.F) {
	for _, s := range []State{{}, wholeState()} {
		data, err := Encode(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"version":1,"bridges":[{"name":"b","gateway":"1.2.3.4/0","dhcp":{}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Encode(s)
		if err != nil {
			t.Fatalf("cannot be written again: %v", err)
		}
		twice, err := Decode(again)
		if err != nil {
			t.Fatalf("cannot be read again: %v", err)
		}
		if last, err := Encode(twice); err != nil || !bytes.Equal(last, again) {
			t.Fatalf("changes when it is read and written:\n%s\n%s\n%v", again, last, err)
		}
	})
}
