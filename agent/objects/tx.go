package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"virtmesh/agent/kinds"
	"virtmesh/raftstore"
)

// Tx collects writes that are committed all together or not at all. The zero value is
// ready to use. A Tx is used by one goroutine, for one Commit.
//
// Methods that add to the transaction return nothing. The first error is remembered and
// Commit returns it before anything is written.
type Tx struct {
	// Clock is where the times of new and deleted objects come from.
	Clock Clock

	conds       map[string]uint64
	condOrder   []string
	ops         []raftstore.Op
	forms       []form         // of the values of the ops
	opIndex     map[string]int // by key
	constraints []raftstore.ConstraintCall
	byLevel     []func(level uint32) (raftstore.ConstraintCall, bool)
	stored      [][]func(rev uint64) // called with the revision of each op
	err         error
}

// Create adds o, which must not exist yet. It fills in uid, creationTimestamp,
// generation, and a name if generateName is set.
func (t *Tx) Create(o Object) {
	kind, ok := t.kindOf(o)
	if !ok {
		return
	}
	if o.GetName() == "" && o.GetGenerateName() != "" {
		o.SetName(o.GetGenerateName() + randomSuffix(5))
	}
	if o.GetUID() == "" {
		o.SetUID(uuid.NewUUID())
	}
	if created := o.GetCreationTimestamp(); created.IsZero() {
		o.SetCreationTimestamp(metav1.NewTime(t.Clock.Now().Truncate(time.Second)))
	}
	kind.BeginGeneration(o)
	if key, ok := t.storeKey(kind, o); ok {
		t.Require(key, 0)
		t.putObject(key, o)
	}
}

// Update replaces old, as it was read, with o: metadata, spec and status. Immutable
// fields are taken from old, and the generation is incremented if the spec changed.
// Nothing is written if nothing changed. If o is being deleted and has no finalizer
// left, it is deleted.
func (t *Tx) Update(old, o Object) {
	kind, ok := t.kindOf(o)
	if !ok {
		return
	}
	keepIdentity(old, o)
	kind.CountGeneration(o, old)
	t.replaceObject(kind, old, o, o)
}

// UpdateStatus replaces the status of old with that of o and leaves everything else of
// old unchanged, including its generation.
func (t *Tx) UpdateStatus(old, o Object) {
	kind, ok := t.kindOf(o)
	if !ok {
		return
	}
	if !kind.HasStatus() {
		t.fail(fmt.Errorf("%s has no status", kind.GVK.Kind))
		return
	}
	merged := old.DeepCopyObject().(Object)
	reflect.ValueOf(merged).Elem().FieldByName("Status").Set(reflect.ValueOf(o).Elem().FieldByName("Status"))
	t.replaceObject(kind, old, merged, o)
}

// DeleteOptions say what happens to the objects that are owned by the deleted one.
type DeleteOptions struct {
	// Propagation is Background if empty.
	Propagation metav1.DeletionPropagation
}

// Delete deletes old, or, if it has finalizers, marks it as being deleted. For an
// object that is already being deleted it writes nothing.
func (t *Tx) Delete(old Object, opts DeleteOptions) {
	kind, ok := t.kindOf(old)
	if !ok {
		return
	}
	o := old.DeepCopyObject().(Object)
	switch opts.Propagation {
	case metav1.DeletePropagationForeground:
		addFinalizer(o, metav1.FinalizerDeleteDependents)
	case metav1.DeletePropagationOrphan:
		addFinalizer(o, metav1.FinalizerOrphanDependents)
	}
	if !kinds.IsHeld(o) {
		t.removeObject(kind, old)
		return
	}
	kinds.MarkDeleted(o, t.Clock.Now())
	t.replaceObject(kind, old, o, o)
}

// Unchanged makes the transaction fail if o has changed since it was read.
func (t *Tx) Unchanged(o Object) {
	kind, ok := t.kindOf(o)
	if !ok {
		return
	}
	key, ok := t.storeKey(kind, o)
	if !ok {
		return
	}
	rev, err := Revision(o)
	switch {
	case err != nil:
		t.fail(err)
	case rev == 0:
		t.fail(fmt.Errorf("%s %s was not read from the store", kind.GVK.Kind, KeyOf(o)))
	default:
		t.Require(key, rev)
	}
}

// Require makes the transaction fail unless the record at a store key was last changed
// at revision; zero means that it must not exist. It is for packages with store keys
// that are not objects, such as claims.
func (t *Tx) Require(storeKey string, revision uint64) {
	if have, ok := t.conds[storeKey]; ok {
		if have != revision {
			t.fail(fmt.Errorf("%s is required at revision %d and at %d", storeKey, have, revision))
		}
		return
	}
	if t.conds == nil {
		t.conds = map[string]uint64{}
	}
	t.conds[storeKey] = revision
	t.condOrder = append(t.condOrder, storeKey)
}

// Put writes a record that is not an object, without a condition of its own. Repeating
// the same write has no further effect.
func (t *Tx) Put(storeKey string, value []byte) {
	t.addOp(raftstore.Op{Key: storeKey, Value: value}, form{})
}

// Remove deletes a record that is not an object, without a condition of its own.
// Repeating the deletion has no further effect.
func (t *Tx) Remove(storeKey string) {
	t.addOp(raftstore.Op{Key: storeKey, Delete: true}, form{})
}

// Demand adds a constraint that the state after the transaction must satisfy. Repeating
// the same call has no further effect.
func (t *Tx) Demand(c raftstore.ConstraintCall) {
	for _, have := range t.constraints {
		if have.Name == c.Name && have.Version == c.Version && bytes.Equal(have.Args, c.Args) {
			return
		}
	}
	t.constraints = append(t.constraints, c)
}

// DemandByLevel adds the constraint that choose returns for the mesh's feature level at
// the time of the commit, none if it returns false: a rule has several versions, and a newer
// one, or a new rule, waits until every replica knows it.
func (t *Tx) DemandByLevel(choose func(level uint32) (raftstore.ConstraintCall, bool)) {
	t.byLevel = append(t.byLevel, choose)
}

// Fail makes Commit return err. It is for functions that add to a transaction and find
// that they cannot.
func (t *Tx) Fail(err error) { t.fail(err) }

// Empty reports whether the transaction would write nothing.
func (t *Tx) Empty() bool { return len(t.ops) == 0 }

// Commit commits the transaction and fills in the resourceVersion of the objects given
// to Create, Update and UpdateStatus. A transaction that would write nothing is not
// sent, even if it has requirements. A lost race is returned as a Conflict,
// AlreadyExists or NotFound of apimachinery; Refused recognises the refusal by a
// constraint.
func (t *Tx) Commit(ctx context.Context, s Store) (raftstore.TxnResult, error) {
	if t.err != nil {
		return raftstore.TxnResult{}, fmt.Errorf("build transaction: %w", t.err)
	}
	if t.Empty() {
		return raftstore.TxnResult{}, nil
	}
	for _, choose := range t.byLevel {
		if call, ok := choose(s.FeatureLevel()); ok {
			t.Demand(call)
		}
	}
	ops, err := t.keepUnknown(ctx, s)
	if err != nil {
		return raftstore.TxnResult{}, err
	}
	txn := raftstore.Txn{Ops: ops, Constraints: t.constraints}
	for _, key := range t.condOrder {
		txn.If = append(txn.If, raftstore.Condition{Key: key, ModRevision: t.conds[key]})
	}
	res, err := s.Commit(ctx, txn)
	if err != nil {
		return raftstore.TxnResult{}, nameConflict(err)
	}
	for i, rev := range res.OpRevisions {
		for _, tell := range t.stored[i] {
			tell(rev)
		}
	}
	return res, nil
}

// replaceObject writes o over old, or nothing if they are equal. told gets the new
// resourceVersion.
func (t *Tx) replaceObject(kind *Kind, old, o, told Object) {
	key, ok := t.storeKey(kind, o)
	if !ok {
		return
	}
	if KeyOf(old) != KeyOf(o) {
		t.fail(fmt.Errorf("%s %s cannot be renamed to %s", kind.GVK.Kind, KeyOf(old), KeyOf(o)))
		return
	}
	if o.GetDeletionTimestamp() != nil && !kinds.IsHeld(o) {
		t.removeObject(kind, old)
		return
	}
	before, err := Encode(old)
	if err != nil {
		t.fail(err)
		return
	}
	after, err := Encode(o)
	if err != nil {
		t.fail(err)
		return
	}
	if bytes.Equal(before, after) {
		return
	}
	t.Unchanged(old)
	t.addOp(raftstore.Op{Key: key, Value: after}, formOf(kind, before), storeRevision(told))
}

func (t *Tx) removeObject(kind *Kind, old Object) {
	if key, ok := t.storeKey(kind, old); ok {
		t.Unchanged(old)
		t.addOp(raftstore.Op{Key: key, Delete: true}, form{})
	}
}

func (t *Tx) putObject(key string, o Object) {
	b, err := Encode(o)
	if err != nil {
		t.fail(err)
		return
	}
	t.addOp(raftstore.Op{Key: key, Value: b}, form{}, storeRevision(o))
}

func storeRevision(o Object) func(uint64) {
	return func(rev uint64) { o.SetResourceVersion(strconv.FormatUint(rev, 10)) }
}

// addOp appends an operation, whose value has the form; stored is called with its
// revision. Adding the same
// operation twice has the effect of one, because the lists from which transactions are
// built may contain duplicates. Two different operations for one key are an error of
// the caller: the second would silently undo the first.
func (t *Tx) addOp(op raftstore.Op, value form, stored ...func(rev uint64)) {
	i, again := t.opIndex[op.Key]
	if again {
		if have := t.ops[i]; have.Delete != op.Delete || !bytes.Equal(have.Value, op.Value) {
			t.fail(fmt.Errorf("%s is written twice, with different values", op.Key))
			return
		}
		t.stored[i] = append(t.stored[i], stored...)
		return
	}
	if t.opIndex == nil {
		t.opIndex = map[string]int{}
	}
	t.opIndex[op.Key] = len(t.ops)
	t.ops = append(t.ops, op)
	t.forms = append(t.forms, value)
	t.stored = append(t.stored, stored)
}

func (t *Tx) kindOf(o Object) (*Kind, bool) {
	kind, err := KindOf(o)
	if err != nil {
		t.fail(err)
	}
	return kind, err == nil
}

// storeKey checks that o's key is complete and returns its store key.
func (t *Tx) storeKey(kind *Kind, o Object) (string, bool) {
	switch {
	case o.GetName() == "":
		t.fail(fmt.Errorf("%s without a name", kind.GVK.Kind))
	case kind.Namespaced && o.GetNamespace() == "":
		t.fail(fmt.Errorf("%s %s without a namespace", kind.GVK.Kind, o.GetName()))
	case !kind.Namespaced && o.GetNamespace() != "":
		t.fail(fmt.Errorf("%s %s is cluster-scoped but has namespace %s", kind.GVK.Kind, o.GetName(), o.GetNamespace()))
	default:
		return kind.StoreKey(KeyOf(o)), true
	}
	return "", false
}

func (t *Tx) fail(err error) { t.err = errors.Join(t.err, err) }

// keepIdentity restores the fields that no update may change.
func keepIdentity(old, o Object) {
	o.SetUID(old.GetUID())
	o.SetCreationTimestamp(old.GetCreationTimestamp())
	o.SetDeletionTimestamp(old.GetDeletionTimestamp())
	o.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	o.SetResourceVersion(old.GetResourceVersion())
}

// randomSuffix uses no vowels, like generated names in Kubernetes, so that it never
// spells a word.
func randomSuffix(n int) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return string(b)
}
