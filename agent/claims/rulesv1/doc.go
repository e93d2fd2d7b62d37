// Package rulesv1 holds the first version of the rules that judge claims, frozen: a log
// entry that names one of them must get the same verdict from every later release.
//
// So nothing here may change what a rule decides, and nothing that the rules depend on
// may change either. The package reads records with types of its own and adds and
// compares resources itself; of our packages it imports only raftstore, for the view that
// a rule judges. A rule that must decide otherwise is added as a new version in another
// package, beside this one. The recorded log of agent/claims is judged again by every
// build and shows a change of verdict.
//
// The text of a refusal is for people. It is not part of the verdict and may change.
package rulesv1

import "virtmesh/raftstore"

// Names of the rules, as they appear in the error of a refused transaction.
const (
	HostCapacity   = "host-capacity"
	VMIOnce        = "vmi-once"
	VolumeOnce     = "volume-once"
	PlacedSince    = "placed-since"
	MigrationSlots = "migration-slots"
)

// AllNamespaces stands for every namespace in a call of PlacedSince.
const AllNamespaces = "*"

// Rules returns the rules.
func Rules() []raftstore.Constraint {
	return []raftstore.Constraint{
		{Name: HostCapacity, Version: 1, Check: checkHostCapacity},
		{Name: VMIOnce, Version: 1, Check: checkVMIOnce},
		{Name: VMIOnce, Version: 2, Check: checkVMIOnceAboveFloor},
		{Name: VolumeOnce, Version: 1, Check: checkVolumeOnce},
		{Name: PlacedSince, Version: 1, Check: checkPlacedSince},
		{Name: MigrationSlots, Version: 1, Check: checkMigrationSlots},
	}
}
