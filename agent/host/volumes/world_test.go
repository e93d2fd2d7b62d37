package volumes

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/hosttest"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
	"virtmesh/storage"
	"virtmesh/storage/containerdisk"
	"virtmesh/storage/ephemeral"
	"virtmesh/storage/storagetest"
)

// images gives one image for every reference.
type images struct {
	image    containerdisk.Image
	fail     error
	asked    string
	options  containerdisk.PullOptions
	held     int
	released int
}

func (i *images) Pull(_ context.Context, ref string, o containerdisk.PullOptions) (containerdisk.Image, func(), error) {
	i.asked, i.options = ref, o
	if i.fail != nil {
		return containerdisk.Image{}, nil, i.fail
	}
	i.held++
	return i.image, func() { i.released++ }, nil
}

// world is a mesh of one store with two hosts that both have a pool of their
// own, and one they share.
type world struct {
	*hosttest.World
	t      *testing.T
	images *images
	local  *storagetest.Fake
	shared *storagetest.Fake
	// claims and other are the provisioners of host1 and host2. removed are hosts
	// that are members no more.
	claims, other *Provisioner
	removed       map[string]bool
	volumes       *Volumes
	// unconfirmed is why the hosts' copies of the mesh's state are not certain.
	unconfirmed error
	// noRoom is why nothing new may take room on host1.
	noRoom error
	// states is what host1 keeps for TPMs and firmware.
	states *states
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		World: hosttest.New(t, objectstest.New(claims.Rules()...)), t: t, images: &images{}, removed: map[string]bool{},
		local:  storagetest.NewFake("local", storage.Capabilities{}),
		shared: storagetest.NewFake("nfs", storage.Capabilities{Shared: true}),
	}
	recorder := objects.DefaultRecorderConfig()
	recorder.Store, recorder.Logger, recorder.Component, recorder.Host = w.Store, w.Logger, "test", "host1"
	events, err := objects.NewRecorder(recorder)
	if err != nil {
		t.Fatal(err)
	}
	w.states = newStates()
	provisioner := func(host string, local storage.Pool, states *states) *Provisioner {
		pools := map[string]storage.Pool{"local": local, "nfs": w.shared}
		return NewProvisioner(ProvisionerConfig{Host: host, Store: w.Store, Cache: w.Cache, Images: w.images, Logger: w.Logger, Events: events, States: states,
			Confirm: func(context.Context) error { return w.unconfirmed },
			Removed: func(_ context.Context, host string) (bool, error) { return w.removed[host], nil },
			Mine:    func(objects.Key) bool { return true },
			Pools:   func() map[string]storage.Pool { return pools }})
	}
	w.claims = provisioner("host1", w.local, w.states)
	w.other = provisioner("host2", storagetest.NewFake("local", storage.Capabilities{}), newStates())
	w.Start(events.Run)
	if err := errors.Join(w.claims.claims.WaitForSync(t.Context()), w.claims.vmis.WaitForSync(t.Context())); err != nil {
		t.Fatal(err)
	}
	disks, err := ephemeral.New(ephemeral.DefaultConfig(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	w.volumes = New(Config{Store: w.Store, Secrets: w.Store, Images: w.images, Disks: disks, Claims: w.claims, Room: func() error { return w.noRoom }, LetPass: func() (bool, error) { return false, nil }, Events: events})
	w.Commit(func(tx *objects.Tx) { claims.Publish(tx, claims.Capacity{Host: "host1"}) })
	for _, pool := range []string{"local", "nfs"} {
		w.Commit(func(tx *objects.Tx) { tx.Create(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: pool}}) })
	}
	return w
}

func vmiWith(name string, sources ...kubevirtv1.VolumeSource) *kubevirtv1.VirtualMachineInstance {
	vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	for i, source := range sources {
		vmi.Spec.Volumes = append(vmi.Spec.Volumes, kubevirtv1.Volume{Name: "vol" + string(rune('0'+i)), VolumeSource: source})
	}
	return vmi
}

// create stores the instance with its place on host1, and waits until the
// informers show it.
func (w *world) create(vmi *kubevirtv1.VirtualMachineInstance) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	w.Commit(func(tx *objects.Tx) { tx.Create(vmi) })
	w.Commit(func(tx *objects.Tx) {
		claims.Place(tx, claims.Instance{UID: vmi.UID, Namespace: vmi.Namespace, Name: vmi.Name, Host: "host1"}, claims.Epoch{})
	})
	w.AwaitShown(func() bool { _, ok := w.claims.vmis.Get(objects.KeyOf(vmi)); return ok })
	return vmi
}

func usesClaim(name string) kubevirtv1.VolumeSource {
	source := &kubevirtv1.PersistentVolumeClaimVolumeSource{}
	source.ClaimName = name
	return kubevirtv1.VolumeSource{PersistentVolumeClaim: source}
}

// claim stores a claim of a gibibyte from the class.
func (w *world) claim(name, class string, edit func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	claim.Spec.StorageClassName = &class
	claim.Status.Phase = corev1.ClaimPending
	if edit != nil {
		edit(claim)
	}
	w.Commit(func(tx *objects.Tx) { tx.Create(claim) })
	return claim
}

// stored reads the claim; nil when it is gone.
func (w *world) stored(name string) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	got, err := objects.Get[*corev1.PersistentVolumeClaim](w.t.Context(), w.Store, objects.Key{Namespace: "ns", Name: name}, raftstore.ReadOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

func (w *world) has(pool storage.Pool, volume string) bool {
	w.t.Helper()
	_, err := pool.Get(w.t.Context(), volume)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		w.t.Fatal(err)
	}
	return err == nil
}

// refusal returns the *VolumeError that Prepare ends in.
func (w *world) refusal(vmi *kubevirtv1.VirtualMachineInstance) *executor.VolumeError {
	w.t.Helper()
	disks, _, err := w.volumes.Prepare(w.t.Context(), vmi)
	var refused *executor.VolumeError
	if !errors.As(err, &refused) {
		w.t.Fatalf("disks %v, error %v, want a VolumeError", disks, err)
	}
	return refused
}

// told waits for an event of that reason whose message holds text.
func (w *world) told(reason, text string) {
	w.t.Helper()
	w.AwaitShown(func() bool {
		events, _, err := objects.List[*corev1.Event](w.t.Context(), w.Store, "", localRead)
		if err != nil {
			w.t.Fatal(err)
		}
		return slices.ContainsFunc(events, func(e *corev1.Event) bool { return e.Reason == reason && strings.Contains(e.Message, text) })
	})
}

// end finishes an instance: it gives up its place and its volumes.
func (w *world) end(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	now, _ := w.claims.vmis.Get(objects.KeyOf(vmi))
	ended := now.DeepCopy()
	ended.Status.Phase = kubevirtv1.Succeeded
	w.Commit(func(tx *objects.Tx) {
		if err := w.claims.Detach(w.t.Context(), tx, now); err != nil {
			w.t.Fatal(err)
		}
		tx.Update(now, ended)
	})
	w.AwaitShown(func() bool { got, _ := w.claims.vmis.Get(objects.KeyOf(vmi)); return got.IsFinal() })
}

// edit changes a claim as a user would, and waits until the informers show it.
func (w *world) edit(name string, change func(*corev1.PersistentVolumeClaim)) {
	w.t.Helper()
	now := w.stored(name)
	next := now.DeepCopy()
	change(next)
	w.Commit(func(tx *objects.Tx) { tx.Update(now, next) })
	w.AwaitShown(func() bool {
		got, ok := w.claims.claims.Get(objects.KeyOf(next))
		return ok && got.ResourceVersion == next.ResourceVersion
	})
}

// reconcile runs a provisioner on the claim, which must not fail.
func (w *world) reconcile(p *Provisioner, name string) stewards.Result {
	w.t.Helper()
	result, err := p.Reconcile(w.t.Context(), objects.Key{Namespace: "ns", Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	return result
}
