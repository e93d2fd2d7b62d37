package claims

import (
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims/rulesv1"
	"virtmesh/agent/claims/rulesv2"
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
// could not be replayed. All of them are in the first release, so none needs a feature
// level.
func Rules() []raftstore.Constraint { return append(rulesv1.Rules(), rulesv2.Rules()...) }

// demandOnce returns the call of the newest version of RuleVMIOnce.
func demandOnce(uid types.UID) raftstore.ConstraintCall { return rulesv2.CallVMIOnce(string(uid)) }
