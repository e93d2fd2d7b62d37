package enrol_test

import (
	"errors"
	"slices"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/port/enrol"
)

// TestHostAgreesOnTheGuestNetwork: a host learns the range of the mesh's guests before it uses
// its token, and does not join where guests cannot have it, or with another one.
func TestHostAgreesOnTheGuestNetwork(t *testing.T) {
	const ofMesh = "10.96.0.0/14"
	m := newMember(t, func(c *enrol.ServerConfig) {
		c.GuestNetwork = func() string { return ofMesh }
		c.CheckGuestNetwork = func(own string) error {
			if own != ofMesh {
				return fault.InField("guestNetwork", "the host has %q", own)
			}
			return nil
		}
	})
	taken := fault.New(fault.Conflict, "this host has 10.96.0.0/16 on eth0")
	for name, test := range map[string]struct {
		agree   func(mesh string) (string, error)
		refused error
	}{
		"a host where it is taken":      {func(string) (string, error) { return "", taken }, taken},
		"a host with another":           {func(string) (string, error) { return "10.64.0.0/14", nil }, fault.Invalid},
		"a version that cannot be told": {nil, fault.Invalid},
	} {
		o := m.options(t)
		o.GuestNetwork = test.agree
		o.Host = "host-" + o.Token.ID
		if err := enrol.Join(t.Context(), o); !errors.Is(err, test.refused) {
			t.Errorf("%s: %v", name, err)
		}
		if hosts := m.hosts(t); slices.Contains(hosts, o.Host) {
			t.Errorf("%s is a member: %v", name, hosts)
		}
		// Its token is good still.
		o.GuestNetwork = func(mesh string) (string, error) { return mesh, nil }
		if err := enrol.Join(t.Context(), o); err != nil {
			t.Errorf("%s, with the range of the mesh: %v", name, err)
		}
	}
}
