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

// Tx collects writes that happen all together or not at all. The zero value is
// ready to use; a Tx is used by one goroutine, for one Commit.
//
// Methods that build return nothing: the first mistake is remembered and
// returned by Commit, before anything is written.
type Tx struct {
	conds       map[string]uint64
	condOrder   []string
	ops         []raftstore.Op
	opIndex     map[string]int // by key
	constraints []raftstore.ConstraintCall
	stored      [][]func(rev uint64) // what to do with the revision of each op
	err         error
}

// Create adds o, which must not exist yet. It completes o: uid,
// creationTimestamp, generation, and a name if generateName is set.
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
		o.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	}
	kind.BeginGeneration(o)
	if key, ok := t.storeKey(kind, o); ok {
		t.Require(key, 0)
		t.putObject(key, o)
	}
}

// Update replaces old, as it was read, by o: metadata, spec and status. What
// may not change is taken from old, and generation moves if spec did. Nothing
// is written if nothing changed. Removing the last finalizer of an object
// under deletion deletes it.
func (t *Tx) Update(old, o Object) {
	kind, ok := t.kindOf(o)
	if !ok {
		return
	}
	keepIdentity(old, o)
	kind.CountGeneration(o, old)
	t.replace(kind, old, o, o)
}

// UpdateStatus replaces the status of old by that of o and leaves everything
// else of old as it is, generation too.
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
	t.replace(kind, old, merged, o)
}

// DeleteOptions say what happens to the objects that the deleted one owns.
type DeleteOptions struct {
	// Propagation is Background if empty.
	Propagation metav1.DeletionPropagation
}

// Delete removes old, or, if it has finalizers, marks it as being deleted.
// Deleting what is being deleted already writes nothing.
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
		t.remove(kind, old)
		return
	}
	kinds.MarkDeleted(o, time.Now())
	t.replace(kind, old, o, o)
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

// Require makes the transaction fail unless the record at a store key was last
// changed at revision; zero means that it must not exist. For packages that
// own keys beside the objects (claims).
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

// Put writes a record that is not an object, without a condition of its own. The
// same write twice counts once.
func (t *Tx) Put(storeKey string, value []byte) {
	t.op(raftstore.Op{Key: storeKey, Value: value})
}

// Remove deletes a record that is not an object, without a condition of its own.
// The same deletion twice counts once.
func (t *Tx) Remove(storeKey string) {
	t.op(raftstore.Op{Key: storeKey, Delete: true})
}

// Demand adds a constraint that the state after the transaction must hold. The
// same call twice counts once.
func (t *Tx) Demand(c raftstore.ConstraintCall) {
	for _, have := range t.constraints {
		if have.Name == c.Name && have.Version == c.Version && bytes.Equal(have.Args, c.Args) {
			return
		}
	}
	t.constraints = append(t.constraints, c)
}

// Fail makes Commit return err: for packages that add to a transaction and
// find that they cannot.
func (t *Tx) Fail(err error) { t.fail(err) }

// Empty reports whether the transaction would write nothing.
func (t *Tx) Empty() bool { return len(t.ops) == 0 }

// Commit carries the transaction out and fills in the resourceVersion of the
// objects given to Create, Update and UpdateStatus. One that would write
// nothing is not sent, whatever it requires. A lost race is a Conflict,
// AlreadyExists or NotFound of apimachinery; Refused tells a constraint's
// refusal.
func (t *Tx) Commit(ctx context.Context, s Store) (raftstore.TxnResult, error) {
	if t.err != nil {
		return raftstore.TxnResult{}, fmt.Errorf("build transaction: %w", t.err)
	}
	if t.Empty() {
		return raftstore.TxnResult{}, nil
	}
	txn := raftstore.Txn{Ops: t.ops, Constraints: t.constraints}
	for _, key := range t.condOrder {
		txn.If = append(txn.If, raftstore.Condition{Key: key, ModRevision: t.conds[key]})
	}
	res, err := s.Commit(ctx, txn)
	if err != nil {
		return raftstore.TxnResult{}, apiError(err)
	}
	for i, rev := range res.OpRevisions {
		for _, tell := range t.stored[i] {
			tell(rev)
		}
	}
	return res, nil
}

// replace writes o over old, or nothing if they are the same. told learns the
// revision.
func (t *Tx) replace(kind *Kind, old, o, told Object) {
	key, ok := t.storeKey(kind, o)
	if !ok {
		return
	}
	if KeyOf(old) != KeyOf(o) {
		t.fail(fmt.Errorf("%s %s cannot be renamed to %s", kind.GVK.Kind, KeyOf(old), KeyOf(o)))
		return
	}
	if o.GetDeletionTimestamp() != nil && !kinds.IsHeld(o) {
		t.remove(kind, old)
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
	t.op(raftstore.Op{Key: key, Value: after}, storeRevision(told))
}

func (t *Tx) remove(kind *Kind, old Object) {
	if key, ok := t.storeKey(kind, old); ok {
		t.Unchanged(old)
		t.op(raftstore.Op{Key: key, Delete: true})
	}
}

func (t *Tx) putObject(key string, o Object) {
	b, err := Encode(o)
	if err != nil {
		t.fail(err)
		return
	}
	t.op(raftstore.Op{Key: key, Value: b}, storeRevision(o))
}

func storeRevision(o Object) func(uint64) {
	return func(rev uint64) { o.SetResourceVersion(strconv.FormatUint(rev, 10)) }
}

// op appends an operation; stored is called with its revision. The same
// operation twice is one: lists that transactions are built from may name a thing
// twice. Different ones for one key are a mistake of the caller: the second would
// silently undo the first.
func (t *Tx) op(op raftstore.Op, stored ...func(rev uint64)) {
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
	t.stored = append(t.stored, stored)
}

func (t *Tx) kindOf(o Object) (*Kind, bool) {
	kind, err := KindOf(o)
	if err != nil {
		t.fail(err)
	}
	return kind, err == nil
}

// storeKey returns o's key after checking that it is complete.
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

// keepIdentity restores what no update may change.
func keepIdentity(old, o Object) {
	o.SetUID(old.GetUID())
	o.SetCreationTimestamp(old.GetCreationTimestamp())
	o.SetDeletionTimestamp(old.GetDeletionTimestamp())
	o.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	o.SetResourceVersion(old.GetResourceVersion())
}

// randomSuffix avoids vowels, as generated names do, lest it spell a word.
func randomSuffix(n int) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return string(b)
}
