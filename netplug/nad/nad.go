// Package nad parses the CNI configuration of a NetworkAttachmentDefinition and returns the
// settings of a tap that it asks for.
//
// It supports the plugin types "bridge" and "cnv-bridge", alone or first in a list of
// plugins, where "tuning" and "cnv-tuning" may follow. A setting that a host cannot provide
// is an error that names the field; it is never ignored silently. Fields that no plugin of
// these types has are ignored, as CNI requires.
//
// The package does not read the surrounding object and makes no decisions about hosts.
package nad

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"virtmesh/netplug"
)

// ErrUnsupportedType is wrapped by the error for an unsupported plugin type.
var ErrUnsupportedType = errors.New("plugin type is not supported")

// FieldError says what is wrong with one field of a configuration.
type FieldError struct {
	Field  string
	Reason string
}

// Error implements error.
func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// Network is what a configuration asks for.
type Network struct {
	// Name of the network in the configuration; empty if it has none.
	Name string
	// Bridge to plug into.
	Bridge string
	// VLAN of the card; 0 for none.
	VLAN int
	// PreserveDefaultVLAN keeps the card in the bridge's default VLAN too.
	PreserveDefaultVLAN bool
	// MTU of the card; 0 for the default.
	MTU int
	// MACSpoofCheck drops frames from the guest whose source address is not the card's
	// MAC.
	MACSpoofCheck bool
	// MaxMACs is how many source addresses the guest may use at a time without
	// MACSpoofCheck; 0 for the default.
	MaxMACs int
	// GuestVLANs lets frames that the guest tags itself through.
	GuestVLANs bool
	// RAGuard and DHCPGuard drop what only routers and DHCP servers send.
	RAGuard, DHCPGuard bool
	// Isolated prevents cards with this flag from talking to each other.
	Isolated bool
}

// config is a plugin configuration, or a list of them. Pointers distinguish a missing field
// from an empty one.
type config struct {
	CNIVersion string    `json:"cniVersion"`
	Name       string    `json:"name"`
	Type       string    `json:"type"`
	Plugins    *[]config `json:"plugins"`

	Bridge              string `json:"bridge"`
	VLAN                *int   `json:"vlan"`
	PreserveDefaultVLAN *bool  `json:"preserveDefaultVlan"`
	MTU                 int    `json:"mtu"`
	MACSpoofCheck       bool   `json:"macspoofchk"`
	PortIsolation       bool   `json:"portIsolation"`
	// These are virtmesh's own.
	MaxMACs    int  `json:"maxMACs"`
	GuestVLANs bool `json:"guestVLANs"`
	RAGuard    bool `json:"raGuard"`
	DHCPGuard  bool `json:"dhcpGuard"`

	IPAM             map[string]json.RawMessage `json:"ipam"`
	IsGateway        bool                       `json:"isGateway"`
	IsDefaultGateway bool                       `json:"isDefaultGateway"`
	ForceAddress     bool                       `json:"forceAddress"`
	IPMasq           bool                       `json:"ipMasq"`
	HairpinMode      bool                       `json:"hairpinMode"`
	PromiscMode      bool                       `json:"promiscMode"`
	VLANTrunk        []json.RawMessage          `json:"vlanTrunk"`
}

// Limits of fields.
const (
	defaultBridge = "cni0"
	maxVLAN       = 4094
	minMTU        = 68
	maxMTU        = 65535
	maxConfig     = 64 << 10
	maxMACs       = 4096
	// defaultMACs suits a guest with a bridge, or containers with addresses of their own,
	// and keeps the table of a switch with thousands of entries from being filled.
	defaultMACs = 64
)

// Parse parses a configuration. The error wraps a *FieldError for each fault, or
// ErrUnsupportedType.
func Parse(data string) (Network, error) {
	if strings.TrimSpace(data) == "" {
		return Network{}, &FieldError{Field: "config", Reason: "is empty"}
	}
	if len(data) > maxConfig {
		return Network{}, &FieldError{Field: "config", Reason: fmt.Sprintf("is longer than %d bytes", maxConfig)}
	}
	var c config
	if err := json.Unmarshal([]byte(data), &c); err != nil {
		return Network{}, fmt.Errorf("config: %w", describe(err))
	}
	plugin, field, err := c.plugin()
	if err != nil {
		return Network{}, err
	}
	if err := plugin.check(field); err != nil {
		return Network{}, err
	}
	return plugin.network(c.Name), nil
}

// describe turns a JSON error about a value of the wrong type into a *FieldError.
func describe(err error) error {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) && kind.Field != "" {
		return &FieldError{Field: kind.Field, Reason: fmt.Sprintf("is a %s, want %s", kind.Value, kind.Type)}
	}
	return err
}

// plugin returns the plugin configuration that describes the network, and the prefix of its
// field paths.
func (c config) plugin() (plugin config, field string, err error) {
	if c.Plugins == nil {
		return c, "", c.checkType("type")
	}
	plugins := *c.Plugins
	if c.Type != "" {
		return config{}, "", &FieldError{Field: "type", Reason: "cannot be combined with plugins"}
	}
	if len(plugins) == 0 {
		return config{}, "", &FieldError{Field: "plugins", Reason: "is empty"}
	}
	for i, p := range plugins[1:] {
		if !slices.Contains([]string{"tuning", "cnv-tuning"}, p.Type) {
			return config{}, "", fmt.Errorf("plugins[%d].type: %q after the first plugin: %w", i+1, p.Type, ErrUnsupportedType)
		}
	}
	return plugins[0], "plugins[0].", plugins[0].checkType("plugins[0].type")
}

func (c config) checkType(field string) error {
	switch c.Type {
	case "bridge", "cnv-bridge":
		return nil
	case "":
		return &FieldError{Field: field, Reason: "is missing"}
	}
	return fmt.Errorf("%s: %q: %w; want bridge or cnv-bridge", field, c.Type, ErrUnsupportedType)
}

// check returns an error for each setting that is invalid or that a host cannot provide.
func (c config) check(at string) error {
	var errs []error
	bad := func(when bool, field, format string, args ...any) {
		if when {
			errs = append(errs, &FieldError{Field: at + field, Reason: fmt.Sprintf(format, args...)})
		}
	}
	bad(c.Plugins != nil && at != "", "plugins", "cannot be nested in plugins")
	bad(c.VLAN != nil && (*c.VLAN < 0 || *c.VLAN > maxVLAN), "vlan", "%d is not between 0 and %d", deref(c.VLAN), maxVLAN)
	bad(c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU), "mtu", "%d is not between %d and %d", c.MTU, minMTU, maxMTU)
	bad(c.MaxMACs < 0 || c.MaxMACs > maxMACs, "maxMACs", "%d is not between 1 and %d", c.MaxMACs, maxMACs)
	bad(c.GuestVLANs && deref(c.VLAN) != 0, "guestVLANs", "cannot be combined with vlan")
	bad(c.GuestVLANs && (c.RAGuard || c.DHCPGuard), "guestVLANs", "cannot be combined with raGuard or dhcpGuard, which do not look into tagged frames")
	bad(len(c.VLANTrunk) > 0, "vlanTrunk", "is not supported for virtual machines")
	bad(len(c.IPAM) > 0, "ipam", "is not supported for virtual machines: addresses come from DHCP on the network or from cloud-init")
	for _, f := range []struct {
		on   bool
		name string
	}{
		{c.IsGateway, "isGateway"}, {c.IsDefaultGateway, "isDefaultGateway"},
		{c.ForceAddress, "forceAddress"}, {c.IPMasq, "ipMasq"}, {c.HairpinMode, "hairpinMode"},
	} {
		bad(f.on, f.name, "is not supported: the host has no address on this network")
	}
	// A tenant's network must not lead to a network of the host itself, where guests are
	// trusted to use the addresses assigned to them.
	bad(strings.HasPrefix(c.bridge(), netplug.TapPrefix), "bridge", "%q: names that begin with %q are reserved for the host", c.bridge(), netplug.TapPrefix)
	if err := (netplug.Bridge{Name: c.bridge()}).Validate(); err != nil {
		bad(true, "bridge", "%q cannot name a bridge", c.bridge())
	}
	return errors.Join(errs...)
}

// bridge returns the name of the bridge, or the plugin's default.
func (c config) bridge() string {
	if c.Bridge == "" {
		return defaultBridge
	}
	return c.Bridge
}

// network returns what the checked configuration asks for.
func (c config) network(name string) Network {
	n := Network{
		Name:          name,
		Bridge:        c.bridge(),
		VLAN:          deref(c.VLAN),
		MTU:           c.MTU,
		MACSpoofCheck: c.MACSpoofCheck,
		MaxMACs:       c.MaxMACs,
		GuestVLANs:    c.GuestVLANs,
		RAGuard:       c.RAGuard,
		DHCPGuard:     c.DHCPGuard,
		Isolated:      c.PortIsolation,
	}
	// The CNI plugin keeps the default VLAN unless preserveDefaultVlan is false.
	n.PreserveDefaultVLAN = n.VLAN != 0 && (c.PreserveDefaultVLAN == nil || *c.PreserveDefaultVLAN)
	return n
}

func deref(p *int) int {
	if p == nil {
		return 0
	}
	return *p
}

// Attach returns the tap with the settings of the network.
func (n Network) Attach(t netplug.Tap) netplug.Tap {
	t.Bridge = n.Bridge
	t.VLAN = n.VLAN
	t.PreserveDefaultVLAN = n.PreserveDefaultVLAN
	t.MTU = n.MTU
	t.MACSpoofCheck = n.MACSpoofCheck
	t.MaxMACs = cmp.Or(n.MaxMACs, defaultMACs)
	t.TaggedFrames = n.GuestVLANs
	t.RAGuard, t.DHCPGuard = n.RAGuard, n.DHCPGuard
	t.Isolated = n.Isolated
	return t
}
