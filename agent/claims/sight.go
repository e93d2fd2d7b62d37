package claims

import (
	"errors"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims/rulesv2"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Some decisions depend on where other instances are: required affinity and
// anti-affinity, and topology spread. They use a view that may be out of date, and two
// of them may be made at the same time. The store cannot repeat the decision, but it
// can check that the view was complete:
//
//   - A decision that counted the instances of a namespace requires that no instance
//     was placed there that the decision has not seen (rule placed-since).
//   - A decision that keeps other instances away writes the guard of the namespaces of
//     those instances, and every placement requires that the guard of its namespace is
//     unchanged. An instance without such rules needs two conditions for this.
//
// So if two decisions could contradict each other, the second one conflicts and is made
// again.

// AllNamespaces stands for every namespace in a Regard.
const AllNamespaces = rulesv2.AllNamespaces

// Sight says which claims a decision has seen.
type Sight struct {
	// Revision is the revision up to which the decision has seen every claim.
	Revision uint64
	// Known are instances that the decision counted although their claims may be newer
	// than Revision: those that the same host has just placed.
	Known []Known
	// Guards are the revisions of the guards that the decision has seen, by namespace.
	Guards map[string]uint64
}

// Known is an instance and the host on which it was counted.
type Known struct {
	UID  types.UID
	Host string
}

// Regard says which instances a decision depends on or restricts.
type Regard struct {
	// Counted are the namespaces whose instances the decision counted.
	Counted []string
	// KeptOut are the namespaces some of whose instances the placed instance keeps
	// away.
	KeptOut []string
}

// Depend makes the placement of an instance, or the reservation for its migration,
// conditional on what its decision saw. It must come after Place or Reserve in the
// transaction, so that a watcher that has seen the guard
// has also seen the claim.
func Depend(tx *objects.Tx, in Instance, r Regard, s Sight) {
	for _, ns := range []string{in.Namespace, AllNamespaces} {
		tx.Require(guardKey(ns), s.Guards[ns])
	}
	for _, ns := range r.KeptOut {
		tx.Require(guardKey(ns), s.Guards[ns])
		objects.PutValue(tx, guardKey(ns), guard{UID: in.UID})
	}
	if len(r.Counted) > 0 {
		var known []Known
		for _, host := range in.Hosts() {
			known = append(known, Known{UID: in.UID, Host: host})
		}
		demand(tx, placedSince(), placement{r.Counted, s.Revision, append(known, s.Known...)})
	}
}

// ForgetGuard deletes the guard of a namespace in which nothing runs or will run.
func ForgetGuard(tx *objects.Tx, namespace string, revision uint64) {
	tx.Require(guardKey(namespace), revision)
	tx.Remove(guardKey(namespace))
}

// Outdated reports whether a placement failed because its decision was based on an
// outdated view, so that it should be made again.
func Outdated(err error) bool {
	if refused, ok := objects.Refused(err); ok {
		return refused.Name == RulePlacedSince
	}
	var conflict *raftstore.ConflictError
	return errors.As(err, &conflict) && strings.HasPrefix(conflict.Key, guardPrefix)
}

// guard says which instance wrote it last; only its revision matters.
type guard struct {
	UID types.UID `json:"uid"`
}

func guardKey(namespace string) string { return guardPrefix + namespace }
