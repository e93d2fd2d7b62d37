package collect

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// epochInterval is how often unused names are looked for.
const epochInterval = time.Minute

// Epochs forgets the fencing epochs of names that nothing uses any more: no
// machine, no instance and no claim. Each transaction that forgets epochs moves
// the floor, on which placements of new names depend. So one host gathers the
// names and forgets many at once.
//
// The view by which the loop decides may be old. That does no harm: the store
// refuses to forget the epoch of an instance with a claim, and a new instance
// of a forgotten name begins above the floor. The loop also removes the guards
// of namespaces that no longer exist.
type Epochs struct {
	store      objects.Store
	claims     *claims.Cache
	log        *slog.Logger
	vms        *objects.Informer[*kubevirtv1.VirtualMachine]
	vmis       *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	namespaces *objects.Informer[*corev1.Namespace]
	engine     *stewards.Controller
}

// NewEpochs returns a loop that is not yet running.
func NewEpochs(d stewards.Deps) (*Epochs, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	e := &Epochs{
		store: d.Store, claims: d.Claims, log: d.Logger,
		vms:        objects.For[*kubevirtv1.VirtualMachine](d.Cache),
		vmis:       objects.For[*kubevirtv1.VirtualMachineInstance](d.Cache),
		namespaces: objects.For[*corev1.Namespace](d.Cache),
	}
	e.engine, err = stewards.New(d, stewards.Steward{
		Name: "epochs", Workers: 1, Reconciler: stewards.ReconcilerFunc(e.reconcile),
		Inputs: []stewards.Input{
			stewards.Periodic("epochs", "every minute"),
			stewards.ReadsClaims(d.Claims),
			stewards.Reads[*kubevirtv1.VirtualMachine](d.Cache),
			stewards.Reads[*kubevirtv1.VirtualMachineInstance](d.Cache),
			stewards.Reads[*corev1.Namespace](d.Cache),
		},
		Outputs: []stewards.Output{stewards.WritesRecords("claims: epochs, their floor, guards of namespaces", claims.Prefix)},
	})
	return e, err
}

// Declaration returns the steward with its inputs and outputs.
func (e *Epochs) Declaration() stewards.Steward { return e.engine.Declaration() }

// Run forgets unused names until ctx ends.
func (e *Epochs) Run(ctx context.Context) error { return e.engine.Run(ctx) }

// reconcile looks for unused names once.
func (e *Epochs) reconcile(ctx context.Context, _ stewards.Key) (stewards.Result, error) {
	err := e.forgetUnused(ctx)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		e.log.Debug("a name was used again before its epoch could be forgotten", "err", err)
		err = nil
	}
	return stewards.Result{RequeueAfter: epochInterval}, err
}

// forgetUnused forgets up to sweepBatch names. The others wait for the next
// round.
func (e *Epochs) forgetUnused(ctx context.Context) error {
	used := e.usedNames()
	unused := map[objects.Key]claims.Epoch{}
	for key, last := range e.claims.Epochs() {
		if len(unused) == sweepBatch {
			break
		}
		_, claimed := e.claims.Instance(last.UID)
		if !claimed && !used[key] {
			unused[key] = last
		}
	}
	var tx objects.Tx
	claims.ForgetEpochs(&tx, e.claims.Floor(), unused)
	e.forgetGuards(&tx)
	if _, err := tx.Commit(ctx, e.store); err != nil {
		return fmt.Errorf("forget epochs: %w", err)
	}
	return nil
}

// forgetGuards removes the guards of namespaces that do not exist and in which
// nothing runs.
func (e *Epochs) forgetGuards(tx *objects.Tx) {
	guards := e.claims.Guards()
	delete(guards, claims.AllNamespaces)
	if len(guards) == 0 {
		return
	}
	for _, in := range e.claims.Instances() {
		delete(guards, in.Namespace)
	}
	for ns, revision := range guards {
		if !e.namespaces.Has(objects.Key{Name: ns}) {
			claims.ForgetGuard(tx, ns, revision)
		}
	}
}

// usedNames returns the names of all machines and instances. No object is looked at.
func (e *Epochs) usedNames() map[objects.Key]bool {
	used := map[objects.Key]bool{}
	for _, key := range append(e.vms.Keys(), e.vmis.Keys()...) {
		used[key] = true
	}
	return used
}
