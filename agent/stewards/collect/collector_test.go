package collect

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/stewardstest"
	"virtmesh/raftstore"
)

// bench is a collector on a store, in a bubble of fake time.
type bench struct{ *stewardstest.World }

func run(t *testing.T, test func(b bench)) {
	t.Helper()
	stewardstest.Run(t, func(w *stewardstest.World) {
		b := bench{w}
		b.start()
		test(b)
	})
}

func (b bench) start() {
	b.Helper()
	c, err := New(b.Host("h1").Deps)
	b.Check(err)
	b.Run(c.Run)
	synctest.Wait()
}

func (b bench) commit(build func(tx *objects.Tx)) {
	b.Helper()
	b.Commit(build)
	b.Settle()
}

// object is a ConfigMap owned by the named ones ("!name" blocks its deletion).
func (b bench) object(name string, owners ...string) *corev1.ConfigMap {
	o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	for _, owner := range owners {
		blocks := strings.HasPrefix(owner, "!")
		owner = strings.TrimPrefix(owner, "!")
		o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{
			APIVersion: "v1", Kind: "ConfigMap", Name: owner, UID: types.UID(owner), BlockOwnerDeletion: &blocks,
		})
	}
	o.UID = types.UID(name)
	return o
}

func (b bench) create(name string, owners ...string) {
	b.Helper()
	b.commit(func(tx *objects.Tx) { tx.Create(b.object(name, owners...)) })
}

func (b bench) get(name string) *corev1.ConfigMap {
	b.Helper()
	o := stewardstest.Get[*corev1.ConfigMap](b.World, objects.Key{Namespace: "ns", Name: name})
	if o == nil {
		b.Fatalf("%s is gone", name)
	}
	return o
}

func (b bench) delete(name string, p metav1.DeletionPropagation) {
	b.Helper()
	b.commit(func(tx *objects.Tx) { tx.Delete(b.get(name), objects.DeleteOptions{Propagation: p}) })
}

func (b bench) expect(names ...string) {
	b.Helper()
	var have []string
	for _, key := range b.Store.Keys("/registry/core/configmaps/ns/") {
		have = append(have, key[strings.LastIndex(key, "/")+1:])
	}
	if !slices.Equal(have, names) {
		b.Errorf("have %v, want %v", have, names)
	}
}

func TestBackground(t *testing.T) {
	run(t, func(b bench) {
		b.create("a")
		b.create("b", "a")
		b.create("c", "b")
		b.create("other")
		b.delete("a", metav1.DeletePropagationBackground)
		b.expect("other")
	})
}

func TestAnyOwnerKeepsAnObject(t *testing.T) {
	run(t, func(b bench) {
		b.create("a")
		b.create("b")
		b.create("c", "a", "b")
		b.delete("a", metav1.DeletePropagationBackground)
		b.expect("b", "c")
		if refs := b.get("c").OwnerReferences; len(refs) != 1 || refs[0].Name != "b" {
			b.Errorf("owners %v", refs)
		}
		b.delete("b", metav1.DeletePropagationBackground)
		b.expect()
	})
}

func TestForegroundWaitsForTheBlocking(t *testing.T) {
	run(t, func(b bench) {
		b.create("a")
		held := b.object("held", "!a")
		held.Finalizers = []string{"test/hold"}
		b.commit(func(tx *objects.Tx) { tx.Create(held) })
		b.create("child", "!held")
		b.create("loose", "a")
		b.delete("a", metav1.DeletePropagationForeground)
		// "held" waits for its child and its finalizer, and "a" for "held".
		b.expect("a", "held", "loose")
		if o := b.get("held"); o.DeletionTimestamp == nil || !slices.Equal(o.Finalizers, []string{"test/hold"}) {
			b.Errorf("held: %+v", o.ObjectMeta)
		}
		old := b.get("held")
		next := old.DeepCopy()
		next.Finalizers = nil
		b.commit(func(tx *objects.Tx) { tx.Update(old, next) })
		b.expect()
	})
}

func TestOrphan(t *testing.T) {
	run(t, func(b bench) {
		b.create("a")
		b.create("b", "a")
		b.create("c", "b")
		b.delete("a", metav1.DeletePropagationOrphan)
		b.expect("b", "c")
		if refs := b.get("b").OwnerReferences; len(refs) != 0 {
			b.Errorf("owners %v", refs)
		}
	})
}

func TestObjectsWithFinalizersAreOnlyMarked(t *testing.T) {
	run(t, func(b bench) {
		b.create("a")
		o := b.object("b", "a")
		o.Finalizers = []string{"test/hold"}
		b.commit(func(tx *objects.Tx) { tx.Create(o) })
		b.delete("a", metav1.DeletePropagationBackground)
		if o := b.get("b"); o.DeletionTimestamp == nil {
			b.Error("not marked")
		}
	})
}

func TestOwnersThatAreNotKnownExist(t *testing.T) {
	run(t, func(b bench) {
		o := b.object("a")
		o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Thing", Name: "x", UID: "x"}}
		b.commit(func(tx *objects.Tx) { tx.Create(o) })
		b.expect("a")
		// A name that exists does not stand for a uid that does not.
		b.create("live")
		o = b.object("b", "live")
		o.OwnerReferences[0].UID = "its-predecessor"
		b.commit(func(tx *objects.Tx) { tx.Create(o) })
		b.expect("a", "live")
	})
}

func TestUnknownKindsAreKeptWhole(t *testing.T) {
	run(t, func(b bench) {
		const key = "/registry/example.com/things/ns/x"
		b.create("owner")
		b.commit(func(tx *objects.Tx) {
			tx.Put(key, []byte(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"namespace":"ns","name":"x","uid":"x","finalizers":["test/hold"],`+
				`"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"owner","uid":"owner"}]},"spec":{"big":9007199254740993,"f":1.5}}`))
		})
		b.delete("owner", metav1.DeletePropagationBackground)
		rec, _, err := b.Store.Get(b.Context(), key, raftstore.ReadOptions{})
		if err != nil {
			b.Fatal(err)
		}
		for _, want := range []string{`"deletionTimestamp"`, `"big":9007199254740993`, `"f":1.5`} {
			if !strings.Contains(string(rec.Value), want) {
				b.Errorf("%s lacks %s", rec.Value, want)
			}
		}
	})
}

// An object that cannot be read may be the owner of others.
func TestNothingIsCollectedBlindly(t *testing.T) {
	run(t, func(b bench) {
		b.commit(func(tx *objects.Tx) { tx.Put("/registry/core/secrets/ns/broken", []byte("{")) })
		b.create("a", "gone")
		time.Sleep(time.Hour)
		b.expect("a")
		b.commit(func(tx *objects.Tx) { tx.Remove("/registry/core/secrets/ns/broken") })
		time.Sleep(time.Hour)
		b.expect()
	})
}

// What was missed while nobody collected is found at the start.
func TestStartsWithWhatIsThere(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		b := bench{w}
		b.create("b", "gone")
		b.create("c", "b")
		b.start()
		b.Settle()
		b.expect()
	})
}

// In any forest of owners, deleting some in the background leaves exactly the
// objects that still have an owner, or never had one.
func TestAnyForest(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(r, "objects")
		owners := make([][]int, n)
		for i := 1; i < n; i++ {
			owners[i] = rapid.SliceOfNDistinct(rapid.IntRange(0, i-1), 0, 2, rapid.ID).Draw(r, "owners")
		}
		doomed := rapid.SliceOfNDistinct(rapid.IntRange(0, n-1), 1, 4, rapid.ID).Draw(r, "deleted")
		var want []string
		alive := make([]bool, n)
		for i := range n {
			alive[i] = !slices.Contains(doomed, i) && (len(owners[i]) == 0 || slices.ContainsFunc(owners[i], func(o int) bool { return alive[o] }))
			if alive[i] {
				want = append(want, fmt.Sprintf("o%02d", i))
			}
		}
		run(t, func(b bench) {
			var tx objects.Tx
			for i := range n {
				var names []string
				for _, o := range owners[i] {
					names = append(names, fmt.Sprintf("o%02d", o))
				}
				tx.Create(b.object(fmt.Sprintf("o%02d", i), names...))
			}
			if _, err := tx.Commit(b.Context(), b.Store); err != nil {
				b.Fatal(err)
			}
			var del objects.Tx
			for _, i := range doomed {
				del.Delete(b.get(fmt.Sprintf("o%02d", i)), objects.DeleteOptions{})
			}
			if _, err := del.Commit(b.Context(), b.Store); err != nil {
				b.Fatal(err)
			}
			time.Sleep(time.Minute)
			b.expect(want...)
		})
	})
}

// A change that the graph has not seen yet is a lost race, not a failure that
// anyone should be told of.
func TestAnOldGraphIsAConflict(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		b := bench{w}
		w.Create(b.object("a"))
		c := &Collector{deps: stewards.Deps{Store: w.Store}}
		old := &item{storeKey: "/registry/core/configmaps/ns/a", kind: unique.Make(schema.GroupKind{Kind: "ConfigMap"}), name: "a", revision: 99}
		if _, err := c.readItem(t.Context(), old); !apierrors.IsConflict(err) {
			t.Errorf("got %v, want a conflict", err)
		}
	})
}
