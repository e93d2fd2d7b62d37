package objects_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// eachStore runs a test on the fake and on a real replica: the fake must not
// promise what raftstore does not keep.
func eachStore(t *testing.T, test func(t *testing.T, s objects.Store)) {
	t.Run("fake", func(t *testing.T) { test(t, objectstest.New()) })
	t.Run("raftstore", func(t *testing.T) { test(t, objects.FromRaft(raftstoretest.New(t), nil)) })
}

func newVMI(name string) *kubevirtv1.VirtualMachineInstance {
	return &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func commit(t *testing.T, s objects.Store, build func(tx *objects.Tx)) {
	t.Helper()
	var tx objects.Tx
	build(&tx)
	if _, err := tx.Commit(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s objects.Store, name string) *kubevirtv1.VirtualMachineInstance {
	t.Helper()
	vmi, err := objects.Get[*kubevirtv1.VirtualMachineInstance](t.Context(), s, objects.Key{Namespace: "ns", Name: name}, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return vmi
}

func TestCreateCompletesAndStores(t *testing.T) {
	eachStore(t, func(t *testing.T, s objects.Store) {
		vmi := newVMI("")
		vmi.GenerateName = "web-"
		commit(t, s, func(tx *objects.Tx) { tx.Create(vmi) })
		if !strings.HasPrefix(vmi.Name, "web-") || len(vmi.Name) != len("web-")+5 {
			t.Errorf("generated name %q", vmi.Name)
		}
		if vmi.UID == "" || vmi.CreationTimestamp.IsZero() || vmi.Generation != 1 || vmi.ResourceVersion == "" {
			t.Errorf("not completed: %+v", vmi.ObjectMeta)
		}
		have := get(t, s, vmi.Name)
		if have.Kind != "VirtualMachineInstance" || have.APIVersion != "kubevirt.io/v1" {
			t.Errorf("stored as %s %s", have.APIVersion, have.Kind)
		}
		have.TypeMeta = metav1.TypeMeta{}
		if !reflect.DeepEqual(have.ObjectMeta, vmi.ObjectMeta) {
			t.Errorf("read back %+v, want %+v", have.ObjectMeta, vmi.ObjectMeta)
		}
		rec, _, err := s.Get(t.Context(), "/registry/kubevirt.io/virtualmachineinstances/ns/"+vmi.Name, raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(rec.Value), "resourceVersion") {
			t.Errorf("resourceVersion is in the stored bytes: %s", rec.Value)
		}
	})
}

// isFault reports whether err, here and where it is read, is a lost race with this code
// about this object.
func isFault(err error, code fault.Code, object, sentence string) bool {
	recorder := httptest.NewRecorder()
	fault.Write(recorder, err)
	read := fault.Read(recorder.Result())
	return objects.LostRace(err) && errors.Is(err, code) && read.Code == code && read.Object == object && read.Error() == sentence
}

func TestLostRacesAreKubernetesErrors(t *testing.T) {
	eachStore(t, func(t *testing.T, s objects.Store) {
		commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI("a")) })
		old := get(t, s, "a")
		fail := func(build func(tx *objects.Tx)) error {
			var tx objects.Tx
			build(&tx)
			_, err := tx.Commit(t.Context(), s)
			return err
		}
		if err := fail(func(tx *objects.Tx) { tx.Create(newVMI("a")) }); !apierrors.IsAlreadyExists(err) || !isFault(err, fault.AlreadyExists, "ns/a", `virtualmachineinstances.kubevirt.io "a" already exists`) {
			t.Errorf("create of what exists: %v", err)
		}
		newer := old.DeepCopy()
		newer.Labels = map[string]string{"a": "b"}
		commit(t, s, func(tx *objects.Tx) { tx.Update(old, newer) })
		stale := old.DeepCopy()
		stale.Labels = map[string]string{"c": "d"}
		err := fail(func(tx *objects.Tx) { tx.Update(old, stale) })
		var conflict *raftstore.ConflictError
		if !apierrors.IsConflict(err) || !errors.As(err, &conflict) || !isFault(err, fault.Conflict, "ns/a", `virtualmachineinstances.kubevirt.io "a": another change was committed first`) {
			t.Errorf("update of an old version: %v", err)
		}
		commit(t, s, func(tx *objects.Tx) { tx.Delete(newer, objects.DeleteOptions{}) })
		if err := fail(func(tx *objects.Tx) { tx.Update(old, stale) }); !apierrors.IsNotFound(err) || !isFault(err, fault.NotFound, "ns/a", `virtualmachineinstances.kubevirt.io "a" not found`) {
			t.Errorf("update of what is gone: %v", err)
		}
		_, err = objects.Get[*kubevirtv1.VirtualMachineInstance](t.Context(), s, objects.KeyOf(old), raftstore.ReadOptions{})
		if !apierrors.IsNotFound(err) {
			t.Errorf("get of what is gone: %v", err)
		}
	})
}

func TestATransactionIsAtomic(t *testing.T) {
	eachStore(t, func(t *testing.T, s objects.Store) {
		commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI("b")) })
		var tx objects.Tx
		tx.Create(newVMI("a"))
		tx.Create(newVMI("b"))
		if _, err := tx.Commit(t.Context(), s); !apierrors.IsAlreadyExists(err) {
			t.Fatalf("got %v", err)
		}
		list, _, err := objects.List[*kubevirtv1.VirtualMachineInstance](t.Context(), s, "ns", raftstore.ReadOptions{})
		if err != nil || len(list) != 1 {
			t.Errorf("%d objects (%v), want the one from before", len(list), err)
		}
	})
}

func TestGenerationFollowsTheSpec(t *testing.T) {
	s := objectstest.New()
	vmi := newVMI("a")
	commit(t, s, func(tx *objects.Tx) { tx.Create(vmi) })
	change := func(f func(*kubevirtv1.VirtualMachineInstance), status bool) *kubevirtv1.VirtualMachineInstance {
		old := get(t, s, "a")
		next := old.DeepCopy()
		f(next)
		commit(t, s, func(tx *objects.Tx) {
			if status {
				tx.UpdateStatus(old, next)
			} else {
				tx.Update(old, next)
			}
		})
		have := get(t, s, "a")
		if next.ResourceVersion != have.ResourceVersion {
			t.Errorf("resourceVersion handed back is %s, stored %s", next.ResourceVersion, have.ResourceVersion)
		}
		return have
	}
	if have := change(func(v *kubevirtv1.VirtualMachineInstance) { v.Labels = map[string]string{"x": "y"} }, false); have.Generation != 1 {
		t.Errorf("generation %d after a label, want 1", have.Generation)
	}
	if have := change(func(v *kubevirtv1.VirtualMachineInstance) { v.Spec.Hostname = "h" }, false); have.Generation != 2 {
		t.Errorf("generation %d after the spec, want 2", have.Generation)
	}
	have := change(func(v *kubevirtv1.VirtualMachineInstance) {
		v.Spec.Hostname, v.Labels, v.Status.Phase = "other", nil, kubevirtv1.Running
	}, true)
	if have.Generation != 2 || have.Spec.Hostname != "h" || have.Labels["x"] != "y" || have.Status.Phase != kubevirtv1.Running {
		t.Errorf("a status update changed more than status: %+v", have)
	}
	have = change(func(v *kubevirtv1.VirtualMachineInstance) {
		v.UID, v.CreationTimestamp, v.Generation = "forged", metav1.Time{}, 99
	}, false)
	if have.UID != vmi.UID || have.Generation != 2 || have.CreationTimestamp.IsZero() {
		t.Errorf("identity changed: %+v", have.ObjectMeta)
	}
	before := s.Commits()
	change(func(*kubevirtv1.VirtualMachineInstance) {}, false)
	change(func(*kubevirtv1.VirtualMachineInstance) {}, true)
	if s.Commits() != before {
		t.Error("an update without a change was written")
	}
}

func TestDeleteHonoursFinalizers(t *testing.T) {
	eachStore(t, func(t *testing.T, s objects.Store) {
		vmi := newVMI("a")
		vmi.Finalizers = []string{"one", "two"}
		commit(t, s, func(tx *objects.Tx) { tx.Create(vmi) })
		commit(t, s, func(tx *objects.Tx) { tx.Delete(vmi, objects.DeleteOptions{}) })
		old := get(t, s, "a")
		if old.DeletionTimestamp == nil {
			t.Fatal("no deletionTimestamp")
		}
		stamp := old.DeletionTimestamp.DeepCopy()
		next := old.DeepCopy()
		objects.RemoveFinalizer(next, "one")
		if objects.AddFinalizer(next, "late") {
			t.Error("a finalizer was added to what is being deleted")
		}
		commit(t, s, func(tx *objects.Tx) { tx.Update(old, next) })
		old = get(t, s, "a")
		if !old.DeletionTimestamp.Equal(stamp) {
			t.Error("deletionTimestamp moved")
		}
		next = old.DeepCopy()
		objects.RemoveFinalizer(next, "two")
		commit(t, s, func(tx *objects.Tx) { tx.Update(old, next) })
		if _, err := objects.Get[*kubevirtv1.VirtualMachineInstance](t.Context(), s, objects.KeyOf(old), raftstore.ReadOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("still there: %v", err)
		}
	})
}

func TestDeletePropagation(t *testing.T) {
	s := objectstest.New()
	for policy, finalizer := range map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationForeground: metav1.FinalizerDeleteDependents,
		metav1.DeletePropagationOrphan:     metav1.FinalizerOrphanDependents,
	} {
		vmi := newVMI(strings.ToLower(string(policy)))
		commit(t, s, func(tx *objects.Tx) { tx.Create(vmi) })
		commit(t, s, func(tx *objects.Tx) { tx.Delete(vmi, objects.DeleteOptions{Propagation: policy}) })
		if have := get(t, s, vmi.Name); have.DeletionTimestamp == nil || !objects.HasFinalizer(have, finalizer) {
			t.Errorf("%s: %+v", policy, have.ObjectMeta)
		}
	}
}

func TestMistakesAreFoundBeforeWriting(t *testing.T) {
	s := objectstest.New()
	stored := newVMI("a")
	commit(t, s, func(tx *objects.Tx) { tx.Create(stored) })
	for want, build := range map[string]func(tx *objects.Tx){
		"without a name":      func(tx *objects.Tx) { tx.Create(newVMI("")) },
		"without a namespace": func(tx *objects.Tx) { tx.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "x"}}) },
		"cluster-scoped": func(tx *objects.Tx) {
			tx.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "y"}})
		},
		"no kind":   func(tx *objects.Tx) { tx.Create(&corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "x"}}) },
		"no status": func(tx *objects.Tx) { tx.UpdateStatus(&corev1.Secret{}, &corev1.Secret{}) },
		"written twice, with different values": func(tx *objects.Tx) {
			tx.Create(newVMI("b"))
			tx.Put("/registry/kubevirt.io/virtualmachineinstances/ns/b", nil)
		},
		"not read":          func(tx *objects.Tx) { tx.Delete(newVMI("a"), objects.DeleteOptions{}) },
		"cannot be renamed": func(tx *objects.Tx) { tx.Update(stored, newVMI("c")) },
		"at revision": func(tx *objects.Tx) {
			tx.Unchanged(stored)
			tx.Require("/registry/kubevirt.io/virtualmachineinstances/ns/a", 99)
			tx.Put("x", nil)
		},
	} {
		var tx objects.Tx
		build(&tx)
		before := s.Commits()
		if _, err := tx.Commit(t.Context(), s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error about %q", err, want)
		}
		if s.Commits() != before {
			t.Errorf("%s: something was written", want)
		}
	}
}

func TestRefusalIsTyped(t *testing.T) {
	s := objectstest.New(raftstore.Constraint{Name: "never", Version: 1, Check: func(raftstore.View, *raftstore.Txn, []byte) error { return errors.New("because") }})
	var tx objects.Tx
	tx.Create(newVMI("a"))
	tx.Demand(raftstore.ConstraintCall{Name: "never", Version: 1})
	_, err := tx.Commit(t.Context(), s)
	if refused, ok := objects.Refused(err); !ok || refused.Reason != "because" {
		t.Errorf("got %v", err)
	}
}

// Lists that transactions are built from may repeat a key: the volumes of an
// instance, the owners of an object.
func TestTheSameWriteTwiceIsOne(t *testing.T) {
	eachStore(t, func(t *testing.T, s objects.Store) {
		twin := newVMI("twin")
		commit(t, s, func(tx *objects.Tx) {
			tx.Create(twin)
			tx.Create(twin)
			tx.Put("/claims/x", []byte("a"))
			tx.Put("/claims/x", []byte("a"))
		})
		stored := get(t, s, "twin")
		if twin.ResourceVersion != stored.ResourceVersion {
			t.Errorf("the object has revision %s, the store %s", twin.ResourceVersion, stored.ResourceVersion)
		}
		first, second := stored.DeepCopy(), stored.DeepCopy()
		first.Status.Phase, second.Status.Phase = kubevirtv1.Running, kubevirtv1.Running
		commit(t, s, func(tx *objects.Tx) {
			tx.UpdateStatus(stored, first)
			tx.UpdateStatus(stored, second)
		})
		stored = get(t, s, "twin")
		if first.ResourceVersion != stored.ResourceVersion || second.ResourceVersion != stored.ResourceVersion {
			t.Errorf("revisions %s and %s, want %s for both", first.ResourceVersion, second.ResourceVersion, stored.ResourceVersion)
		}
		commit(t, s, func(tx *objects.Tx) {
			for range 2 {
				tx.Delete(stored, objects.DeleteOptions{})
				tx.Remove("/claims/x")
			}
		})
		list, _, err := objects.List[*kubevirtv1.VirtualMachineInstance](t.Context(), s, "", raftstore.ReadOptions{})
		if err != nil || len(list) != 0 {
			t.Errorf("left %v (%v)", list, err)
		}
		if _, _, err := s.Get(t.Context(), "/claims/x", raftstore.ReadOptions{}); !errors.Is(err, raftstore.ErrNotFound) {
			t.Errorf("the record is left (%v)", err)
		}
	})
}

func TestListPages(t *testing.T) {
	eachStore(t, func(t *testing.T, s objects.Store) {
		const n = 1203
		for i := 0; i < n; i += 401 {
			var tx objects.Tx
			for j := range 401 {
				// Not generated names: of so many, two are the same now and then.
				vmi := newVMI(fmt.Sprintf("vm-%d", i+j))
				vmi.Namespace = []string{"ns", "other"}[j%2]
				tx.Create(vmi)
			}
			if _, err := tx.Commit(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		all, rev, err := objects.List[*kubevirtv1.VirtualMachineInstance](t.Context(), s, "", raftstore.ReadOptions{})
		if err != nil || len(all) != n || rev == 0 {
			t.Errorf("%d objects at revision %d (%v), want %d", len(all), rev, err, n)
		}
		some, _, err := objects.List[*kubevirtv1.VirtualMachineInstance](t.Context(), s, "other", raftstore.ReadOptions{})
		if err != nil || len(some) != 600 {
			t.Errorf("%d objects in one namespace (%v), want 600", len(some), err)
		}
	})
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
