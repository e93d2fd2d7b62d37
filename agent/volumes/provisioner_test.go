package volumes

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
)

func TestClaimOfALocalPoolIsBoundToTheHost(t *testing.T) {
	w := newWorld(t)
	claim := w.claim("data", "local", nil)
	vmi := w.create(vmiWith("a", usesClaim("data")))
	disks, _ := w.prepare(vmi)
	bound := w.stored("data")
	if bound.Status.Phase != corev1.ClaimBound || bound.Annotations[SelectedNode] != "host1" || !slices.Contains(bound.Finalizers, claimFinalizer) {
		t.Errorf("%+v, %+v", bound.ObjectMeta, bound.Status)
	}
	if size := bound.Status.Capacity[corev1.ResourceStorage]; size.Value() != 1<<30 || bound.Spec.VolumeName != volumeName(claim) {
		t.Errorf("%s of %s", bound.Spec.VolumeName, size.String())
	}
	made, err := w.local.Get(t.Context(), volumeName(claim))
	if err != nil || made.Size != 1<<30 || disks["vol0"].Path != made.Path || disks["vol0"].Format != string(made.Format) {
		t.Errorf("volume %+v, %v; disk %+v", made, err, disks["vol0"])
	}
	before := w.store.Commits()
	w.prepare(vmi)
	if n := w.store.Commits() - before; n != 0 {
		t.Errorf("preparing again wrote %d times", n)
	}
	if _, err := w.other.disk(t.Context(), vmi, vmi.Spec.Volumes[0]); err == nil || !strings.Contains(err.Error(), "host1") {
		t.Errorf("another host: %v", err)
	}
}

func TestClaimOfASharedPoolIsBoundToNoHost(t *testing.T) {
	w := newWorld(t)
	claim := w.claim("data", "nfs", nil)
	vmi := w.create(vmiWith("a", usesClaim("data")))
	w.prepare(vmi)
	bound := w.stored("data")
	if _, pinned := bound.Annotations[SelectedNode]; pinned || bound.Status.Phase != corev1.ClaimBound || !slices.Contains(bound.Finalizers, claimFinalizer) {
		t.Errorf("%+v, %+v", bound.ObjectMeta, bound.Status)
	}
	if !w.has(w.shared, volumeName(claim)) {
		t.Error("there is no volume")
	}
	if _, err := w.other.disk(t.Context(), vmi, vmi.Spec.Volumes[0]); err != nil {
		t.Errorf("another host: %v", err)
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	w := newWorld(t)
	w.claim("data", "nfs", nil)
	first, second := w.create(vmiWith("a", usesClaim("data"))), w.create(vmiWith("b", usesClaim("data")))
	w.prepare(first)
	w.refusal(second)
	w.commit(func(tx *objects.Tx) {
		if err := w.claims.Detach(t.Context(), tx, first); err != nil {
			t.Fatal(err)
		}
	})
	w.prepare(second)
	// What was given up is not taken from who has it now.
	var tx objects.Tx
	if err := w.claims.Detach(t.Context(), &tx, first); err != nil || !tx.Empty() {
		t.Errorf("%v, empty %v", err, tx.Empty())
	}
	w.refusal(first)
}

func TestReadWriteManyHasManyWriters(t *testing.T) {
	w := newWorld(t)
	w.claim("data", "nfs", func(claim *corev1.PersistentVolumeClaim) {
		claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	})
	for _, name := range []string{"a", "b"} {
		w.prepare(w.create(vmiWith(name, usesClaim("data"))))
	}
}

func TestPoolOfAClaim(t *testing.T) {
	w := newWorld(t)
	named := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Parameters: map[string]string{parameterPool: "nfs"}}
	w.commit(func(tx *objects.Tx) { tx.Create(named) })
	w.commit(func(tx *objects.Tx) {
		tx.Create(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}})
	})
	for class, want := range map[string]string{"local": "local", "fast": "nfs", "": DefaultPool} {
		if got, err := w.claims.poolName(t.Context(), w.claim("of-"+class+"-class", class, nil)); err != nil || got != want {
			t.Errorf("class %q: pool %q, %v; want %q", class, got, err, want)
		}
	}
	for class, want := range map[string]string{"elsewhere": `no pool "elsewhere"`, "missing": "StorageClass missing"} {
		w.claim(class, class, nil)
		if got := w.refusal(w.create(vmiWith(class, usesClaim(class)))); !strings.Contains(got.Error(), want) {
			t.Errorf("class %q: %v", class, got)
		}
		if bound := w.stored(class); bound.Status.Phase == corev1.ClaimBound {
			t.Errorf("class %q: the claim is bound", class)
		}
	}
	isDefault := named.DeepCopy()
	isDefault.Annotations = map[string]string{defaultClass: "true"}
	w.commit(func(tx *objects.Tx) { tx.Update(named, isDefault) })
	if got, err := w.claims.poolName(t.Context(), w.stored("of--class")); err != nil || got != "nfs" {
		t.Errorf("default class: %q, %v", got, err)
	}
}

// remove asks for the claim's deletion and waits until the informers show it.
func (w *world) remove(name string) {
	w.t.Helper()
	w.commit(func(tx *objects.Tx) { tx.Delete(w.stored(name), objects.DeleteOptions{}) })
	w.shown(func() bool {
		claim, ok := w.claims.claims.Get(objects.Key{Namespace: "ns", Name: name})
		return !ok || claim.DeletionTimestamp != nil
	})
}

func TestVolumeIsDeletedWithItsClaimOnceUnused(t *testing.T) {
	w := newWorld(t)
	claim := w.claim("data", "local", nil)
	key := objects.KeyOf(claim)
	vmi := w.create(vmiWith("a", usesClaim("data")))
	w.prepare(vmi)
	w.shown(func() bool {
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
		vmi, _ := w.claims.vmis.Get(objects.Key{Namespace: "ns", Name: name})
		ended := vmi.DeepCopy()
		ended.Status.Phase = kubevirtv1.Succeeded
		w.commit(func(tx *objects.Tx) { tx.Update(vmi, ended) })
		w.shown(func() bool { got, _ := w.claims.vmis.Get(objects.KeyOf(vmi)); return got.IsFinal() })
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

func TestImport(t *testing.T) {
	annotate := func(source, endpoint string) func(*corev1.PersistentVolumeClaim) {
		return func(claim *corev1.PersistentVolumeClaim) {
			claim.Annotations = map[string]string{importSource: source, importEndpoint: endpoint}
		}
	}
	w := newWorld(t)
	w.withImage()
	claim := w.claim("data", "local", annotate("registry", "docker://example/disk"))
	w.prepare(w.create(vmiWith("a", usesClaim("data"))))
	made, err := w.local.Get(t.Context(), volumeName(claim))
	if err != nil {
		t.Fatal(err)
	}
	if content := w.local.ReadAt(t, made, 4, 0); string(content) != "\x07\x07\x07\x07" || made.Size != 1<<30 {
		t.Errorf("content %v, size %d", content, made.Size)
	}
	if w.images.asked != "example/disk" || w.images.held != 1 || w.images.released != 1 {
		t.Errorf("%+v", w.images)
	}
	for name, test := range map[string]struct{ source, endpoint, want string }{
		"http":      {"http", "https://example.test/disk.img", importSource},
		"no-scheme": {"registry", "example/disk", importEndpoint},
	} {
		claim := w.claim(name, "local", annotate(test.source, test.endpoint))
		if got := w.refusal(w.create(vmiWith(name, usesClaim(name)))); !strings.Contains(got.Error(), test.want) {
			t.Errorf("%s: %v", name, got)
		}
		if w.has(w.local, volumeName(claim)) {
			t.Errorf("%s: an empty volume was made in place of the image", name)
		}
	}
	w.images.fail = errors.New("manifest unknown")
	w.claim("unknown", "local", annotate("registry", "docker://example/gone"))
	if got := w.refusal(w.create(vmiWith("unknown", usesClaim("unknown")))); !errors.Is(got, w.images.fail) {
		t.Error(got)
	}
}

func TestUsageLeavesOutAPoolThatCannotBeMeasured(t *testing.T) {
	w := newWorld(t)
	w.shared.FailWith(func(string, string) error { return errors.New("server is away") })
	usage := w.claims.Usage(t.Context())
	if _, ok := usage["nfs"]; ok || usage["local"].Capacity == 0 {
		t.Errorf("%+v", usage)
	}
}
