// Package level knows the feature levels: what each of them brings, which of them this
// version knows, and how far a mesh can be raised. It is pure.
//
// A feature level is a small number. It says which rules, kinds, fields of records and
// formats a mesh may use. Every version knows a range of levels; a mesh has one level,
// which is part of its replicated state (raftstore.Store.FeatureLevel) and never goes
// down. So a mesh goes on as before while its hosts are upgraded one after the other, and
// begins to use what is new when it is raised: when every host knows how.
package level

import (
	"fmt"
	"slices"
	"strings"

	"virtmesh/raftstore"
)

// Lowest and Highest are the range of feature levels that this version knows. A mesh
// below Lowest must be raised with an earlier version first; one above Highest needs a
// newer version.
const (
	Lowest  uint32 = 1
	Highest uint32 = Access
)

// Keyring is the level from which on the private key of the mesh's CA may be in the keyring
// of the voters only. An older host looks for the key in the replicated state.
const Keyring uint32 = 3

// Apart is the level from which on what an earlier version does not know how to judge or to
// read keeps machines, hosts and their secrets apart.
const Apart uint32 = 4

// Succession is the level from which on what a mesh trusts can be replaced while it runs: its
// CA, and the list of its voters, by hosts that were off meanwhile. An older host takes the
// first CA of the bundle for the only one.
const Succession uint32 = 5

// Access is the level from which on people and programs have rights of their own: roles and
// bindings, service accounts and their tokens. A host with an earlier version would let in nobody
// but administrators, and would not keep what they may not do.
const Access uint32 = 6

// Known returns the range of feature levels that this version knows.
func Known() raftstore.LevelRange { return raftstore.LevelRange{Lowest: Lowest, Highest: Highest} }

// Level is one feature level.
type Level struct {
	// Number is the level. The first is 1; a record without a level means 1, too.
	Number uint32 `json:"number"`
	// Brings says in a sentence what a mesh may use from this level on.
	Brings string `json:"brings"`
}

// All returns the feature levels from the first to Highest. This is the only list of them.
// Whatever waits for a level (a version of a rule, a kind, a field, a format) names its
// number where it is registered.
func All() []Level {
	return []Level{
		{1, "the rules, kinds and formats of the first version that has feature levels"},
		{raftstore.FollowersLevel, "hosts that do not vote get their copy from each other instead of from the leader, so that a mesh can have 500 hosts"},
		{Keyring, "the private key of the mesh's CA leaves the replicated state for the keyring of the voters, once a recovery bundle was made"},
		{Apart, "hosts are known by their records and keys, not by the word of the CA alone, and the key that encrypts gossip can be replaced; backups are encrypted, so that the recovery bundle opens them; Secrets are encrypted in the replicated state once a recovery bundle has their key; volumes and empty disks count against the disks of their host"},
		{Succession, "the mesh's CA can be replaced, and hosts that were off learn from a signed list who votes now; a recovery bundle stays good when keys are replaced; hosts seal the keyring on their disks, and ConfigMaps can be encrypted"},
		{Access, "people and programs have rights of their own: roles and role bindings, service accounts and their tokens; ResourceQuotas limit what a namespace has; no host writes the record of another; the HyperConverged configures virtualization; instance types and preferences are stored"},
	}
}

// Above returns the levels that this version knows above mesh, lowest first: what a raise
// to Highest brings.
func Above(mesh uint32) []Level {
	return slices.DeleteFunc(All(), func(l Level) bool { return l.Number <= mesh })
}

// Host is a host of a mesh as far as feature levels matter.
type Host struct {
	// Name is the host's name, Version that of its program.
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// Highest is the highest level that the host knows; 0 if the host has not said so yet.
	Highest uint32 `json:"highest"`
	// Live reports whether the host is heard now. A raise asks every host, so one that is
	// not heard stops it.
	Live bool `json:"live"`
}

// String returns the host as people are told of it: with its version and what it knows.
func (h Host) String() string {
	if h.Version == "" {
		return fmt.Sprintf("%s (knows up to %d)", h.Name, h.Highest)
	}
	return fmt.Sprintf("%s (version %s, knows up to %d)", h.Name, h.Version, h.Highest)
}

// Outlook says how far a mesh can be raised.
type Outlook struct {
	// Reachable is the highest level that every host knows; it is at least the level that
	// the mesh has.
	Reachable uint32
	// Newest is the highest level that any host knows.
	Newest uint32
	// HeldUpBy are the hosts that know less than Newest, by name, if there is a level to
	// raise to.
	HeldUpBy []Host
	// Unheard names the hosts that are not heard, if there is a level to raise to: they
	// could come back with any version, so a raise waits for them.
	Unheard []string
}

// namedHosts bounds how many hosts a sentence names.
const namedHosts = 3

// NameHosts lists hosts for a sentence: the first ones, and how many more there are.
func NameHosts[H any](hosts []H) string {
	names := make([]string, 0, namedHosts)
	for _, h := range hosts[:min(len(hosts), namedHosts)] {
		names = append(names, fmt.Sprint(h))
	}
	text := strings.Join(names, ", ")
	switch more := len(hosts) - namedHosts; {
	case more == 1:
		text += ", 1 more host"
	case more > 1:
		text += fmt.Sprintf(", %d more hosts", more)
	}
	return text
}

// Look says how far a mesh at level mesh, whose recorded hosts are hosts, can be raised.
func Look(mesh uint32, hosts []Host) Outlook {
	o := Outlook{Reachable: mesh, Newest: mesh}
	if len(hosts) == 0 {
		return o
	}
	lowest := hosts[0].Highest
	for _, h := range hosts {
		lowest, o.Newest = min(lowest, h.Highest), max(o.Newest, h.Highest)
	}
	o.Reachable = max(mesh, lowest)
	for _, h := range hosts {
		if h.Highest < o.Newest && o.Newest > mesh {
			o.HeldUpBy = append(o.HeldUpBy, h)
		}
		if !h.Live && o.Newest > mesh {
			o.Unheard = append(o.Unheard, h.Name)
		}
	}
	slices.Sort(o.Unheard)
	slices.SortFunc(o.HeldUpBy, func(a, b Host) int { return strings.Compare(a.Name, b.Name) })
	return o
}
