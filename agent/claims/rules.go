package claims

import (
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims/rulesv1"
	"virtmesh/agent/claims/rulesv2"
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
)

// Rules returns the constraints that a store with claims must have: all versions of all
// rules. A version that was ever demanded must stay: without it, a log that names it
// could not be replayed.
func Rules() []raftstore.Constraint { return append(rulesv1.Rules(), rulesv2.Rules()...) }

// version is a version of a rule, and the feature level from which on it is demanded. A
// replica that does not know a version halts when the log names it, so a new version waits
// for a level that only versions of the program with it know.
type version[Args any] struct {
	since uint32
	call  func(Args) raftstore.ConstraintCall
}

// newest returns the newest of a rule's versions, which are in order, that a mesh at a
// feature level may demand.
func newest[Args any](level uint32, versions []version[Args]) version[Args] {
	chosen := versions[0]
	for _, v := range versions {
		if v.since <= level {
			chosen = v
		}
	}
	return chosen
}

// demand makes a transaction demand a rule, in the version that fits the feature level of
// the mesh when it is committed.
func demand[Args any](tx *objects.Tx, versions []version[Args], args Args) {
	tx.DemandByLevel(func(level uint32) raftstore.ConstraintCall { return newest(level, versions).call(args) })
}

// The versions of each rule that are still demanded. Whoever adds one names its feature
// level here, in agent/level, and as raftstore.Constraint.FeatureLevel in its package.

func vmiOnce() []version[types.UID] {
	return []version[types.UID]{{1, func(uid types.UID) raftstore.ConstraintCall { return rulesv2.CallVMIOnce(string(uid)) }}}
}

func hostCapacity() []version[string] {
	return []version[string]{{1, func(host string) raftstore.ConstraintCall { return rulesv1.CallHostCapacity(host) }}}
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
