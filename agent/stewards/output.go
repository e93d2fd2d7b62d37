package stewards

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Output is something that a control loop writes.
type Output struct {
	// What is the readable name of the output: a kind, or records that are not
	// objects.
	What string
	// Prefix is the beginning of the store keys of the output.
	Prefix string
	// Acts are the acts that the loop does to the output.
	Acts Act
	// Fields are the fields that an update may change, as paths
	// ("metadata.finalizers"); nil means all of them if Acts holds Update. A
	// loop that may change metadata.finalizers may also remove an object under
	// deletion, because removing the last finalizer removes the object.
	Fields []string
}

// Act is a set of acts on objects: create, update and so on.
type Act uint8

// The acts.
const (
	Create Act = 1 << iota
	Update
	Delete
)

// String names the acts: "create, update".
func (a Act) String() string {
	var names []string
	for act, name := range []string{"create", "update", "delete"} {
		if a&(1<<act) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// finalizersField is the path of the finalizers.
const finalizersField = "metadata.finalizers"

// Writes declares that a loop does acts to objects of the kind T, any field.
func Writes[T objects.Object](acts Act) Output {
	kind := objects.KindFor[T]()
	return Output{What: kind.GVK.Kind, Prefix: kind.Prefix(), Acts: acts}
}

// WritesFields declares that a loop updates these fields of the kind T.
func WritesFields[T objects.Object](fields ...string) Output {
	out := Writes[T](Update)
	out.Fields = fields
	return out
}

// WritesStatus declares that a loop updates the status of the kind T.
func WritesStatus[T objects.Object]() Output { return WritesFields[T]("status") }

// WritesEvents declares that a loop reports events with its transactions.
func WritesEvents() Output { return Writes[*corev1.Event](Create | Update) }

// WritesRecords declares that a loop writes the records, which are not objects,
// below a prefix of store keys.
func WritesRecords(what, prefix string) Output {
	return Output{What: what, Prefix: prefix, Acts: Create | Update | Delete}
}

// AsksFor declares something that changes because the loop asks for it, and not by a
// transaction of the loop's own. The engine cannot check it; it stands in the list of who
// writes what.
func AsksFor(what string) Output { return Output{What: what} }

// DeletionFields returns the fields of an object that change when its deletion
// is requested or completed, if the object is not deleted at once.
func DeletionFields() []string {
	return []string{"metadata.deletionTimestamp", "metadata.deletionGracePeriodSeconds", finalizersField, "status.phase"}
}

// String describes the output in one line.
func (o Output) String() string {
	if o.Fields != nil {
		acts := o.Acts &^ Update
		if acts == 0 {
			return fmt.Sprintf("%s (%s)", o.What, strings.Join(o.Fields, ", "))
		}
		return fmt.Sprintf("%s (%s; %s)", o.What, acts, strings.Join(o.Fields, ", "))
	}
	if o.Acts == 0 || o.Acts == Create|Update|Delete {
		return o.What
	}
	return fmt.Sprintf("%s (%s)", o.What, o.Acts)
}

// judgeOp returns why an op of the transaction is not allowed by any of the
// outputs, or "" if every op is allowed. It does not judge an op on a record
// that the transaction requires at another revision than the local one: that
// transaction has lost a race, and the store refuses it.
func judgeOp(ctx context.Context, store objects.Store, outputs []Output, t raftstore.Txn, op raftstore.Op) (string, error) {
	mine := slices.DeleteFunc(slices.Clone(outputs), func(o Output) bool { return o.Acts == 0 || !strings.HasPrefix(op.Key, o.Prefix) })
	if len(mine) == 0 {
		return "no output holds this key", nil
	}
	if slices.ContainsFunc(mine, func(o Output) bool { return o.Acts == Create|Update|Delete && o.Fields == nil }) {
		return "", nil
	}
	old, _, err := store.Get(ctx, op.Key, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil && !errors.Is(err, raftstore.ErrNotFound) {
		return "", fmt.Errorf("read %s to check what is written: %w", op.Key, err)
	}
	for _, c := range t.If {
		if c.Key == op.Key && c.ModRevision != old.ModRevision {
			return "", nil
		}
	}
	exists := err == nil
	act := Update
	switch {
	case op.Delete:
		act = Delete
	case !exists:
		act = Create
	}
	var fields []string
	for _, o := range mine {
		if o.Acts&act != 0 && (o.Fields == nil || act != Update) {
			return "", nil
		}
		fields = append(fields, o.Fields...)
	}
	if act == Create || len(fields) == 0 || !exists {
		return fmt.Sprintf("it may not %s it", act), nil
	}
	return judgeFields(old, op, fields)
}

// judgeFields returns a field that op changes and that is not among the allowed
// ones.
func judgeFields(old raftstore.Record, op raftstore.Op, allowed []string) (string, error) {
	before, err := objects.DecodeRaw(old)
	if err != nil {
		return "", err
	}
	if op.Delete {
		if slices.Contains(allowed, finalizersField) && before.GetDeletionTimestamp() != nil {
			return "", nil
		}
		return "it may not delete it", nil
	}
	after, err := objects.DecodeRaw(raftstore.Record{Key: op.Key, Value: op.Value})
	if err != nil {
		return "", err
	}
	for _, path := range append([]string{"metadata.generation", "metadata.resourceVersion"}, allowed...) {
		parts := strings.Split(path, ".")
		unstructured.RemoveNestedField(before.Object, parts...)
		unstructured.RemoveNestedField(after.Object, parts...)
	}
	if field := firstDifference("", before.Object, after.Object); field != "" {
		return fmt.Sprintf("it may not change %s, only %s", field, strings.Join(allowed, ", ")), nil
	}
	return "", nil
}

// firstDifference returns the path of a field in which two objects differ, ""
// if there is none. An empty object is the same as none: removing the last
// allowed field leaves one behind.
func firstDifference(path string, a, b map[string]any) string {
	for _, name := range slices.Sorted(keysOf(a, b)) {
		here := strings.TrimPrefix(path+"."+name, ".")
		left, right := a[name], b[name]
		leftMap, leftIs := left.(map[string]any)
		rightMap, rightIs := right.(map[string]any)
		if (leftIs || left == nil) && (rightIs || right == nil) {
			if field := firstDifference(here, leftMap, rightMap); field != "" {
				return field
			}
			continue
		}
		if !reflect.DeepEqual(left, right) {
			return here
		}
	}
	return ""
}

// keysOf yields the keys that are in a or in b, once each.
func keysOf(a, b map[string]any) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for name := range a {
			if !yield(name) {
				return
			}
		}
		for name := range b {
			if _, both := a[name]; !both && !yield(name) {
				return
			}
		}
	}
}
