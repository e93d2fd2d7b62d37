package shape

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// floors is the house from the ground up. A package imports packages of its
// own room, or of rooms on lower floors. Rooms on one floor do not know each
// other: they meet in stored objects. A room is a directory with all below it,
// or with "=" before it that package alone. A new room takes its place here.
var floors = [][]string{
	{"raftstore", "gossip", "netplug", "storage"}, // each could be a module of its own
	{"agent/fault"},    // how errors cross between hosts and reach users
	{"agent/heap"},     // how much memory the agent keeps
	{"agent/plain"},    // pure: text that others chose
	{"agent/hostname"}, // pure: which names hosts can have
	{"agent/multimap"}, // pure: sets by key
	{"agent/skew"},     // pure: what versions owe each other's records
	{"agent/level"},    // pure: the feature levels, and how far a mesh can be raised
	{"agent/vmi"},      // pure: a machine as it is read from its object
	{"agent/kinds"},    // the catalogue of kinds
	{"agent/sealed"},   // what is encrypted in stored objects
	{"agent/bearer"},   // pure: the tokens of service accounts, and what signs them
	{"agent/hostseal"}, // the key that seals files of a host
	{"agent/objects"},
	{"agent/claims", "agent/identity"},
	{"=agent/stewards"}, // the engine, which turns the loops of stewards and hosts
	{"agent/port"},      // what hosts say to each other
	{"agent/api", "agent/stewards", "agent/host", "agent/membership"},
	{"=agent"}, // assembly
	{"cli"},
	{"tests"},
}

// roomOf is the room that a package is in, and its floor; -1 when it has none.
func roomOf(pkg string) (string, int) {
	for floor, rooms := range floors {
		if slices.Contains(rooms, "="+pkg) {
			return "=" + pkg, floor
		}
	}
	for room := pkg; room != "."; room = path.Dir(room) {
		for floor, rooms := range floors {
			if slices.Contains(rooms, room) {
				return room, floor
			}
		}
	}
	return "", -1
}

func TestImportsPointDown(t *testing.T) {
	_, packages := load(t)
	rule := newRule(t, "imports")
	for _, p := range packages {
		room, floor := roomOf(p.path)
		if floor < 0 {
			t.Errorf("%s is in no room of the house: give its room a floor in %s", p.path, "tests/shape/imports_test.go")
			continue
		}
		for _, imported := range imports(p) {
			imported, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			if other, below := roomOf(imported); other != room && below >= floor {
				rule.broken(p.path+" -> "+imported, "%s imports %s: imports point down the floors, see imports_test.go", p.path, imported)
			}
		}
	}
	rule.done()
}

// forbidden lists what may not be imported from where although the floors
// would allow it, with the reason.
var forbidden = []struct {
	from, imports, except, reason string
}{
	{"agent/vmi", "virtmesh", "virtmesh/agent/vmi", "the reading of a machine is pure"},
	{"agent/skew", "virtmesh", "virtmesh/agent/skew", "what is kept depends on the values alone"},
	{"agent/stewards/schedule/place", "virtmesh/agent/objects", "", "placement is pure"},
	{"agent/host/domain", "virtmesh/raftstore", "", "the conversion to a domain is pure"},
	{"agent/host/hypervisor", "virtmesh/agent/objects", "", "the contract knows domains, not objects"},
	{"agent/host/hypervisor", "virtmesh/raftstore", "", "the contract knows domains, not objects"},
}

func TestPureRoomsStayPure(t *testing.T) {
	_, packages := load(t)
	for _, p := range packages {
		for _, imported := range imports(p) {
			for _, rule := range forbidden {
				if within(p.path, rule.from) && within(imported, rule.imports) && (rule.except == "" || !within(imported, rule.except)) {
					t.Errorf("%s imports %s: %s", p.path, imported, rule.reason)
				}
			}
		}
	}
}

// The frozen rules judge log entries of every age, so they depend on nothing that
// another change could alter: on the standard library, and on the view they judge.
func TestFrozenRulesDependOnNothingThatChanges(t *testing.T) {
	_, packages := load(t)
	frozen := 0
	for _, p := range packages {
		if !within(path.Dir(p.path), "agent/claims") || !strings.HasPrefix(path.Base(p.path), "rulesv") {
			continue
		}
		frozen++
		for _, imported := range imports(p) {
			first, _, _ := strings.Cut(imported, "/")
			standard := !strings.Contains(first, ".") && first+"/" != module
			if !standard && imported != module+"raftstore" {
				t.Errorf("%s imports %s: a change there could change a verdict on an entry of an old log", p.path, imported)
			}
		}
	}
	if frozen == 0 {
		t.Error("found no frozen rules")
	}
}

func TestSiblingStewardsMeetInStoredObjectsOnly(t *testing.T) {
	_, packages := load(t)
	const siblings = "agent/stewards"
	rule := newRule(t, "stewards")
	for _, p := range packages {
		rest, ok := strings.CutPrefix(p.path, siblings+"/")
		if !ok {
			continue
		}
		own, _, _ := strings.Cut(rest, "/")
		if own == "roster" {
			continue // it assembles the others
		}
		for _, imported := range imports(p) {
			if strings.HasPrefix(imported, module+siblings+"/") && !within(imported, module+siblings+"/"+own) {
				rule.broken(p.path+" -> "+strings.TrimPrefix(imported, module), "%s imports its sibling %s", p.path, imported)
			}
		}
	}
	rule.done()
}

// owners names the only places that may import a library.
var owners = map[string][]string{
	"github.com/hashicorp/raft":       {"raftstore"},
	"github.com/hashicorp/memberlist": {"gossip"},
	"github.com/vishvananda/netlink":  {"netplug/kernel"},
	"github.com/google/nftables":      {"netplug/kernel"},
	"github.com/google/go-tpm":        {"agent/hostseal/tpm"},
	"libvirt.org/go/libvirt":          {"agent/host/hypervisor/libvirt"},
	"github.com/urfave/cli/v2":        {"cli"},
	"k8s.io/apiserver":                {"agent/api"},
}

func TestEveryOutsidePillarHasOneOwner(t *testing.T) {
	_, packages := load(t)
	for _, p := range packages {
		for _, imported := range imports(p) {
			for library, places := range owners {
				if !within(imported, library) {
					continue
				}
				if !slices.ContainsFunc(places, func(place string) bool { return within(p.path, place) }) {
					t.Errorf("%s imports %s, which belongs to %v", p.path, imported, places)
				}
			}
		}
	}
}
