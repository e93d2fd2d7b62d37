package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/agent/port/keyring"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// caRotation replaces the CA of the mesh for an operation.
type caRotation struct {
	*Member
	store objects.Store
	// rotation is the UID of the operation.
	rotation string
	// deadline is for how long the CA that is replaced is good for anything after it.
	deadline time.Duration
}

// RotateCASteps returns the steps of an operation that replaces the mesh's CA. Every host goes on
// with them, since what they have done is in the mesh's state. A step ends when every host that
// gossip hears says that it is as the step makes it. Hosts that are off are not waited for: the
// others know them by their keys when they come back.
func (m *Member) RotateCASteps(op *meshv1alpha1.Operation, store objects.Store) []Step {
	r := caRotation{m, store, string(op.UID), time.Duration(op.Spec.DeadlineSeconds) * time.Second}
	if r.deadline <= 0 {
		r.deadline = admin.DefaultCADeadline
	}
	step := func(name string, do func(context.Context, func(done, total int64)) error) Step {
		return Step{Name: name, Do: func(ctx context.Context, report func(done, total int64)) error {
			err := do(ctx, report)
			if errors.Is(err, identity.ErrOtherCARotation) {
				return r.awaitOther(ctx)
			}
			return err
		}}
	}
	var revoked []string
	end := step(stepEndTrust, func(ctx context.Context, report func(done, total int64)) (err error) {
		revoked, err = r.replace(ctx, report)
		return err
	})
	end.Note = func() string { return r.note(revoked) }
	return []Step{
		step("check that the CA can be replaced", func(ctx context.Context, _ func(done, total int64)) error { return r.check(ctx) }),
		step("make the next CA", r.make),
		step("let the hosts trust the next CA", r.give),
		step("sign with the next CA", r.sign),
		end,
	}
}

// check returns a fault if the CA of this mesh cannot be replaced as things are.
func (r caRotation) check(ctx context.Context) error {
	rec, err := identity.ReadCARecord(ctx, r.store, raftstore.ReadOptions{})
	if err != nil || rec.Rotation == r.rotation {
		return err // the replacement goes on
	}
	return r.mustReplaceCA(ctx)
}

// mustReplaceCA returns a fault if the CA of this mesh cannot be replaced as things are.
func (m *Member) mustReplaceCA(ctx context.Context) error {
	if mesh := m.store.FeatureLevel(); mesh < level.Succession {
		return fault.New(fault.Conflict, "the CA of a mesh at feature level %d cannot be replaced: its hosts need not know how to follow", mesh).
			WithRemedy(fmt.Sprintf("raise the mesh's level to %d first: 'virtmesh level raise'", level.Succession))
	}
	custody, err := m.knownCustody(ctx)
	if err != nil {
		return err
	}
	stored, err := identity.ReadCustody(ctx, m.store, localRead)
	if err != nil {
		return err
	}
	good := func(made *identity.BundleMade) bool { return made != nil && made.Recipient != "" }
	remedy := "make a recovery bundle on a voter: 'virtmesh keyring bundle --output FILE'"
	switch {
	case !good(custody.Bundle) && good(stored.Bundle):
		return fault.New(fault.Unavailable, "%s votes, and its keyring does not know the newest recovery bundle yet", m.config.Name).About(m.config.Name).
			WithRemedy("it asks the other voters for it; try again in a few seconds")
	case !good(custody.Bundle):
		return fault.New(fault.Conflict, "the mesh's CA cannot be replaced before there is a recovery bundle that gives back the key of the next one, too").WithRemedy(remedy)
	case custody.InState():
		return fault.New(fault.Conflict, "the key of the mesh's CA is still in the mesh's state, and so would be on every host").
			WithRemedy("it leaves the state once every voter has it, within seconds after a recovery bundle was made; try again, and look at the voters' logs if it stays")
	}
	return nil
}

// make has the leader make the next CA, and waits until every voter has its key and the recovery
// bundle gives it back.
func (r caRotation) make(ctx context.Context, report func(done, total int64)) error {
	if err := r.endOther(ctx, report); err != nil {
		return err
	}
	if err := retryConflicts(func() error { return identity.WantCA(ctx, r.store, r.rotation) }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, keysPatience)
	defer cancel()
	for {
		rec, err := identity.ReadCARecord(ctx, r.store, raftstore.ReadOptions{})
		if err == nil && rec.Rotation != r.rotation {
			return fault.New(fault.Conflict, "%w", identity.ErrOtherCARotation)
		}
		if err == nil && rec.Stage != identity.CAWanted {
			return nil
		}
		if err == nil {
			_, err = r.nextIsSafe(ctx, &rec)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "the next CA is not ready: %w", err).
				WithRemedy("every voter must be on; 'virtmesh status' names them, and their logs say what is missing")
		case <-time.After(keysPoll):
		}
	}
}

// nextIsSafe returns an error unless every voter has the key of the next CA, and vouches that the
// recovery bundle gives it back, and the conditions under which that is still so when a change is
// committed. This host may not vote, and so vouch for nothing that the state says: any host can
// write that.
func (r caRotation) nextIsSafe(ctx context.Context, rec *identity.CARecord) ([]raftstore.Condition, error) {
	next, ok := rec.NextCA()
	if !ok {
		return nil, errors.New("the leader has not made it yet")
	}
	if err := rec.CheckNext(r.identity.CABundle()); err != nil {
		return nil, err
	}
	keeper := r.keyringKeeper()
	_, escrow, err := identity.ReadEscrow(ctx, r.store, raftstore.ReadOptions{})
	if err != nil {
		return nil, err
	}
	if err := keeper.everyVoterHolds(ctx, next); err != nil {
		return nil, err
	}
	err = keeper.everyVoterHas(ctx, "what the recovery bundle needs to give back its key", func(h keyring.Holding) bool { return h.Recovers(next) })
	if err != nil {
		return nil, err
	}
	if !slices.Contains(r.Member.store.Voters(), r.config.Name) {
		return []raftstore.Condition{{Key: escrow.Key, ModRevision: escrow.ModRevision}}, nil
	}
	if !r.identity.HoldsCAKey(next) {
		return nil, errors.New("this host votes and does not hold its key yet")
	}
	return keeper.mustRecover(ctx, identity.Holds{CAPins: []string{next.String()}})
}

// endOther ends a replacement that another operation has begun and that ended after the new CA
// had begun to sign.
func (r caRotation) endOther(ctx context.Context, report func(done, total int64)) error {
	rec, err := identity.ReadCARecord(ctx, r.store, raftstore.ReadOptions{})
	if err != nil || rec.Stage != identity.CASigning || rec.Rotation == r.rotation {
		return err
	}
	if err := r.awaitSigned(ctx, report); err != nil {
		return err
	}
	return retryConflicts(func() error { return identity.ReplaceCA(ctx, r.store, rec.Rotation, time.Now().Add(r.deadline)) })
}

func (r caRotation) give(ctx context.Context, report func(done, total int64)) error {
	err := retryConflicts(func() error {
		rec, err := identity.ReadCARecord(ctx, r.store, raftstore.ReadOptions{})
		if err != nil {
			return err
		}
		if rec.Stage == identity.CAWanted && rec.Rotation == r.rotation {
			if _, err := r.nextIsSafe(ctx, &rec); err != nil { // somebody may have got the vote since
				return err
			}
		}
		next, _ := rec.NextCA()
		return identity.GiveCA(ctx, r.store, r.rotation, next)
	})
	if err != nil {
		return err
	}
	return r.awaitTrust(ctx, report)
}

func (r caRotation) sign(ctx context.Context, report func(done, total int64)) error {
	rec, err := identity.ReadCARecord(ctx, r.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	if rec.Stage == identity.CAWanted && rec.Rotation == r.rotation { // the key of the one that was given is lost
		if err := r.make(ctx, report); err != nil {
			return err
		}
		if err := r.give(ctx, report); err != nil {
			return err
		}
	}
	// A host may have come back since the hosts were last asked.
	if err := r.awaitTrust(ctx, report); err != nil {
		return err
	}
	if err := r.signWithNext(ctx); err != nil {
		return err
	}
	return r.awaitSigned(ctx, report)
}

// signWithNext makes the next CA the one that signs, if its key is safe. That may have changed
// since it was made: who held it may have left, or a recovery bundle may have been made.
func (r caRotation) signWithNext(ctx context.Context) error {
	return retryConflicts(func() error {
		rec, err := identity.ReadCARecord(ctx, r.store, raftstore.ReadOptions{})
		if err != nil {
			return err
		}
		var safe []raftstore.Condition
		if rec.Stage == identity.CAGiven && rec.Rotation == r.rotation {
			if safe, err = r.nextIsSafe(ctx, &rec); err != nil {
				return fault.New(fault.Unavailable, "the next CA must not sign yet: %w", err).
					WithRemedy("every voter must be on; 'virtmesh status' names them, and their logs say what is missing")
			}
		}
		return identity.SignWithNextCA(ctx, r.store, r.rotation, safe...)
	})
}

// replace ends the trust in the CA of before, and with it the join tokens that name that CA. It
// returns their IDs.
func (r caRotation) replace(ctx context.Context, report func(done, total int64)) (revoked []string, err error) {
	if err := r.awaitSigned(ctx, report); err != nil {
		return nil, err
	}
	err = retryConflicts(func() error { return identity.ReplaceCA(ctx, r.store, r.rotation, time.Now().Add(r.deadline)) })
	if err != nil {
		return nil, err
	}
	rec, err := identity.ReadCARecord(ctx, r.store, raftstore.ReadOptions{})
	if err != nil {
		return nil, err
	}
	if revoked, err = identity.NewTokens(r.store).RevokeOthers(ctx, rec.InUse()[0]); err != nil {
		return revoked, err
	}
	return revoked, r.awaitTrust(ctx, report)
}

// note says what the replacement has ended, and what people have to do after it.
func (r caRotation) note(revoked []string) string {
	var notes []string
	if len(revoked) > 0 {
		notes = append(notes, "revoked the join tokens of before that were not used: "+nameSome(revoked))
	}
	rec, err := identity.ReadCARecord(context.Background(), r.Member.store, localRead)
	if err == nil && len(rec.Former) > 0 && !rec.Vouches()[0] {
		notes = append(notes, "the CA of before, of an earlier version, cannot vouch for the new one: make all kubeconfigs anew with 'virtmesh kubeconfig'")
	}
	return strings.Join(notes, "; ")
}

// awaitTrust waits until every host that gossip hears trusts the CAs in the state.
func (r caRotation) awaitTrust(ctx context.Context, report func(done, total int64)) error {
	rec, err := identity.ReadCARecord(ctx, r.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	want := identity.TrustFingerprint(rec.Bundle)
	return r.awaitHosts(ctx, report, "trusts the mesh's CAs", func(f gossip.Facts) bool { return f.Trust == want })
}

// awaitSigned waits until every host that gossip hears has a certificate of the CA that signs.
func (r caRotation) awaitSigned(ctx context.Context, report func(done, total int64)) error {
	rec, err := identity.ReadCARecord(ctx, r.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	signer := rec.InUse()
	if len(signer) == 0 {
		return fmt.Errorf("read %s: no CA signs", identity.KeyCA)
	}
	return r.awaitHosts(ctx, report, "has a certificate of the new CA", func(f gossip.Facts) bool { return f.SignedBy == signer[0].String() })
}

func (r caRotation) awaitHosts(ctx context.Context, report func(done, total int64), what string, done func(gossip.Facts) bool) error {
	ctx, cancel := context.WithTimeout(ctx, keysPatience)
	defer cancel()
	for {
		have, waiting, off := r.peers.byFacts(done)
		report(int64(len(have)), int64(len(have)+len(waiting)))
		if r.peers.haveFollowed(waiting, off) {
			return nil
		}
		select {
		case <-ctx.Done():
			if len(waiting) == 0 {
				return errHearsNobody(ctx, off)
			}
			return fault.New(fault.Unavailable, "not every host that is on %s yet: %s", what, level.NameHosts(waiting)).About(waiting[0]).
				WithRemedy("look at the agent's log there; if it cannot be mended now, stop that agent ('systemctl stop virtmesh'): its guests go on, and it follows when it starts")
		case <-time.After(keysPoll):
		}
	}
}

// awaitOther waits until the replacement that has begun last has ended.
func (r caRotation) awaitOther(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keysPatience)
	defer cancel()
	for {
		rec, err := identity.ReadCARecord(ctx, r.store, raftstore.ReadOptions{})
		if err == nil && rec.Stage == identity.CAReplaced {
			return nil
		}
		if err == nil && hasStopped(ctx, r.store, rec.Rotation) {
			return fault.New(fault.Conflict, "%w and stopped before its end", identity.ErrOtherCARotation).
				WithRemedy("'virtmesh ca rotate' replaces the CA")
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "%w and has not ended yet", identity.ErrOtherCARotation).
				WithRemedy("'virtmesh operation ls' shows it")
		case <-time.After(keysPoll):
		}
	}
}
