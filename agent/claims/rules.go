package claims

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims/rulesv1"
	"virtmesh/agent/claims/rulesv2"
	"virtmesh/agent/claims/rulesv3"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Names of the rules, as they appear in the error of a refused transaction.
const (
	RuleHostCapacity   = rulesv1.HostCapacity
	RuleVMIOnce        = rulesv1.VMIOnce
	RuleVolumeOnce     = rulesv1.VolumeOnce
	RuleMigrationSlots = rulesv1.MigrationSlots
	// RulePlacedSince refuses a decision that has not seen every instance of the
	// namespaces whose instances it counted.
	RulePlacedSince = rulesv1.PlacedSince
	// RulePoolCapacity refuses volumes, and what ends with instances, for which a file system
	// of the host has no room beside what is promised there.
	RulePoolCapacity = rulesv3.PoolCapacity
)

// Rules returns the constraints that a store with claims must have: all versions of all
// rules. A version that was ever demanded must stay: without it, a log that names it
// could not be replayed.
func Rules() []raftstore.Constraint {
	return slices.Concat(rulesv1.Rules(), rulesv2.Rules(), rulesv3.Rules())
}

// version is a version of a rule, and the feature level from which on it is demanded. A
// replica that does not know a version halts when the log names it, so a new version waits
// for a level that only versions of the program with it know.
type version[Args any] struct {
	since uint32
	call  func(Args) raftstore.ConstraintCall
}

// newest returns the newest of a rule's versions, which are in order, that a mesh at a
// feature level may demand; ok is false if the mesh must not demand the rule yet.
func newest[Args any](level uint32, versions []version[Args]) (chosen version[Args], ok bool) {
	for _, v := range versions {
		if v.since <= level {
			chosen, ok = v, true
		}
	}
	return chosen, ok
}

// demand makes a transaction demand a rule, in the version that fits the feature level of
// the mesh when it is committed.
func demand[Args any](tx *objects.Tx, versions []version[Args], args Args) {
	tx.DemandByLevel(func(level uint32) (raftstore.ConstraintCall, bool) {
		chosen, ok := newest(level, versions)
		if !ok {
			return raftstore.ConstraintCall{}, false
		}
		return chosen.call(args), true
	})
}

// The versions of each rule that are still demanded. Whoever adds one names its feature
// level here, in agent/level, and as raftstore.Constraint.FeatureLevel in its package.

func vmiOnce() []version[types.UID] {
	return []version[types.UID]{{1, func(uid types.UID) raftstore.ConstraintCall { return rulesv2.CallVMIOnce(string(uid)) }}}
}

func hostCapacity() []version[string] {
	return []version[string]{{1, func(host string) raftstore.ConstraintCall { return rulesv1.CallHostCapacity(host) }}}
}

// poolCapacity is about what ends with the instances on a host; TakeSpace demands the same
// rule of pools.
func poolCapacity() []version[string] {
	return []version[string]{{level.Apart, func(host string) raftstore.ConstraintCall { return rulesv3.CallPoolCapacity(host, true) }}}
}

func volumeOnce() []version[string] {
	return []version[string]{{1, func(key string) raftstore.ConstraintCall { return rulesv1.CallVolumeOnce(key) }}}
}

func migrationSlots() []version[struct{}] {
	return []version[struct{}]{{1, func(struct{}) raftstore.ConstraintCall { return rulesv2.CallMigrationSlots() }}}
}

// placement is what placedSince is about: the namespaces whose instances a decision
// counted, and up to which revision it had seen them.
type placement struct {
	namespaces []string
	revision   uint64
	known      []Known
}

func placedSince() []version[placement] {
	return []version[placement]{{1, func(p placement) raftstore.ConstraintCall {
		var known []rulesv2.Known
		for _, k := range p.known {
			known = append(known, rulesv2.Known{UID: string(k.UID), Host: k.Host})
		}
		return rulesv2.CallPlacedSince(p.namespaces, p.revision, known)
	}}}
}
