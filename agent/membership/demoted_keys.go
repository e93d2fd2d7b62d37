package membership

import (
	"context"
	"fmt"
	"slices"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

const (
	// replacesKeysFrom is the feature level from which on the mesh replaces such keys by itself.
	replacesKeysFrom = level.Access
	// demotedGrace is how long after a host lost its vote by the administrator's word the mesh
	// replaces the keys that the host has had: time to take the word back.
	demotedGrace = time.Hour
	// replacementPause is how long after an attempt to replace the CA that failed the next one
	// is made.
	replacementPause = time.Hour
)

// keyView is what the leader knows when it decides whether to replace keys that demoted voters
// have had.
type keyView struct {
	// demoted is the record of the demoted voters; voters vote now.
	demoted []identity.DemotedVoter
	voters  []string
	// signing is the pin of the CA that signs, empty while the CA is being replaced. active is
	// the key that encrypts Secrets, empty while another one is about to.
	signing, active string
	now             time.Time
}

// keyReplacement names the host because of which each key is to be replaced; empty if that key
// can stay.
type keyReplacement struct {
	ca, secrets string
}

// planKeyReplacement returns which keys are to be replaced. A key that is newer than the
// host's vote is not one that the host has had, so that a replacement is asked for once.
func planKeyReplacement(v keyView) keyReplacement {
	var plan keyReplacement
	for _, host := range v.demoted {
		if slices.Contains(v.voters, host.Host) || v.now.Sub(host.Since) < demotedGrace {
			continue
		}
		if plan.ca == "" && slices.Contains(host.CAPins, v.signing) {
			plan.ca = host.Host
		}
		if plan.secrets == "" && slices.Contains(host.SecretKeys, v.active) {
			plan.secrets = host.Host
		}
	}
	return plan
}

// demotedKeys replaces the keys that demoted voters have had, on the leader.
type demotedKeys struct {
	*Member
}

// replaceDue asks for the replacement of the keys that are due, and reports whether it did. Below
// replacesKeysFrom, and if the administrator keeps the keys, it does nothing.
func (d demotedKeys) replaceDue(ctx context.Context, demoted []identity.DemotedVoter, now time.Time) (bool, error) {
	if len(demoted) == 0 || d.store.FeatureLevel() < replacesKeysFrom {
		return false, nil
	}
	settings, err := readSettings(ctx, d.store)
	if err != nil || kinds.KeepsKeys(settings) {
		return false, err
	}
	view := keyView{demoted: demoted, voters: d.store.Voters(), now: now}
	ca, err := identity.ReadCARecord(ctx, d.store, localRead)
	if err != nil {
		return false, err
	}
	if ca.Stage == "" || ca.Stage == identity.CAReplaced {
		view.signing = ca.InUse()[0].String()
	}
	secrets, _, err := identity.ReadSecretKeys(ctx, d.store, localRead)
	if err != nil {
		return false, err
	}
	if !secrets.Rotate && secrets.Pending() == "" {
		view.active = secrets.Active
	}
	plan := planKeyReplacement(view)
	if plan.secrets != "" {
		return true, d.RotateSecretKey(ctx)
	}
	if plan.ca == "" || d.mustReplaceCA(ctx) != nil { // status says what the CA waits for
		return false, nil
	}
	return d.requestCA(ctx, plan.ca, now)
}

// requestCA asks for another CA because of a host, unless one is on its way, or an attempt has
// failed a short while ago.
func (d demotedKeys) requestCA(ctx context.Context, host string, now time.Time) (bool, error) {
	store := objects.FromRaft(d.records, nil)
	all, _, err := objects.List[*meshv1alpha1.Operation](ctx, store, "", raftstore.ReadOptions{})
	if err != nil {
		return false, fmt.Errorf("list operations: %w", err)
	}
	for _, op := range all {
		replaces := op.Spec.Type == meshv1alpha1.RotateCA || op.Spec.ReplaceCA
		recent := op.Status.Ended != nil && now.Sub(op.Status.Ended.Time) < replacementPause
		if replaces && (!op.Status.Phase.Final() || recent) {
			return false, nil
		}
	}
	_, err = requestOperation(ctx, store, "rotate-ca", meshv1alpha1.OperationSpec{
		Type: meshv1alpha1.RotateCA, Target: meshv1alpha1.CA,
		RequestedBy: fmt.Sprintf("the mesh through %s, since %s may not vote any more", d.config.Name, host),
	})
	if err != nil {
		return false, fmt.Errorf("ask for another CA, since %s may not vote any more: %w", host, err)
	}
	return true, nil
}
