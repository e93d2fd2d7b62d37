// Package rulesv2 holds the versions of rules that live migration needs, frozen like those
// of rulesv1: nothing here may change what a rule decides. It imports none of our packages
// but raftstore, not even rulesv1, so that each package of rules can be read alone.
//
// The target of a migration has an epoch of its own from the moment that room is reserved
// there, and counts as a host that the instance was placed on. The limits on migrations
// are a stored record, so that all who take a slot agree on them.
package rulesv2

import (
	"encoding/json"
	"fmt"

	"virtmesh/raftstore"
)

// Names of the rules, as they appear in the error of a refused transaction.
const (
	VMIOnce        = "vmi-once"
	PlacedSince    = "placed-since"
	MigrationSlots = "migration-slots"
)

// AllNamespaces stands for every namespace in a call of PlacedSince.
const AllNamespaces = "*"

// Rules returns the rules.
func Rules() []raftstore.Constraint {
	return []raftstore.Constraint{
		{Name: VMIOnce, Version: 3, Check: checkVMIOnce},
		{Name: PlacedSince, Version: 2, Check: checkPlacedSince},
		{Name: MigrationSlots, Version: 2, Check: checkMigrationSlots},
	}
}

// Arguments of the rules.
type (
	vmiArgs   struct{ UIDs []string }
	slotArgs  struct{}
	sinceArgs struct {
		Namespaces []string
		Revision   uint64
		Known      []Known
	}
)

// Known is an instance and a host on which a decision counted it.
type Known struct {
	UID  string
	Host string
}

// CallVMIOnce demands that each of the instances has claims on exactly the hosts that its
// record names, under epochs that no other claim of its name has.
func CallVMIOnce(uids ...string) raftstore.ConstraintCall {
	return call(VMIOnce, 3, vmiArgs{uids})
}

// CallPlacedSince demands that no instance of the namespaces got a host or a target after
// the revision, except those that are known.
func CallPlacedSince(namespaces []string, revision uint64, known []Known) raftstore.ConstraintCall {
	return call(PlacedSince, 2, sinceArgs{namespaces, revision, known})
}

// CallMigrationSlots demands that the migrations are within the stored limits.
func CallMigrationSlots() raftstore.ConstraintCall { return call(MigrationSlots, 2, slotArgs{}) }

func call(rule string, version uint32, args any) raftstore.ConstraintCall {
	b, err := json.Marshal(args)
	if err != nil {
		panic(fmt.Sprintf("rulesv2: encode %T: %v", args, err)) // the types above can be encoded
	}
	return raftstore.ConstraintCall{Name: rule, Version: version, Args: b}
}

// decodeArgs reads the arguments of a rule.
func decodeArgs[T any](raw []byte) (T, error) {
	var args T
	if err := json.Unmarshal(raw, &args); err != nil {
		return args, fmt.Errorf("arguments: %w", err)
	}
	return args, nil
}
