package membership

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

const (
	// keysPoll is how often a rotation looks which hosts have the keys, by gossip.
	keysPoll = 250 * time.Millisecond
	// keysPatience bounds one attempt of a step of a rotation. A step that waits longer tells
	// for whom, and is tried again.
	keysPatience = time.Minute
)

// GossipRotationSteps returns the steps of an operation that replaces the key that encrypts
// gossip. A step ends when every host that gossip hears says that its keyring is as the step
// makes it. Hosts that are off are not waited for: they ask for the keys when they come back.
func (m *Member) GossipRotationSteps(op *meshv1alpha1.Operation, store objects.Store) []Step {
	rotation := string(op.UID)
	step := func(name string, change func(context.Context, identity.Store, string) error) Step {
		return Step{Name: name, Do: func(ctx context.Context, report func(done, total int64)) error {
			err := retryConflicts(func() error { return change(ctx, store, rotation) })
			if errors.Is(err, identity.ErrOtherRotation) {
				return awaitOtherRotation(ctx, store)
			}
			if err != nil {
				return err
			}
			return m.awaitGossipKeys(ctx, store, report)
		}}
	}
	return []Step{
		{Name: "check the feature level", Do: func(context.Context, func(done, total int64)) error { return mustReplaceKeys(m.store.FeatureLevel()) }},
		step("give the hosts a new gossip key", identity.GiveGossipKey),
		step("encrypt with the new gossip key", identity.UseGossipKey),
		step(stepRefuseOldKey, identity.ReplaceGossipKeys),
	}
}

// awaitOtherRotation waits until the rotation that has begun last has replaced the key.
func awaitOtherRotation(ctx context.Context, store objects.Store) error {
	ctx, cancel := context.WithTimeout(ctx, keysPatience)
	defer cancel()
	for {
		rec, err := identity.ReadGossip(ctx, store, raftstore.ReadOptions{})
		if err == nil && rec.Stage == identity.GossipKeyReplaced {
			return nil
		}
		if err == nil && hasStopped(ctx, store, strings.TrimSuffix(rec.Rotation, barredSuffix)) {
			return fault.New(fault.Conflict, "%w and stopped before its end", identity.ErrOtherRotation).
				WithRemedy("'virtmesh gossip rotate-key' replaces the key")
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "%w and has not ended yet", identity.ErrOtherRotation).
				WithRemedy("'virtmesh operation ls' shows it")
		case <-time.After(keysPoll):
		}
	}
}

// barredSuffix follows the UID of a removal in the name of the rotation that only shows who has
// barred the host.
const barredSuffix = "-barred"

// keysAfterRemoval returns the last steps of a removal: they revoke the join tokens, one of
// which the removed host may have made for itself, and replace the keys that it knows. Below
// the level for that they replace none. A host that lags may still feed the
// removed one, and would tell it the next key; so there is another key before it, which nobody
// ever uses: who has taken that one has learned of the removal first, and has cut off the host.
func (m *Member) keysAfterRemoval(op *meshv1alpha1.Operation, store objects.Store) []Step {
	barred := Step{Name: "wait until every host has barred the host", Do: func(ctx context.Context, report func(done, total int64)) error {
		rec, err := identity.ReadGossip(ctx, store, raftstore.ReadOptions{})
		if err != nil {
			return err
		}
		if rec.Rotation == string(op.UID) {
			return nil // the replacement goes on
		}
		if err := retryConflicts(func() error { return identity.GiveGossipKey(ctx, store, string(op.UID)+barredSuffix) }); err != nil {
			return err
		}
		return m.awaitGossipKeys(ctx, store, report)
	}}
	steps := append([]Step{barred}, m.GossipRotationSteps(op, store)[1:]...)
	for i, step := range steps {
		steps[i].Do = func(ctx context.Context, report func(done, total int64)) error {
			if mustReplaceKeys(m.store.FeatureLevel()) != nil {
				return nil
			}
			return step.Do(ctx, report)
		}
	}
	return append([]Step{revokeTokens(store)}, steps...)
}

// revokeTokens returns the step that revokes all join tokens that were not used.
func revokeTokens(store identity.Store) Step {
	tokens := identity.NewTokens(store)
	var revoked []string
	return Step{
		Name: stepRevoke,
		Do: func(ctx context.Context, _ func(done, total int64)) error {
			unused, err := unusedTokens(ctx, tokens)
			for _, id := range unused {
				if err := tokens.Revoke(ctx, id); err != nil && !errors.Is(err, fault.TokenInvalid) {
					return err
				}
				revoked = append(revoked, id)
			}
			return err
		},
		Note: func() string {
			if len(revoked) == 0 {
				return ""
			}
			return "revoked " + nameSome(revoked)
		},
	}
}

// unusedTokens returns the IDs of the join tokens that were not used.
func unusedTokens(ctx context.Context, tokens *identity.Tokens) (ids []string, err error) {
	all, err := tokens.List(ctx)
	for _, token := range all {
		if token.UsedBy == nil {
			ids = append(ids, token.ID)
		}
	}
	return ids, err
}

// mustReplaceKeys returns an error if hosts of a mesh may not know how to follow its keys.
func mustReplaceKeys(mesh uint32) error {
	if mesh >= level.Apart {
		return nil
	}
	return fault.New(fault.Conflict, "the keys of a mesh at feature level %d cannot be replaced: its hosts need not know how to follow", mesh).
		WithRemedy(fmt.Sprintf("raise the mesh's level to %d first: 'virtmesh level raise'", level.Apart))
}

// awaitGossipKeys waits until every host that gossip hears has the keys in the state.
func (m *Member) awaitGossipKeys(ctx context.Context, store identity.Store, report func(done, total int64)) error {
	ctx, cancel := context.WithTimeout(ctx, keysPatience)
	defer cancel()
	rec, err := identity.ReadGossip(ctx, store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	for {
		have, waiting, off := m.peers.withKeys(rec.Keys)
		report(int64(len(have)), int64(len(have)+len(waiting)))
		if m.peers.haveFollowed(waiting, off) {
			return nil
		}
		select {
		case <-ctx.Done():
			if len(waiting) == 0 {
				return errHearsNobody(ctx, off)
			}
			return fault.New(fault.Unavailable, "not every host that is on has taken the gossip keys yet: %s", level.NameHosts(waiting)).About(waiting[0]).
				WithRemedy("look at the agent's log there; if it cannot be mended now, stop that agent ('systemctl stop virtmesh'): its guests go on, and it takes the keys when it starts")
		case <-time.After(keysPoll):
		}
	}
}

// errHearsNobody returns the error of a step whose time ended before it was known which hosts are off.
func errHearsNobody(ctx context.Context, off []string) error {
	return fault.New(fault.Unavailable, "this agent has just started and does not hear every host yet (%s): %w", level.NameHosts(off), context.Cause(ctx))
}

// RotateGossipKey implements admin.Mesh. It creates an operation that replaces the key, or
// finds the one in progress, and waits for its end. The operation continues if the caller
// stops waiting.
func (a administration) RotateGossipKey(ctx context.Context, by string) error {
	if err := mustReplaceKeys(a.FeatureLevel()); err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, admin.Patience)
	defer cancel()
	key, err := requestOperation(asking, a.store, "rotate-gossip-key", meshv1alpha1.OperationSpec{
		Type: meshv1alpha1.RotateGossipKey, Target: meshv1alpha1.GossipKey, RequestedBy: by + " through " + a.config.Name,
	})
	if err != nil {
		return fmt.Errorf("ask for another gossip key: %w", err)
	}
	return awaitOperation(ctx, a.store, key)
}

// GossipKeys implements admin.Mesh.
func (a administration) GossipKeys(ctx context.Context) (*admin.GossipKeys, error) {
	rec, err := identity.ReadGossip(ctx, a.Member.store, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nil, fmt.Errorf("read the gossip keys: %w", err)
	}
	status := &admin.GossipKeys{Generation: rec.Generation, Accepted: len(rec.Keys), Stage: string(rec.Stage)}
	status.Have, status.Waiting, status.Off = a.peers.withKeys(rec.Keys)
	return status, nil
}

// withKeys returns the hosts of the mesh by what gossip says of their keys: those that have
// keys, those that have other ones, and those that are off: not heard, or waiting for a usable
// copy of the state, maybe for as long as nobody helps. They ask for the keys when they have one.
func (p *Peers) withKeys(keys [][]byte) (have, waiting, off []string) {
	want := gossip.Fingerprint(keys)
	return p.byFacts(func(f gossip.Facts) bool { return f.Keys == want })
}
