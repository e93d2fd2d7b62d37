package claims

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Decisions that look at where other instances are (required affinity and
// anti-affinity, topology spread) are made on a view that may be old, and two
// of them may be made at once. The store cannot judge them again, but it can
// tell whether the view was complete:
//
//   - Whoever counted the instances of a namespace demands that none was placed
//     there that it has not seen (rule placed-since).
//   - Whoever keeps others away writes the guard of the namespaces it keeps out,
//     and every placement requires the guard of its namespace as it was seen: it
//     costs an instance without rules of its own two conditions.
//
// So of two decisions that could contradict each other, the second conflicts
// and is made anew.

// AllNamespaces stands for every namespace in a Regard.
const AllNamespaces = "*"

// RulePlacedSince refuses a decision that has not seen every instance of the
// namespaces it counted.
const RulePlacedSince = "placed-since"

// Sight is how much a decision has seen of the claims.
type Sight struct {
	// Revision is that up to which every claim was seen.
	Revision uint64
	// Known are instances that were counted although their claims may be newer:
	// what the same host has just decided.
	Known []Known
	// Guards are the revisions of the guards that were seen, by namespace.
	Guards map[string]uint64
}

// Known is an instance, and the host on which it was counted.
type Known struct {
	UID  types.UID
	Host string
}

// Regard is what a decision looked at.
type Regard struct {
	// Counted are the namespaces whose instances it counted.
	Counted []string
	// KeptOut are the namespaces of which the instance keeps some away.
	KeptOut []string
}

// Depend makes the placement of an instance conditional on what its decision
// saw. It follows Place in the transaction: who hears of a guard has then heard
// of the claim.
func Depend(tx *objects.Tx, in Instance, r Regard, s Sight) {
	for _, ns := range []string{in.Namespace, AllNamespaces} {
		tx.Require(guardKey(ns), s.Guards[ns])
	}
	for _, ns := range r.KeptOut {
		tx.Require(guardKey(ns), s.Guards[ns])
		tx.Put(guardKey(ns), encode(guard{UID: in.UID}))
	}
	if len(r.Counted) > 0 {
		known := append(slices.Clone(s.Known), Known{in.UID, in.Host})
		tx.Demand(demand(RulePlacedSince, sinceArgs{r.Counted, s.Revision, known}))
	}
}

// ForgetGuard removes the guard of a namespace in which nothing runs, nor will.
func ForgetGuard(tx *objects.Tx, namespace string, revision uint64) {
	tx.Require(guardKey(namespace), revision)
	tx.Remove(guardKey(namespace))
}

// Outdated reports whether a placement failed because its decision had not seen
// enough, so that it should be made anew.
func Outdated(err error) bool {
	if refused, ok := objects.Refused(err); ok {
		return refused.Name == RulePlacedSince
	}
	var conflict *raftstore.ConflictError
	return errors.As(err, &conflict) && strings.HasPrefix(conflict.Key, guardPrefix)
}

// guard says who wrote it last; its revision is what counts.
type guard struct {
	UID types.UID `json:"uid"`
}

func guardKey(namespace string) string { return guardPrefix + namespace }

type sinceArgs struct {
	Namespaces []string
	Revision   uint64
	Known      []Known
}

// checkPlacedSince: every instance with a claim in the namespaces was placed at
// the revision or before, or is known. It goes by the epochs, which are written
// whenever an instance gets a host, and only then; the room that a migration
// reserves is not told by it before the switch.
func checkPlacedSince(v raftstore.View, _ *raftstore.Txn, raw []byte) error {
	var args sinceArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	for _, ns := range args.Namespaces {
		prefix := epochPrefix
		if ns != AllNamespaces {
			prefix += ns + "/"
		}
		var err error
		v.Ascend(prefix, func(rec raftstore.Record) bool {
			if rec.ModRevision > args.Revision {
				err = args.judge(v, rec)
			}
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// judge refuses an epoch that is newer than the decision's sight.
func (a sinceArgs) judge(v raftstore.View, rec raftstore.Record) error {
	epoch, err := decode[Epoch](rec)
	if err != nil {
		return err
	}
	claim, runs := v.Get(instanceKey(epoch.UID))
	if !runs {
		return nil
	}
	in, err := decode[Instance](claim)
	if err != nil || slices.Contains(a.Known, Known{in.UID, in.Host}) {
		return err
	}
	return fmt.Errorf("instance %s was placed meanwhile", strings.TrimPrefix(rec.Key, epochPrefix))
}
