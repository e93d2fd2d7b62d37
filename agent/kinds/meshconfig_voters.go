package kinds

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"virtmesh/agent/hostname"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/raftstore"
)

// VoterLimit returns which hosts may vote under the mesh's settings. A nil config stands for
// a mesh without a MeshConfig object.
func VoterLimit(config *meshv1alpha1.MeshConfig) raftstore.VoterLimit {
	if config == nil || config.Spec.Voters == nil {
		return raftstore.VoterLimit{}
	}
	return raftstore.VoterLimit{Nodes: config.Spec.Voters.Hosts, Exclude: config.Spec.Voters.Exclude}
}

// KeepsKeys reports whether the administrator keeps the keys that a host has had that may not
// vote any more. A nil config is as in VoterLimit.
func KeepsKeys(config *meshv1alpha1.MeshConfig) bool {
	return config != nil && config.Spec.Voters != nil && config.Spec.Voters.KeepKeys
}

// wellKept is how many hosts must be allowed to vote, so that one of them can be off.
const wellKept = 3

func validateVoters(path *field.Path, v *meshv1alpha1.Voters) field.ErrorList {
	if v == nil {
		return nil
	}
	errs := append(validateHostNames(path.Child("hosts"), v.Hosts), validateHostNames(path.Child("exclude"), v.Exclude)...)
	for i, name := range v.Exclude {
		if slices.Contains(v.Hosts, name) {
			errs = append(errs, field.Invalid(path.Child("exclude").Index(i), name, "is in spec.voters.hosts, too: take it out of one of the two"))
		}
	}
	return errs
}

func validateHostNames(path *field.Path, names []string) field.ErrorList {
	var errs field.ErrorList
	for i, name := range names {
		if err := hostname.Validate(name); err != nil {
			errs = append(errs, field.Invalid(path.Index(i), name, err.Error()))
		}
		if slices.Contains(names[:i], name) {
			errs = append(errs, field.Duplicate(path.Index(i), name))
		}
	}
	return errs
}

// warnOfVoters says what a limit costs that names too few hosts.
func warnOfVoters(v *meshv1alpha1.Voters) []string {
	if v == nil || len(v.Hosts) == 0 || len(v.Hosts) >= wellKept {
		return nil
	}
	return []string{fmt.Sprintf("spec.voters.hosts names fewer than %d hosts, so %s", wellKept, aloneCosts)}
}

// aloneCosts is what it costs a mesh that one host votes alone.
const aloneCosts = "one votes alone: nothing can be changed while it is off, and if it is lost, only 'virtmesh agent recover' helps"

// WarnOfFewVoters says what it costs that a limit lets too few of a mesh's hosts vote; empty if
// enough may, if the mesh itself has too few hosts, and if none may, which changes nothing.
func WarnOfFewVoters(limit raftstore.VoterLimit, hosts []string) string {
	allowed := 0
	for _, host := range hosts {
		if limit.Allows(host) {
			allowed++
		}
	}
	if len(hosts) < wellKept || allowed == 0 || allowed >= wellKept {
		return ""
	}
	return fmt.Sprintf("spec.voters of the MeshConfig lets %d of %d hosts vote, so %s. Let %d or more vote ('kubectl edit meshconfig mesh')", allowed, len(hosts), aloneCosts, wellKept)
}
