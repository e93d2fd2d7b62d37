package rulesv1

import (
	"encoding/json"
	"fmt"

	"virtmesh/raftstore"
)

// Arguments of the rules.
type (
	hostArgs   struct{ Hosts []string }
	vmiArgs    struct{ UIDs []string }
	volumeArgs struct{ Keys []string }
	slotArgs   struct{ Total, PerSource int }
	sinceArgs  struct {
		Namespaces []string
		Revision   uint64
		Known      []Known
	}
)

// Known is an instance and the host on which a decision counted it.
type Known struct {
	UID  string
	Host string
}

// CallHostCapacity demands that the claims on each of the hosts are within its capacity.
func CallHostCapacity(hosts ...string) raftstore.ConstraintCall {
	return call(HostCapacity, 1, hostArgs{hosts})
}

// CallVMIOnce demands that each of the instances has claims on exactly the hosts that its
// record names, under an epoch of its own.
func CallVMIOnce(uids ...string) raftstore.ConstraintCall {
	return call(VMIOnce, 2, vmiArgs{uids})
}

// CallVolumeOnce demands that the volumes whose records have these keys have no holder
// too many.
func CallVolumeOnce(keys ...string) raftstore.ConstraintCall {
	return call(VolumeOnce, 1, volumeArgs{keys})
}

// CallPlacedSince demands that no instance was placed in the namespaces after the
// revision, except those that are known.
func CallPlacedSince(namespaces []string, revision uint64, known []Known) raftstore.ConstraintCall {
	return call(PlacedSince, 1, sinceArgs{namespaces, revision, known})
}

// CallMigrationSlots demands that no more migrations run than total, and no more than
// perSource from one host.
func CallMigrationSlots(total, perSource int) raftstore.ConstraintCall {
	return call(MigrationSlots, 1, slotArgs{total, perSource})
}

func call(rule string, version uint32, args any) raftstore.ConstraintCall {
	b, err := json.Marshal(args)
	if err != nil {
		panic(fmt.Sprintf("rulesv1: encode %T: %v", args, err)) // the types above can be encoded
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
