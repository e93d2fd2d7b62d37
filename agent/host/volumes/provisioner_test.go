package volumes

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/storage"
)

func TestClaimOfALocalPoolIsBoundToTheHost(t *testing.T) {
	w := newWorld(t)
	claim := w.claim("data", "local", nil)
	vmi := w.create(vmiWith("a", usesClaim("data")))
	disks, _ := w.prepare(vmi)
	bound := w.stored("data")
	if bound.Status.Phase != corev1.ClaimBound || bound.Annotations[SelectedNode] != "host1" || bound.Annotations[poolAnnotation] != "local" || !slices.Contains(bound.Finalizers, claimFinalizer) {
		t.Errorf("%+v, %+v", bound.ObjectMeta, bound.Status)
	}
	if size := bound.Status.Capacity[corev1.ResourceStorage]; size.Value() != 1<<30 || bound.Spec.VolumeName != volumeName(claim) {
		t.Errorf("%s of %s", bound.Spec.VolumeName, size.String())
	}
	made, err := w.local.Get(t.Context(), volumeName(claim))
	if err != nil || made.Size != 1<<30 || disks["vol0"].Path != made.Path || disks["vol0"].Format != string(made.Format) {
		t.Errorf("volume %+v, %v; disk %+v", made, err, disks["vol0"])
	}
	before := w.Store.Commits()
	w.prepare(vmi)
	if n := w.Store.Commits() - before; n != 0 {
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
	w.Commit(func(tx *objects.Tx) {
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
		disks, _ := w.prepare(w.create(vmiWith(name, usesClaim("data"))))
		for volume, disk := range disks {
			if !disk.HeldByMany {
				t.Errorf("volume %s of %s is not told to be held by many", volume, name)
			}
		}
	}
}

func TestPoolOfAClaim(t *testing.T) {
	w := newWorld(t)
	named := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Parameters: map[string]string{"storagePool": "nfs"}}
	w.Commit(func(tx *objects.Tx) { tx.Create(named) })
	w.Commit(func(tx *objects.Tx) {
		tx.Create(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}})
	})
	for class, want := range map[string]string{"local": "local", "fast": "nfs", "": kinds.DefaultPool} {
		if got, err := w.claims.placeOf(t.Context(), w.claim("of-"+class+"-class", class, nil)); err != nil || got.pool.Info().Name != want {
			t.Errorf("class %q: %+v, %v; want %q", class, got, err, want)
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
	isDefault.Annotations = map[string]string{kinds.DefaultClass: "true"}
	w.Commit(func(tx *objects.Tx) { tx.Update(named, isDefault) })
	if got, err := w.claims.placeOf(t.Context(), w.stored("of--class")); err != nil || got.pool.Info().Name != "nfs" {
		t.Errorf("default class: %+v, %v", got, err)
	}
}

func TestImport(t *testing.T) {
	annotate := func(source, endpoint string) func(*corev1.PersistentVolumeClaim) {
		return func(claim *corev1.PersistentVolumeClaim) {
			claim.Annotations = map[string]string{kinds.ImportSource: source, kinds.ImportEndpoint: endpoint}
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
		"http":      {"http", "https://example.test/disk.img", kinds.ImportSource},
		"no-scheme": {"registry", "example/disk", kinds.ImportEndpoint},
	} {
		claim := w.claim(name, "local", annotate(test.source, test.endpoint))
		if got := w.refusal(w.create(vmiWith(name, usesClaim(name)))); !strings.Contains(got.Error(), test.want) {
			t.Errorf("%s: %v", name, got)
		}
		if w.has(w.local, volumeName(claim)) || w.stored(name).Status.Phase == corev1.ClaimBound {
			t.Errorf("%s: an empty volume was made in place of the image, or the claim was bound to none", name)
		}
	}
	w.images.fail = errors.New("manifest unknown")
	w.claim("unknown", "local", annotate("registry", "docker://example/gone"))
	if got := w.refusal(w.create(vmiWith("unknown", usesClaim("unknown")))); !errors.Is(got, w.images.fail) {
		t.Error(got)
	}
}

func TestReadOnlyClaimIsAReadOnlyDisk(t *testing.T) {
	w := newWorld(t)
	w.claim("data", "local", nil)
	for _, readOnly := range []bool{true, false} {
		source := usesClaim("data")
		source.PersistentVolumeClaim.ReadOnly = readOnly
		vmi := w.create(vmiWith("a-"+strconv.FormatBool(readOnly), source))
		if disks, _ := w.prepare(vmi); disks["vol0"].ReadOnly != readOnly {
			t.Errorf("asked for read-only %v: %+v", readOnly, disks["vol0"])
		}
		w.end(vmi)
	}
}

// What a claim was bound to is not looked up again, and not made again.
func TestBoundClaimGetsNoSecondVolume(t *testing.T) {
	for name, test := range map[string]struct {
		class string
		lose  func(w *world)
		host  func(w *world) *Provisioner
		want  string
	}{
		"pool not mounted": {"local", func(w *world) {
			if err := w.local.Delete(w.t.Context(), volumeName(w.stored("data"))); err != nil {
				w.t.Fatal(err)
			}
		}, func(w *world) *Provisioner { return w.claims }, "mounted"},
		"host forgotten": {"local", func(w *world) {
			w.edit("data", func(claim *corev1.PersistentVolumeClaim) { delete(claim.Annotations, SelectedNode) })
		}, func(w *world) *Provisioner { return w.other }, SelectedNode},
		"everything forgotten": {"local", func(w *world) {
			w.edit("data", func(claim *corev1.PersistentVolumeClaim) { claim.Annotations = nil })
		}, func(w *world) *Provisioner { return w.other }, poolAnnotation},
		"pool unusable": {"nfs", func(w *world) {
			delete(w.claims.Pools(), "nfs")
			w.claims.Unusable = func(string) error { return storage.ErrUnavailable }
		}, func(w *world) *Provisioner { return w.claims }, storage.ErrUnavailable.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			claim := w.claim("data", test.class, nil)
			vmi := w.create(vmiWith("a", usesClaim("data")))
			w.prepare(vmi)
			test.lose(w)
			p := test.host(w)
			_, err := p.disk(t.Context(), vmi, vmi.Spec.Volumes[0])
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "data") {
				t.Errorf("got %v, want %q", err, test.want)
			}
			for _, pool := range p.Pools() {
				if p == w.other && w.has(pool, volumeName(claim)) {
					t.Errorf("a second volume was made in %s", pool.Info().Name)
				}
			}
		})
	}
}

func TestBoundClaimKeepsItsPool(t *testing.T) {
	w := newWorld(t)
	w.claim("data", "", nil)
	vmi := w.create(vmiWith("a", usesClaim("data")))
	before, _ := w.prepare(vmi)
	w.Commit(func(tx *objects.Tx) {
		tx.Create(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "new", Annotations: map[string]string{kinds.DefaultClass: "true"}},
			Parameters: map[string]string{"storagePool": "nfs"}})
	})
	for name, lose := range map[string]func(*corev1.PersistentVolumeClaim){
		"another default class":  func(*corev1.PersistentVolumeClaim) {},
		"annotations taken away": func(claim *corev1.PersistentVolumeClaim) { claim.Annotations = nil },
	} {
		w.edit("data", lose)
		if after, _ := w.prepare(vmi); after["vol0"] != before["vol0"] {
			t.Errorf("%s: %+v, was %+v", name, after["vol0"], before["vol0"])
		}
	}
	if got := w.stored("data").Annotations; got[SelectedNode] != "host1" || got[poolAnnotation] != "local" {
		t.Errorf("what was lost was not written again: %v", got)
	}
}

func TestClaimIsNotBoundBeforeItsVolumeIsThere(t *testing.T) {
	w := newWorld(t)
	claim := w.claim("data", "local", nil)
	vmi := w.create(vmiWith("a", usesClaim("data")))
	w.local.FailWith(func(op, _ string) error {
		if op == "Create" {
			return storage.ErrNoSpace
		}
		return nil
	})
	if got := w.refusal(vmi); !errors.Is(got, storage.ErrNoSpace) {
		t.Error(got)
	}
	got := w.stored("data")
	if got.Status.Phase == corev1.ClaimBound || got.Annotations[poolAnnotation] != "local" || got.Annotations[SelectedNode] != "host1" || !objects.HasFinalizer(got, claimFinalizer) {
		t.Errorf("%+v, %+v", got.ObjectMeta, got.Status)
	}
	w.local.FailWith(nil)
	w.prepare(vmi)
	if got := w.stored("data"); got.Status.Phase != corev1.ClaimBound || !w.has(w.local, volumeName(claim)) {
		t.Errorf("%+v", got.Status)
	}
}

// What a start accepted can be ended: the API of an older host may have let two
// volumes name one claim.
func TestAnInstanceThatNamesAClaimTwiceGivesItUp(t *testing.T) {
	w := newWorld(t)
	w.claim("data", "local", nil)
	vmi := w.create(vmiWith("a", usesClaim("data"), usesClaim("data")))
	w.prepare(vmi)
	w.end(vmi)
	held, err := claims.GetVolume(t.Context(), w.Store, objects.Key{Namespace: "ns", Name: "data"}, raftstore.ReadOptions{})
	if err != nil || len(held.Holders) != 0 {
		t.Errorf("held by %v, %v", held.Holders, err)
	}
}
