package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

// RemovalSteps returns the steps of an operation that removes from the mesh a host that
// is dead and will not come back. The first step checks that the host is dead. store holds the mesh's
// objects. bury finishes the deletion of volume claims whose volumes were on the host's
// disks. tell writes an event about an instance that ends with the host. The last steps replace
// the keys that the host knows, and if it may have the key of the mesh's CA, the CA.
func (m *Member) RemovalSteps(
	op *meshv1alpha1.Operation, store objects.Store, bury func(ctx context.Context, host string) error,
	tell func(vmi *kubevirtv1.VirtualMachineInstance, reason, message string),
) []Step {
	a := administration{Member: m, store: store, duties: burial{bury: bury}, tell: tell}
	host, force := op.Spec.Target, op.Spec.Force
	check := Step{Name: "check that the host is dead", Do: func(ctx context.Context, _ func(done, total int64)) error {
		return a.mustBeRemovable(ctx, host, force)
	}}
	r := a.newRemoval(host)
	r.machine = op.Spec.Machine
	steps := r.steps()
	bar := steps[0].Do
	steps[0].Do = func(ctx context.Context, report func(done, total int64)) error {
		// The check may be out of date: another host may have continued the removal later.
		if err := a.mustBeDead(ctx, host, force); err != nil {
			return err
		}
		if err := a.mustLeaveMajority(host); err != nil {
			return err
		}
		return bar(ctx, report)
	}
	steps = append([]Step{check}, steps...)
	if op.Spec.KeepKeys {
		return steps
	}
	steps = append(steps, m.keysAfterRemoval(op, store)...)
	if op.Spec.ReplaceCA {
		steps = append(steps, m.RotateCASteps(op, store)...)
	}
	return steps
}

// burial implements Bury, the only method of Duties that the removal of another host
// needs.
type burial struct {
	Duties
	bury func(ctx context.Context, host string) error
}

// Bury implements Duties.
func (b burial) Bury(ctx context.Context, host string) error { return b.bury(ctx, host) }

// mustBeRemovable returns an error for a host that is alive, unless it is removed by
// force, and for an unknown host.
func (a administration) mustBeRemovable(ctx context.Context, name string, force bool) error {
	if err := a.mustBeDead(ctx, name, force); err != nil {
		return err
	}
	if err := a.mustLeaveMajority(name); err != nil {
		return err
	}
	return a.newRemoval(name).mustBeKnown(ctx)
}

// mustLeaveMajority returns an error for a voter without which the others are no majority, by
// the local replica. Nobody talks to a host that is barred, so nothing could be decided any
// more, its removal from the voters included. Such a host is alive, or there would be no
// leader; only who insists gets here.
func (a administration) mustLeaveMajority(name string) error {
	voters := a.Member.store.Voters()
	if left := len(voters) - 1; !slices.Contains(voters, name) || 2*left > len(voters) {
		return nil
	}
	return fault.New(fault.Conflict, "%s is one of %d voters: without it nothing could be decided in the mesh", name, len(voters)).About(name).
		WithRemedy("run 'virtmesh agent leave' on it, which hands its vote over; if that cannot be, switch it off and run 'virtmesh agent recover' on another host")
}

// leaveRemedy is what to do with a host that is heard and is to be removed.
const leaveRemedy = "run 'virtmesh agent leave' on it; if it has just been switched off, wait half a minute"

// mustBeDead returns an error for a host that one of two witnesses hears: gossip, and
// the leader of the replicated store. The guests of a removed host are started elsewhere,
// so they would run twice.
func (a administration) mustBeDead(ctx context.Context, name string, force bool) error {
	if force {
		return nil
	}
	if member, ok := a.gossip.Member(name); ok && member.State.Live() && a.peers.records.has(name) {
		return fault.New(fault.Conflict, "%s is %s", name, member.State).About(name).WithRemedy(leaveRemedy)
	}
	silent, err := a.witness.Silent(ctx, name)
	if err != nil {
		return fault.New(fault.Unavailable, "nobody can tell whether %s is dead: %w", name, fault.Of(err)).About(name)
	}
	if !silent {
		return fault.New(fault.Conflict, "%s does not gossip with %s, but the leader has not missed it for long enough: its agent may run", name, a.config.Name).About(name).
			WithRemedy(leaveRemedy)
	}
	return nil
}

// RemoveHost implements admin.Mesh. It creates a removal operation, or finds the one in
// progress, and waits for its end. The operation continues if the caller stops waiting.
func (a administration) RemoveHost(ctx context.Context, request admin.Removal) (*admin.Removed, error) {
	asking, cancel := context.WithTimeout(ctx, admin.Patience)
	defer cancel()
	if err := a.mustBeRemovable(asking, request.Host, request.Force); err != nil {
		return nil, err
	}
	spec := meshv1alpha1.OperationSpec{
		Type: meshv1alpha1.RemoveHost, Target: request.Host, Force: request.Force, KeepKeys: request.KeepKeys, RequestedBy: request.By + " through " + a.config.Name,
	}
	record, err := identity.NewHosts(a.Member.store).Get(asking, request.Host, raftstore.ReadOptions{})
	switch {
	case err == nil:
		spec.Machine = record.ID
	case !errors.Is(err, fault.NoHost): // else an earlier removal got at least that far
		return nil, fmt.Errorf("ask for the removal of %s: %w", request.Host, err)
	}
	keeps, err := a.keepsKeys(asking, request.Host)
	if err != nil {
		return nil, fmt.Errorf("ask for the removal of %s: %w", request.Host, err)
	}
	tokens, err := unusedTokens(asking, identity.NewTokens(a.Member.store))
	if err != nil {
		return nil, fmt.Errorf("ask for the removal of %s: %w", request.Host, err)
	}
	kept := ""
	if keeps && !request.KeepKeys {
		kept = a.whyCAStays(asking)
		spec.ReplaceCA = kept == ""
	}
	key, err := requestOperation(asking, a.store, "remove-"+request.Host, spec)
	if err != nil {
		return nil, fmt.Errorf("ask for the removal of %s: %w", request.Host, err)
	}
	if err := awaitOperation(ctx, a.store, key); err != nil {
		return nil, err
	}
	removed, err := a.removed(ctx, request)
	if err != nil {
		return nil, err
	}
	// The request may have found an operation that had begun when the host still had its vote.
	if op, err := objects.Get[*meshv1alpha1.Operation](ctx, a.store, key, raftstore.ReadOptions{Consistency: raftstore.Local}); err == nil && op.Spec.ReplaceCA {
		removed.CAReplaced, kept = true, ""
	}
	removed.CAKept = kept
	removed.KeepsKeys = keeps || spec.Machine == "" // its vote may be gone already
	if !request.KeepKeys {
		removed.Tokens = tokens
	}
	return removed, nil
}

// keepsKeys reports whether a host may have keys that the removal of a host does not replace by
// itself. A host that is removed has mostly been off for a while, and so has lost its vote to
// another one, but not the keys on its disk. Nothing says for certain that a host never voted.
func (a administration) keepsKeys(ctx context.Context, host string) (bool, error) {
	custody, err := identity.ReadCustody(ctx, a.Member.store, localRead)
	return custody.InState() || a.FeatureLevel() >= level.Succession || slices.Contains(a.Member.store.Voters(), host), err
}

// removed returns what is left to do after a removal.
func (a administration) removed(ctx context.Context, request admin.Removal) (*admin.Removed, error) {
	secrets, err := secretNames(ctx, a.store)
	if err != nil {
		return nil, fmt.Errorf("%s is removed; list the Secrets that it could read: %w", request.Host, err)
	}
	made, err := a.madeBundle(ctx, request.Host)
	if err != nil {
		return nil, fmt.Errorf("%s is removed; %w", request.Host, err)
	}
	return &admin.Removed{KeysReplaced: !request.KeepKeys && mustReplaceKeys(a.FeatureLevel()) == nil, MadeBundle: made, Secrets: secrets}, nil
}

// requestOperation returns the operation that does what spec says: the one in progress, or
// a new one, whose name begins with what. Requests that arrive at the same time get the same
// operation: its name is the next one that is free, and only one of them can create it.
func requestOperation(ctx context.Context, store objects.Store, what string, spec meshv1alpha1.OperationSpec) (objects.Key, error) {
	for {
		all, _, err := objects.List[*meshv1alpha1.Operation](ctx, store, "", raftstore.ReadOptions{})
		if err != nil {
			return objects.Key{}, err
		}
		prefix, next := what+"-", 1
		for _, op := range all {
			asked := op.Spec
			asked.RequestedBy, asked.Cancel, asked.ReplaceCA = spec.RequestedBy, spec.Cancel, spec.ReplaceCA
			same := asked == spec
			if same && !op.Status.Phase.Final() && !op.Spec.Cancel {
				return objects.KeyOf(op), nil
			}
			if number, numbered := strings.CutPrefix(op.Name, prefix); numbered {
				if n, err := strconv.Atoi(number); err == nil && n >= next {
					next = n + 1
				}
			}
		}
		op := &meshv1alpha1.Operation{
			ObjectMeta: metav1.ObjectMeta{Name: prefix + strconv.Itoa(next)},
			Spec:       spec,
		}
		var tx objects.Tx
		tx.Create(op)
		if _, err := tx.Commit(ctx, store); err == nil {
			return objects.KeyOf(op), nil
		} else if !objects.LostRace(err) {
			return objects.Key{}, err
		}
	}
}

// operationPoll is how often awaitOperation reads the operation.
const operationPoll = 200 * time.Millisecond

// awaitOperation waits until the operation has ended. It returns a fault that says why
// the operation did not succeed.
func awaitOperation(ctx context.Context, store objects.Store, key objects.Key) error {
	ticker := time.NewTicker(operationPoll)
	defer ticker.Stop()
	message := ""
	for {
		op, err := objects.Get[*meshv1alpha1.Operation](ctx, store, key, raftstore.ReadOptions{Consistency: raftstore.Local})
		switch {
		case apierrors.IsNotFound(err):
			return fault.New(fault.Conflict, "operation %s was deleted before it ended", key.Name).About(key.Name).WithRemedy("give the command again")
		case err == nil && op.Status.Phase.Final():
			return kinds.OperationError(op)
		case err == nil:
			message = op.Status.Message
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.UnknownOutcome, "operation %s continues (%s): %w", key.Name, message, context.Cause(ctx)).About(key.Name).
				WithRemedy("'virtmesh operation watch " + key.Name + "' follows it")
		case <-ticker.C:
		}
	}
}
