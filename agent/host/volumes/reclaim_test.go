package volumes

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/storage"
)

// remove asks for the claim's deletion and waits until the informers show it.
func (w *world) remove(name string) {
	w.t.Helper()
	w.Commit(func(tx *objects.Tx) { tx.Delete(w.stored(name), objects.DeleteOptions{}) })
	w.AwaitShown(func() bool {
		claim, ok := w.claims.claims.Get(objects.Key{Namespace: "ns", Name: name})
		if !ok { // gone, or not shown yet
			return w.stored(name) == nil
		}
		return claim.DeletionTimestamp != nil
	})
}

func TestVolumeIsDeletedWithItsClaimOnceUnused(t *testing.T) {
	w := newWorld(t)
	claim := w.claim("data", "local", nil)
	key := objects.KeyOf(claim)
	vmi := w.create(vmiWith("a", usesClaim("data")))
	w.prepare(vmi)
	w.AwaitShown(func() bool {
		got, ok := w.claims.claims.Get(key)
		return ok && got.Status.Phase == corev1.ClaimBound
	})
	if _, err := w.claims.Reconcile(t.Context(), key); err != nil || !w.has(w.local, volumeName(claim)) {
		t.Fatalf("a claim that is not being deleted: %v", err)
	}
	w.remove("data")
	result, err := w.claims.Reconcile(t.Context(), key)
	if err != nil || result.RequeueAfter != instanceGoneInterval || !w.has(w.local, volumeName(claim)) {
		t.Fatalf("in use: %+v, %v", result, err)
	}
	if got := w.refusal(w.create(vmiWith("b", usesClaim("data")))); !strings.Contains(got.Error(), "being deleted") {
		t.Error(got)
	}
	for _, name := range []string{"a", "b"} {
		ending, _ := w.claims.vmis.Get(objects.Key{Namespace: "ns", Name: name})
		w.end(ending)
	}
	if _, err := w.other.Reconcile(t.Context(), key); err != nil || w.stored("data") == nil {
		t.Fatalf("another host let the claim go: %v", err)
	}
	w.local.FailWith(func(op, _ string) error {
		if op == "Delete" {
			return errors.New("disk is away")
		}
		return nil
	})
	if _, err := w.claims.Reconcile(t.Context(), key); err == nil || w.stored("data") == nil {
		t.Fatalf("the claim went before its volume: %v", err)
	}
	w.local.FailWith(nil)
	if _, err := w.claims.Reconcile(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if w.has(w.local, volumeName(claim)) || w.stored("data") != nil {
		t.Errorf("left: volume %v, claim %v", w.has(w.local, volumeName(claim)), w.stored("data"))
	}
}

// A volume is not deleted on the word of a copy that the mesh has not confirmed.
func TestVolumeIsKeptUntilTheMeshConfirms(t *testing.T) {
	w := newWorld(t)
	w.unconfirmed = raftstore.ErrUnconfirmed
	claim := w.abandonedClaim("data", "local")
	if _, err := w.claims.Reconcile(t.Context(), objects.KeyOf(claim)); !errors.Is(err, raftstore.ErrUnconfirmed) {
		t.Errorf("it does not say why it waits: %v", err)
	}
	if !w.has(w.local, volumeName(claim)) || w.stored("data") == nil {
		t.Fatal("the volume or its claim is gone")
	}
	w.unconfirmed = nil
	if _, err := w.claims.Reconcile(t.Context(), objects.KeyOf(claim)); err != nil || w.has(w.local, volumeName(claim)) {
		t.Errorf("the volume is still there: %v", err)
	}
}

// An instance that has not attached a claim under deletion never will. Neither waits for
// the other.
func TestAnInstanceThatWaitsDoesNotKeepItsClaim(t *testing.T) {
	w := newWorld(t)
	claim := w.abandonedClaim("data", "local")
	waiting := w.create(vmiWith("waits", usesClaim("data")))
	if got := w.refusal(waiting); !strings.Contains(got.Error(), "being deleted") {
		t.Fatal(got)
	}
	w.AwaitShown(func() bool { _, ok := w.claims.vmis.Get(objects.KeyOf(waiting)); return ok })
	if _, err := w.claims.Reconcile(t.Context(), objects.KeyOf(claim)); err != nil {
		t.Fatal(err)
	}
	if w.stored("data") != nil || w.has(w.local, volumeName(claim)) {
		t.Error("the claim waits for an instance that waits for the claim")
	}
}

// abandonedClaim is a bound claim under deletion that no instance uses.
func (w *world) abandonedClaim(name, class string) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	claim := w.claim(name, class, nil)
	vmi := w.create(vmiWith("of-"+name, usesClaim(name)))
	w.prepare(vmi)
	w.end(vmi)
	w.remove(name)
	return claim
}

// The instances that this replica shows are not all there are.
func TestVolumeIsKeptForAHolderThatIsNotShown(t *testing.T) {
	w := newWorld(t)
	claim := w.claim("data", "local", nil)
	vmi := w.create(vmiWith("a", usesClaim("data")))
	w.prepare(vmi)
	w.remove("data")

	t.Run("not listed yet", func(t *testing.T) {
		cfg := objects.DefaultCacheConfig()
		cfg.Store, cfg.Logger = w.Store, w.claims.Logger
		empty, err := objects.NewCache(cfg) // it never runs
		if err != nil {
			t.Fatal(err)
		}
		restarted := *w.claims
		unsynced := NewProvisioner(ProvisionerConfig{Cache: empty})
		restarted.vmis, restarted.users = unsynced.vmis, unsynced.users
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := restarted.Reconcile(ctx, objects.KeyOf(claim)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it did not wait for the instances: %v", err)
		}
	})
	t.Run("listed, but old", func(t *testing.T) {
		w.Commit(func(tx *objects.Tx) { tx.Delete(vmi, objects.DeleteOptions{}) })
		w.AwaitShown(func() bool { _, ok := w.claims.vmis.Get(objects.KeyOf(vmi)); return !ok })
		if got := w.reconcile(w.claims, "data"); got.RequeueAfter != instanceGoneInterval {
			t.Errorf("%+v", got)
		}
	})
	if !w.has(w.local, volumeName(claim)) || w.stored("data") == nil {
		t.Error("the volume of a running instance was deleted")
	}
}

func TestClaimThatChangedIsNotAttached(t *testing.T) {
	w := newWorld(t)
	claim := w.claim("data", "local", func(claim *corev1.PersistentVolumeClaim) { claim.Finalizers = []string{"example.test/keep"} })
	vmi := w.create(vmiWith("a", usesClaim("data")))
	where, err := w.claims.placeOf(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	w.remove("data")
	if _, err := w.claims.attachClaim(t.Context(), vmi, claim, where); err == nil {
		t.Error("a claim was attached after its deletion had begun")
	}
}

func TestBusyVolumeIsDeletedLater(t *testing.T) {
	w := newWorld(t)
	w.abandonedClaim("data", "local")
	w.local.FailWith(func(op, _ string) error {
		if op == "Delete" {
			return storage.ErrBusy
		}
		return nil
	})
	if got := w.reconcile(w.claims, "data"); got.RequeueAfter != instanceGoneInterval || w.stored("data") == nil {
		t.Errorf("%+v", got)
	}
}

func TestClaimGoesWithoutItsClass(t *testing.T) {
	for _, pool := range []string{"local", "nfs"} {
		w := newWorld(t)
		claim := w.abandonedClaim("data", pool)
		class, err := objects.Get[*storagev1.StorageClass](t.Context(), w.Store, objects.Key{Name: pool}, localRead)
		if err != nil {
			t.Fatal(err)
		}
		w.Commit(func(tx *objects.Tx) { tx.Delete(class, objects.DeleteOptions{}) })
		w.reconcile(w.claims, "data")
		if w.stored("data") != nil || w.has(w.claims.Pools()[pool], volumeName(claim)) {
			t.Errorf("%s: claim %v, volume %v", pool, w.stored("data"), w.has(w.claims.Pools()[pool], volumeName(claim)))
		}
	}
}

func TestHostThatHasTheVolumeTakesUpALostClaim(t *testing.T) {
	w := newWorld(t)
	claim := w.abandonedClaim("data", "local")
	w.edit("data", func(claim *corev1.PersistentVolumeClaim) { claim.Annotations = nil })
	w.reconcile(w.other, "data")
	if got := w.stored("data"); got == nil || got.Annotations[SelectedNode] != "" {
		t.Fatalf("a host without the volume acted: %v", got)
	}
	w.reconcile(w.claims, "data")
	if got := w.stored("data"); got == nil || got.Annotations[SelectedNode] != "host1" {
		t.Fatalf("%v", got)
	}
	w.AwaitShown(func() bool {
		got, _ := w.claims.claims.Get(objects.KeyOf(claim))
		return got.Annotations[SelectedNode] == "host1"
	})
	w.reconcile(w.claims, "data")
	if w.stored("data") != nil || w.has(w.local, volumeName(claim)) {
		t.Error("claim or volume is still there")
	}
}

func TestClaimsOfARemovedHost(t *testing.T) {
	t.Run("deleted before", func(t *testing.T) {
		w := newWorld(t)
		w.abandonedClaim("data", "local")
		used := w.claim("used", "local", nil)
		w.prepare(w.create(vmiWith("a", usesClaim("used"))))
		w.remove("used")
		if err := w.other.Bury(t.Context(), "host1"); err != nil {
			t.Fatal(err)
		}
		if w.stored("data") != nil || w.stored(used.Name) == nil {
			t.Errorf("unused claim %v, used claim %v", w.stored("data"), w.stored(used.Name))
		}
		w.told(reasonLost, "host1")
	})
	t.Run("deleted later", func(t *testing.T) {
		w := newWorld(t)
		w.abandonedClaim("data", "local")
		if got := w.reconcile(w.other, "data"); got.RequeueAfter != hostGoneInterval || w.stored("data") == nil {
			t.Fatalf("of a host that is a member: %+v", got)
		}
		w.removed["host1"] = true
		mine := w.other.Mine
		w.other.Mine = func(objects.Key) bool { return false }
		if got := w.reconcile(w.other, "data"); got.RequeueAfter != hostGoneInterval || w.stored("data") == nil {
			t.Fatalf("it is another host's to act: %+v", got)
		}
		w.other.Mine = mine
		w.reconcile(w.other, "data")
		if w.stored("data") != nil {
			t.Error("nobody lets the claim go")
		}
	})
}

func TestRetainedVolumeStays(t *testing.T) {
	w := newWorld(t)
	retain := corev1.PersistentVolumeReclaimRetain
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "keep"}, Parameters: map[string]string{"storagePool": "local"}, ReclaimPolicy: &retain}
	w.Commit(func(tx *objects.Tx) { tx.Create(class) })
	claim := w.abandonedClaim("data", "keep")
	w.Commit(func(tx *objects.Tx) { tx.Delete(class, objects.DeleteOptions{}) })
	w.reconcile(w.claims, "data")
	if w.stored("data") != nil || !w.has(w.local, volumeName(claim)) {
		t.Errorf("claim %v, volume there: %v", w.stored("data"), w.has(w.local, volumeName(claim)))
	}
	w.told(reasonRetained, volumeName(claim))
}

func TestFailureToDeleteIsTold(t *testing.T) {
	w := newWorld(t)
	w.abandonedClaim("data", "local")
	delete(w.claims.Pools(), "local")
	if _, err := w.claims.Reconcile(t.Context(), objects.Key{Namespace: "ns", Name: "data"}); err == nil || !strings.Contains(err.Error(), `no pool "local"`) {
		t.Errorf("got %v", err)
	}
	w.told(reasonFailedDelete, `no pool "local"`)
}
