package objects_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/usage"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// Quotas are the planner that these tests plan with.

func newRaft(t *testing.T) *raftstore.Store {
	return raftstoretest.New(t, raftstoretest.WithConfig(func(c *raftstore.Config) { c.FeatureLevel = level.Known() }))
}

func config(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func tryCreate(ctx context.Context, s objects.Store, o objects.Object) error {
	var tx objects.Tx
	tx.Create(o)
	_, err := tx.Commit(ctx, s)
	return err
}

// limit gives the namespace a quota of so many ConfigMaps, and says that it is counted.
func limit(t *testing.T, s objects.Store, n string) {
	t.Helper()
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"}}
	quota.Spec.Hard = corev1.ResourceList{corev1.ResourceConfigMaps: resource.MustParse(n)}
	commit(t, s, func(tx *objects.Tx) { tx.Create(quota) })
	record := usageOf(t, s)
	record.Counts = 1
	commit(t, s, func(tx *objects.Tx) { objects.PutValue(tx, usage.Key("ns"), record) })
}

func usageOf(t *testing.T, s objects.Store) usage.Record {
	t.Helper()
	rec, _, err := s.Get(t.Context(), usage.Key("ns"), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	record, err := usage.Decode(rec.Value)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func usedMaps(t *testing.T, s objects.Store) int64 {
	t.Helper()
	n := usageOf(t, s).Used["count/configmaps"]
	return n.Value()
}

// Whoever writes, and however, writes what is planned in the same transaction: alone, several at
// once, as JSON, by the last finalizer.
func TestEveryWriteIsPlanned(t *testing.T) {
	s := objects.FromRaft(newRaft(t), nil)
	limit(t, s, "3")
	before := s.Revision()
	held := config("held")
	held.Finalizers = []string{"a/b"}
	commit(t, s, func(tx *objects.Tx) { tx.Create(config("a")); tx.Create(held) })
	if got := usedMaps(t, s); got != 2 || s.Revision() != before+3 {
		t.Errorf("%d used after %d revisions, want 2 by one write of the record", got, s.Revision()-before)
	}
	err := tryCreate(t.Context(), s, config("b"))
	if err != nil || usedMaps(t, s) != 3 {
		t.Errorf("the third: %v", err)
	}
	err = tryCreate(t.Context(), s, config("c"))
	want := `configmaps "c" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=3, limited: configmaps=3`
	if !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), want) || fault.CodeOf(err) != fault.Forbidden {
		t.Errorf("the fourth: %v", err)
	}
	raw := func(name string) objects.Raw {
		rec, _, err := s.Get(t.Context(), kinds.For[*corev1.ConfigMap]().StoreKey(objects.Key{Namespace: "ns", Name: name}), raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := objects.DecodeRaw(rec)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	commit(t, s, func(tx *objects.Tx) { tx.DeleteRaw(raw("a")); tx.DeleteRaw(raw("held")) })
	if got := usedMaps(t, s); got != 2 {
		t.Errorf("%d used, want 2: one is gone, and one only marked", got)
	}
	commit(t, s, func(tx *objects.Tx) {
		last := raw("held")
		last.SetFinalizers(nil)
		tx.UpdateRaw(last)
	})
	if got := usedMaps(t, s); got != 1 {
		t.Errorf("%d used, want 1", got)
	}
}

// A write that does not say what was there cannot be planned, and is refused.
func TestUnconditionalWritesAreNotPlanned(t *testing.T) {
	s := objects.FromRaft(newRaft(t), nil)
	var tx objects.Tx
	tx.Put(kinds.For[*corev1.ConfigMap]().StoreKey(objects.Key{Namespace: "ns", Name: "a"}), []byte("{}"))
	if _, err := tx.Commit(t.Context(), s); err == nil {
		t.Error("an object is written past its planners")
	}
}

// A rehearsal says what the write would, and changes nothing.
func TestRehearsal(t *testing.T) {
	s := objects.FromRaft(newRaft(t), nil)
	limit(t, s, "1")
	kind := kinds.For[*corev1.ConfigMap]()
	rehearse := func(name string) error {
		value, err := objects.Encode(config(name))
		if err != nil {
			t.Fatal(err)
		}
		key := kind.StoreKey(objects.Key{Namespace: "ns", Name: name})
		return s.Rehearse(t.Context(), raftstore.Txn{If: []raftstore.Condition{{Key: key}}, Ops: []raftstore.Op{{Key: key, Value: value}}})
	}
	before := s.Revision()
	if err := rehearse("a"); err != nil || s.Revision() != before || usedMaps(t, s) != 0 {
		t.Errorf("the rehearsal of the first: %v", err)
	}
	if err := tryCreate(t.Context(), s, config("a")); err != nil {
		t.Fatal(err)
	}
	if err := rehearse("b"); !apierrors.IsForbidden(err) {
		t.Errorf("the rehearsal of the second: %v", err)
	}
}

// meddled is a store in which others change the record before commits.
type meddled struct {
	*raftstore.Store
	times int // how often they still do
	add   func()
}

func (m *meddled) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	if m.times > 0 {
		m.times--
		m.add()
	}
	return m.Store.Commit(ctx, t)
}

// If others change what was planned with, the planner plans anew; if they never stop, the write
// ends as a conflict, and never as if the object itself was there.
func TestPlansAreMadeAnew(t *testing.T) {
	raft := newRaft(t)
	other := objects.FromRaft(raft, nil)
	limit(t, other, "100")
	n := int64(0)
	m := &meddled{Store: raft, add: func() {
		n++
		if err := tryCreate(t.Context(), other, config(fmt.Sprint("other-", n))); err != nil {
			t.Error(err)
		}
	}}
	s := objects.FromRaft(m, nil)
	m.times = 3
	if err := tryCreate(t.Context(), s, config("mine")); err != nil || n != 3 || usedMaps(t, s) != n+1 {
		t.Errorf("%v, and %d used after %d others", err, usedMaps(t, s), n)
	}
	m.times = 1
	if err := tryCreate(t.Context(), s, config("mine")); !apierrors.IsAlreadyExists(err) {
		t.Errorf("one that is there: %v", err)
	}
	m.times = 1000
	if err := tryCreate(t.Context(), s, config("never")); !apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		t.Errorf("without end: %v", err)
	}
	if got := usedMaps(t, other); got != n+1 || m.times < 900 {
		t.Errorf("%d used, want %d, and %d tries", got, n+1, 1000-m.times)
	}
}

// What one host refuses by what it has seen is asked again of the whole mesh first.
func TestARefusalIsConfirmed(t *testing.T) {
	raft := newRaft(t)
	s := objects.FromRaft(raft, nil)
	limit(t, s, "1")
	if err := tryCreate(t.Context(), s, config("a")); err != nil {
		t.Fatal(err)
	}
	full, _, err := raft.Get(t.Context(), usage.Key("ns"), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := objects.Get[*corev1.ConfigMap](t.Context(), s, objects.Key{Namespace: "ns", Name: "a"}, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, func(tx *objects.Tx) { tx.Delete(a, objects.DeleteOptions{}) })
	behind := objects.FromRaft(&lagging{Store: raft, old: full}, nil)
	if err := tryCreate(t.Context(), behind, config("b")); err != nil {
		t.Errorf("there is room: %v", err)
	}
}

// lagging is a replica that has an old record.
type lagging struct {
	*raftstore.Store
	old raftstore.Record
}

func (l *lagging) Get(ctx context.Context, key string, o raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	if key == l.old.Key && o.Consistency == raftstore.Local {
		return l.old, l.old.ModRevision, nil
	}
	return l.Store.Get(ctx, key, o)
}
