package host

import (
	"encoding/json"
	"strings"
	"testing"
)

// Networks to keep guests away from are IPv4 networks; one that was meant otherwise must not
// protect less than the operator thinks.
func TestProtectedNetworksAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		`{"network": {"protectedNetworks": ["10.0.0.0/8"], "allowedNetworks": ["10.1.2.3/32"]}}`: "",
		`{"network": {"protectedNetworks": ["10.0.0.0/8", "10.1.2.3/24"]}}`:                      "network.protectedNetworks[1]: 10.1.2.3/24",
		`{"network": {"allowedNetworks": ["2001:db8::/32"]}}`:                                    "network.allowedNetworks[0]: 2001:db8::/32",
	} {
		c := DefaultConfig("/var/lib/virtmesh")
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		switch err := c.Validate(); {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// A bridge that cannot be made is named, before it leaves all guests without network.
func TestBridgesAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		`[{"name": "br1", "uplink": "eth1"}, {"name": "br-own"}]`: "",
		`[{"uplink": "eth1"}]`:                                                   "network.bridges[0]: bridge.name",
		`[{"name": "br1"}, {"name": "br 2", "uplink": "eth1"}]`:                  "network.bridges[1]: bridge.name",
		`[{"name": "br1", "uplink": "eth1"}, {"name": "br1", "uplink": "eth2"}]`: "network.bridges[1].name: br1 is already bridges[0]",
		`[{"name": "br1", "uplink": "eth1"}, {"name": "br2", "uplink": "eth1"}]`: "network.bridges[1].uplink: eth1 is already that of bridges[0]",
		`[{"name": "virtmesh0", "uplink": "eth1"}]`:                              "network.bridges[0].name: virtmesh0 is the bridge of the default network",
	} {
		c := DefaultConfig("/var/lib/virtmesh")
		if err := json.Unmarshal([]byte(`{"network": {"bridges": `+text+`}}`), &c); err != nil {
			t.Fatal(err)
		}
		if err := c.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// A registry is written as images' names have it, so that what is listed is what is used.
func TestRegistriesAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		`{"images": {"insecureRegistries": ["localhost:5000"], "internalRegistries": ["registry.lan", "[2001:db8::1]:5000"]}}`: "",
		`{"images": {"insecureRegistries": ["registry.lan", ""]}}`:                                                             "images.insecureRegistries[1]",
		`{"images": {"internalRegistries": ["https://registry.lan"]}}`:                                                         "images.internalRegistries[0]",
	} {
		c := DefaultConfig("/var/lib/virtmesh")
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		if err := c.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// Uids of guests must be many and nobody's, or guests would share them with each other or
// with an account of the host.
func TestGuestUIDsAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "",
		`{"hypervisor": {"guestUIDs": {"first": 3000000, "count": 100000}}}`: "",
		`{"hypervisor": {"guestUIDs": {"first": 1000, "count": 100000}}}`:    "hypervisor.guestUIDs.first: 1000",
		`{"hypervisor": {"guestUIDs": {"first": 3000000}}}`:                  "hypervisor.guestUIDs.count: 0",
	} {
		c := DefaultConfig("/var/lib/virtmesh")
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		switch err := c.Validate(); {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	// An older version, which knows no such setting, can read what this one writes.
	if data, err := json.Marshal(DefaultConfig("/var/lib/virtmesh")); err != nil || strings.Contains(string(data), "guestUIDs") {
		t.Errorf("%s, %v", data, err)
	}
}
