// Package rulesv3 holds the rule of pools, frozen like those of rulesv1: nothing here may
// change what a rule decides. It imports none of our packages but raftstore, so that each
// package of rules can be read alone.
//
// A host publishes with its capacity how many bytes may be promised on each of its file
// systems. A volume in a pool takes its size there, whether it is written yet or not, and an
// instance takes what ends with it on the file system of the host's state. Pools may share a
// file system, with each other and with the state.
package rulesv3

import (
	"encoding/json"
	"fmt"

	"virtmesh/raftstore"
)

// PoolCapacity is the name of the rule, as it appears in the error of a refused transaction.
const PoolCapacity = "pool-capacity"

// since is the feature level from which on the rule is known.
const since = 4

// Rules returns the rules.
func Rules() []raftstore.Constraint {
	return []raftstore.Constraint{{Name: PoolCapacity, Version: 1, FeatureLevel: since, Check: checkPoolCapacity}}
}

// poolArgs are the file systems of a host on which a transaction takes room: those of the
// pools, and that of the host's state if State is set.
type poolArgs struct {
	Host  string
	Pools []string
	State bool
}

// CallPoolCapacity demands that what is promised on the file systems of the host's pools, and
// on that of its state if state is set, is within its capacity.
func CallPoolCapacity(host string, state bool, pools ...string) raftstore.ConstraintCall {
	args := poolArgs{host, pools, state}
	b, err := json.Marshal(args)
	if err != nil {
		panic(fmt.Sprintf("rulesv3: encode %T: %v", args, err)) // the type above can be encoded
	}
	return raftstore.ConstraintCall{Name: PoolCapacity, Version: 1, Args: b}
}
