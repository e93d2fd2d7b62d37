package objects_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

// raw reads a stored object as JSON.
func raw(t *testing.T, s objects.Store, storeKey string) objects.Raw {
	t.Helper()
	rec, _, err := s.Get(t.Context(), storeKey, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := objects.DecodeRaw(rec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A host that does not know a kind, or a field, must not lose it when it writes back.
func TestRawKeepsWhatThisProgramDoesNotKnow(t *testing.T) {
	eachStore(t, func(t *testing.T, s objects.Store) {
		const key = "/registry/example.org/things/ns/a"
		commit(t, s, func(tx *objects.Tx) {
			tx.Put(key, []byte(`{"apiVersion":"example.org/v1","kind":"Thing","metadata":{"name":"a","namespace":"ns","finalizers":["x/y"]},"spec":{"future":[1,2.5,9007199254740993]}}`))
		})
		r := raw(t, s, key)
		r.SetLabels(map[string]string{"touched": "yes"})
		commit(t, s, func(tx *objects.Tx) { tx.UpdateRaw(r) })
		back := raw(t, s, key)
		future, _, err := unstructured.NestedSlice(back.Object, "spec", "future")
		if want := []any{int64(1), 2.5, int64(9007199254740993)}; err != nil || !reflect.DeepEqual(future, want) || back.GetLabels()["touched"] != "yes" {
			t.Errorf("it came back as %v (%v), want %v", back.Object, err, want)
		}
		var tx objects.Tx
		tx.UpdateRaw(r) // read before the update
		if _, err := tx.Commit(t.Context(), s); !objects.LostRace(err) {
			t.Errorf("a write over a newer version: %v", err)
		}
	})
}

func TestRawDeletionHonoursFinalizers(t *testing.T) {
	s := objectstest.New()
	held, free := newVMI("held"), newVMI("free")
	held.Finalizers = []string{"x/y"}
	commit(t, s, func(tx *objects.Tx) { tx.Create(held); tx.Create(free) })
	prefix := objects.KindFor[*kubevirtv1.VirtualMachineInstance]().Prefix() + "ns/"
	commit(t, s, func(tx *objects.Tx) {
		tx.DeleteRaw(raw(t, s, prefix+"held"))
		tx.DeleteRaw(raw(t, s, prefix+"free"))
	})
	if keys := s.Keys(prefix); len(keys) != 1 || keys[0] != prefix+"held" {
		t.Fatalf("left %v, want the one with a finalizer", keys)
	}
	r := raw(t, s, prefix+"held")
	if r.GetDeletionTimestamp() == nil || get(t, s, "held").DeletionTimestamp == nil {
		t.Error("it is not marked as being deleted")
	}
	r.SetFinalizers(nil)
	commit(t, s, func(tx *objects.Tx) { tx.UpdateRaw(r) })
	if keys := s.Keys(prefix); len(keys) != 0 {
		t.Errorf("left %v after the last finalizer", keys)
	}
	for _, bad := range []string{"", "null", "[]", "{", `"text"`} {
		if _, err := objects.DecodeRaw(raftstore.Record{Key: prefix + "bad", Value: []byte(bad)}); err == nil || !strings.Contains(err.Error(), prefix+"bad") {
			t.Errorf("%q is decoded: %v", bad, err)
		}
	}
}

func TestRequirementsOfATransaction(t *testing.T) {
	eachStore(t, func(t *testing.T, s objects.Store) {
		witness := newVMI("witness")
		commit(t, s, func(tx *objects.Tx) { tx.Create(witness) })
		old := get(t, s, "witness")
		write := func(build func(tx *objects.Tx)) error {
			var tx objects.Tx
			build(&tx)
			tx.Put("/claims/x", []byte(time.Now().String()))
			_, err := tx.Commit(t.Context(), s)
			return err
		}
		if err := write(func(tx *objects.Tx) { tx.Unchanged(old); tx.Unchanged(old) }); err != nil {
			t.Errorf("while it is unchanged: %v", err)
		}
		if err := write(func(tx *objects.Tx) { tx.Require("/claims/none", 0) }); err != nil {
			t.Errorf("while there is none: %v", err)
		}
		if err := write(func(tx *objects.Tx) { tx.Require("/claims/x", 0) }); !objects.LostRace(err) || !strings.Contains(err.Error(), "the record /claims/x") {
			t.Errorf("a record that is there: %v; want a lost race that names it", err)
		}
		setPhase(t, s, "witness", kubevirtv1.Running)
		if err := write(func(tx *objects.Tx) { tx.Unchanged(old) }); !objects.LostRace(err) || !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `virtualmachineinstances.kubevirt.io "witness"`) {
			t.Errorf("after it has changed: %v; want a conflict that names it", err)
		}
		if err := write(func(tx *objects.Tx) { tx.Unchanged(newVMI("unread")) }); err == nil || !strings.Contains(err.Error(), "was not read") {
			t.Errorf("an object that was never read: %v", err)
		}
		mine := errors.New("mine")
		if err := write(func(tx *objects.Tx) { tx.Fail(mine) }); !errors.Is(err, mine) {
			t.Errorf("a transaction that its builder gave up: %v", err)
		}
		// Requirements alone are no reason to ask the store.
		var tx objects.Tx
		tx.Require("/claims/x", 12345)
		if res, err := tx.Commit(t.Context(), s); !tx.Empty() || err != nil || res.Revision != 0 {
			t.Errorf("without a write: %+v, %v", res, err)
		}
	})
}

// A rule that several parts of a transaction demand is judged once for each set of
// arguments.
func TestTheSameDemandTwiceIsOne(t *testing.T) {
	var calls []string
	s := objectstest.New(raftstore.Constraint{Name: "rule", Version: 1, Check: func(_ raftstore.View, _ *raftstore.Txn, args []byte) error {
		calls = append(calls, string(args))
		return nil
	}})
	commit(t, s, func(tx *objects.Tx) {
		tx.Put("/claims/x", nil)
		for _, args := range []string{"a", "b", "a", "a"} {
			tx.Demand(raftstore.ConstraintCall{Name: "rule", Version: 1, Args: []byte(args)})
		}
	})
	if strings.Join(calls, " ") != "a b" {
		t.Errorf("judged %v, want a and b once each", calls)
	}
}

// Objects in a cache are shared: no helper writes to what a copy has in common with the
// original.
func TestFinalizersOfACopyAreItsOwn(t *testing.T) {
	shared := newVMI("a")
	shared.Finalizers = append(make([]string, 0, 8), "one", "two", "three")
	list := shared.Finalizers[:3:3]
	shallow := *shared
	if !objects.AddFinalizer(&shallow, "four") || !objects.RemoveFinalizer(&shallow, "one") {
		t.Error("nothing changed")
	}
	if got := strings.Join(list, " "); got != "one two three" || len(shared.Finalizers) != 3 {
		t.Errorf("the original has %v", shared.Finalizers)
	}
	if full := shared.Finalizers[:cap(shared.Finalizers)]; full[3] != "" {
		t.Errorf("the original's memory was written: %v", full)
	}
	if objects.AddFinalizer(&shallow, "four") || objects.RemoveFinalizer(&shallow, "one") {
		t.Error("what is done is done again")
	}
	if got := strings.Join(shallow.Finalizers, " "); got != "two three four" {
		t.Errorf("the copy has %q", got)
	}
}

func TestCodecKeepsObjectsApart(t *testing.T) {
	codec := objects.CodecOf(objects.KindFor[*corev1.Secret]())
	secret := newSecret("x")
	secret.ResourceVersion = "7"
	before := secret.DeepCopy()
	stored, err := codec.Encode(secret)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := codec.EncodeCopy(secret)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(secret, before) {
		t.Errorf("encoding changed the object to %+v", secret)
	}
	// What the target had is not mixed with what is decoded.
	into := &corev1.Secret{StringData: map[string]string{"old": "value"}, Type: "old"}
	if err := codec.Decode(copied, into); err != nil || into.Kind != "Secret" || into.ResourceVersion != "7" {
		t.Fatalf("%+v, %v", into, err)
	}
	into.TypeMeta = metav1.TypeMeta{}
	if !reflect.DeepEqual(into, before) {
		t.Errorf("decoded %+v, want %+v", into, before)
	}
	if err := codec.Decode(stored, into); err != nil || into.ResourceVersion != "" {
		t.Errorf("the stored form has revision %q, %v", into.ResourceVersion, err)
	}
	var none *corev1.Secret
	for name, obj := range map[string]kinds.Object{"another kind": newVMI("a"), "nothing": none} {
		if _, err := codec.Encode(obj); err == nil || !strings.Contains(err.Error(), "encode Secret") {
			t.Errorf("%s is encoded as a secret: %v", name, err)
		}
	}
	if _, err := objects.Decode[*corev1.Secret](raftstore.Record{Key: secretKey, Value: []byte(`{"data":1}`)}); err == nil || !strings.Contains(err.Error(), secretKey) {
		t.Errorf("a damaged record: %v; want an error that names it", err)
	}
	secret.ResourceVersion = "now"
	if _, err := objects.Revision(secret); err == nil || !strings.Contains(err.Error(), `"now"`) {
		t.Errorf("a revision that is no number: %v", err)
	}
}

// The times of a condition say when its status changed; repeating it writes nothing.
func TestNodeConditionKeepsItsTimes(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	node := &corev1.Node{}
	ready := func(status corev1.ConditionStatus, reason string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: corev1.NodeReady, Status: status, Reason: reason}
	}
	if got := objects.NodeCondition(node, corev1.NodeReady); got != (corev1.NodeCondition{}) {
		t.Errorf("a node without conditions has %+v", got)
	}
	for i, step := range []struct {
		condition corev1.NodeCondition
		changedAt time.Duration // since start
	}{
		{ready(corev1.ConditionTrue, "a"), 0},
		{ready(corev1.ConditionTrue, "a"), 0},
		{ready(corev1.ConditionTrue, "b"), 0},
		{ready(corev1.ConditionUnknown, "b"), 3 * time.Minute},
		{ready(corev1.ConditionUnknown, "c"), 3 * time.Minute},
		{ready(corev1.ConditionTrue, "c"), 5 * time.Minute},
	} {
		objects.SetNodeCondition(node, step.condition, start.Add(time.Duration(i)*time.Minute))
		got := objects.NodeCondition(node, corev1.NodeReady)
		want := metav1.NewTime(start.Add(step.changedAt).Truncate(time.Second))
		if got.Status != step.condition.Status || got.Reason != step.condition.Reason || !got.LastTransitionTime.Equal(&want) || !got.LastHeartbeatTime.Equal(&want) {
			t.Errorf("step %d: %+v, want it changed at %s", i, got, want)
		}
	}
	objects.SetNodeCondition(node, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}, start)
	if len(node.Status.Conditions) != 2 || node.Status.Conditions[0].Type != corev1.NodeReady {
		t.Errorf("another condition: %+v", node.Status.Conditions)
	}
}
