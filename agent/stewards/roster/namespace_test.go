package roster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/claims"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
	machine "virtmesh/agent/vmi"
	"virtmesh/agent/vmi/vmitest"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// alive is a membership in which the named hosts live, and never change.
type alive []string

// Members implements schedule.Facts.
func (a alive) Members() []gossip.Member {
	var members []gossip.Member
	for _, name := range a {
		m, _ := a.Member(name)
		members = append(members, m)
	}
	return members
}

// Member implements schedule.Facts.
func (a alive) Member(name string) (gossip.Member, bool) {
	return gossip.Member{Name: name, State: gossip.Alive, Facts: gossip.Facts{KVM: true}}, slices.Contains(a, name)
}

// Subscribe implements schedule.Facts.
func (a alive) Subscribe(func(string)) (cancel func()) { return func() {} }

const foreign = "example.com/hold"

// thing is an object of a drawn kind, and what becomes of it.
type thing struct {
	object kinds.Object
	owner  int // of an earlier thing, or -1
	// held is how long a finalizer that no part of the mesh knows keeps it.
	held time.Duration
}

// life is a namespace that is filled, lives for a time and is deleted.
type life struct {
	things   []thing
	memory   int64 // of the only host that takes instances
	lives    time.Duration
	late     int           // how many of the things come after the deletion, as long as something is left
	killed   bool          // the first steward dies in the middle
	slowness time.Duration // of the host
}

// drawLife draws a life, in which half of the things are machines.
func drawLife(t *rapid.T) life {
	l := life{
		memory: int64(rapid.SampledFrom([]int{0, 1, 64}).Draw(t, "GiB")) << 30,
		lives:  time.Duration(rapid.SampledFrom([]int{0, 1, 30}).Draw(t, "lives")) * time.Second,
		killed: rapid.Bool().Draw(t, "killed"), slowness: time.Duration(rapid.IntRange(1, 20).Draw(t, "slowness")) * time.Second,
	}
	var namespaced []*kinds.Kind
	for _, kind := range kinds.All() {
		if kind.Namespaced {
			namespaced = append(namespaced, kind)
		}
	}
	machines := []*kinds.Kind{kinds.For[*kubevirtv1.VirtualMachine](), kinds.For[*kubevirtv1.VirtualMachineInstance]()}
	for i := range rapid.IntRange(0, 8).Draw(t, "things") {
		kind := rapid.SampledFrom(rapid.SampledFrom([][]*kinds.Kind{machines, namespaced}).Draw(t, "kinds")).Draw(t, "kind")
		made := thing{object: drawObject(t, kind, i), owner: rapid.IntRange(-1, max(len(l.things)-1, -1)).Draw(t, "owner")}
		if rapid.IntRange(0, 3).Draw(t, "held") == 0 {
			made.held = time.Duration(rapid.IntRange(1, 60).Draw(t, "for")) * time.Second
			made.object.SetFinalizers(append(made.object.GetFinalizers(), foreign))
		}
		l.things = append(l.things, made)
	}
	l.late = rapid.IntRange(0, len(l.things)).Draw(t, "late")
	return l
}

// drawMachine draws a machine that the API lets in.
func drawMachine(t *rapid.T) kubevirtv1.VirtualMachineInstanceSpec {
	drawn := vmitest.Instance(t)
	valid := drawn.DeepCopy()
	machine.SetNewInstance(machine.DefaultDefaults(), valid, time.Unix(0, 0))
	if len(machine.ValidateInstance(machine.DefaultDefaults(), valid)) > 0 {
		drawn.Spec = kubevirtv1.VirtualMachineInstanceSpec{}
		memory := resource.MustParse("128Mi")
		drawn.Spec.Domain.Memory = &kubevirtv1.Memory{Guest: &memory}
	}
	return drawn.Spec
}

func drawObject(t *rapid.T, kind *kinds.Kind, i int) kinds.Object {
	obj := kind.New()
	obj.SetNamespace("doomed")
	obj.SetName(fmt.Sprintf("thing%d", i))
	switch o := obj.(type) {
	case *kubevirtv1.VirtualMachine:
		strategy := rapid.SampledFrom([]kubevirtv1.VirtualMachineRunStrategy{
			kubevirtv1.RunStrategyAlways, kubevirtv1.RunStrategyHalted, kubevirtv1.RunStrategyOnce, kubevirtv1.RunStrategyRerunOnFailure,
		}).Draw(t, "strategy")
		o.Spec.RunStrategy = &strategy
		o.Spec.Template = &kubevirtv1.VirtualMachineInstanceTemplateSpec{Spec: drawMachine(t)}
	case *kubevirtv1.VirtualMachineInstance:
		o.Spec = drawMachine(t)
	case *kubevirtv1.VirtualMachineInstanceMigration:
		o.Spec.VMIName = "thing0"
	}
	if kind.Default != nil {
		kind.Default(machine.DefaultDefaults(), obj)
	}
	if rapid.Bool().Draw(t, "with finalizers") {
		var finalizers []string
		for f := range kind.Finalizers {
			finalizers = append(finalizers, f)
		}
		slices.Sort(finalizers)
		obj.SetFinalizers(finalizers)
	}
	return obj
}

// Whatever a namespace holds, and whoever still has to let go of it, its deletion ends
// with nothing of it left, and leaves other namespaces alone.
func TestADeletedNamespaceEndsEmpty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		drawn, left := drawLife(rt), ""
		stewardstest.Run(t, func(w *stewardstest.World) { left = drawn.live(w) })
		if left != "" {
			rt.Fatal(left)
		}
	})
}

// live lets the namespace live and end, and returns what is wrong then.
func (l life) live(w *stewardstest.World) string {
	for _, host := range []string{"h1", "h2"} {
		startAll(w, host)
	}
	w.Commit(func(tx *objects.Tx) {
		claims.Publish(tx, claims.Capacity{Host: "h2", Allocatable: machine.Resources{CPUMilli: 64000, MemoryBytes: l.memory}})
	})
	for _, name := range []string{"doomed", "other"} {
		w.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}})
	}
	var kept []string
	for _, kind := range kinds.All() {
		if !kind.Namespaced {
			continue
		}
		switch kind.New().(type) {
		case *kubevirtv1.VirtualMachine, *kubevirtv1.VirtualMachineInstance, *kubevirtv1.VirtualMachineInstanceMigration, *corev1.Event:
			continue // these have ends of their own
		}
		obj := kind.New()
		obj.SetNamespace("other")
		obj.SetName("kept")
		w.Create(obj)
		kept = append(kept, kind.StoreKey(kinds.KeyOf(obj)))
	}
	l.create(w, l.things[l.late:])
	time.Sleep(l.lives)
	w.Host("h2").Start(l.host(w))
	stewardstest.Delete[*corev1.Namespace](w, objects.Key{Name: "doomed"}, objects.DeleteOptions{})
	if stewardstest.Get[*corev1.Namespace](w, objects.Key{Name: "doomed"}) != nil {
		l.create(w, l.things[:l.late]) // the API had let them in just before
	}
	if l.killed {
		time.Sleep(500 * time.Millisecond)
		w.Host("h1").Kill()
	}
	var wrong []string
	for range 600 {
		time.Sleep(time.Second)
		gone := stewardstest.Get[*corev1.Namespace](w, objects.Key{Name: "doomed"}) == nil
		if left := w.Store.Keys("/registry/"); gone && slices.ContainsFunc(left, inDoomed) {
			return fmt.Sprintf("the namespace is gone before its content: %v", left)
		}
	}
	for _, key := range w.Store.Keys("/") {
		if strings.Contains(key, "/doomed") && !strings.HasPrefix(key, "/claims/epoch/") {
			wrong = append(wrong, "left: "+key)
		}
	}
	wrong = append(wrong, w.Store.Keys("/claims/vmi/")...)
	wrong = append(wrong, w.Store.Keys("/claims/host/")...)
	for _, key := range kept {
		if !slices.Contains(w.Store.Keys(key), key) {
			wrong = append(wrong, "gone: "+key)
		}
	}
	return strings.Join(wrong, "; ")
}

func inDoomed(storeKey string) bool { return strings.Contains(storeKey, "/doomed/") }

// create creates things, with references to owners that exist.
func (l life) create(w *stewardstest.World, things []thing) {
	for _, made := range things {
		obj := made.object.DeepCopyObject().(kinds.Object)
		if made.owner >= 0 && made.owner < len(l.things) {
			if owner := l.things[made.owner].object; owner.GetUID() != "" {
				kind, err := kinds.Of(owner)
				w.Check(err)
				obj.SetOwnerReferences([]metav1.OwnerReference{{
					APIVersion: kind.GVK.GroupVersion().String(), Kind: kind.GVK.Kind, Name: owner.GetName(), UID: owner.GetUID(),
				}})
			}
		}
		w.Create(obj)
		made.object.SetUID(obj.GetUID())
	}
}

// host is what the loops of the hosts do with what is deleted: the instances that they
// run end, and the volumes go. Strangers let go of what they hold, each in its time.
func (l life) host(w *stewardstest.World) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		for begun := time.Now(); ctx.Err() == nil; {
			l.letGo(ctx, w, time.Since(begun))
			select {
			case <-ctx.Done():
			case <-time.After(l.slowness):
			}
		}
		return nil
	}
}

// letGo removes what hosts and strangers hold of the objects that are deleted.
func (l life) letGo(ctx context.Context, w *stewardstest.World, since time.Duration) {
	held := map[string]time.Duration{}
	for _, t := range l.things {
		held[t.object.GetName()] = t.held
	}
	_, err := objects.ListRecords(ctx, w.Store, kinds.Root, raftstore.ReadOptions{}, func(rec raftstore.Record) error {
		raw, err := objects.DecodeRaw(rec)
		if err != nil || raw.GetDeletionTimestamp() == nil || raw.GetNamespace() != "doomed" {
			return err
		}
		raw.Unstructured = raw.DeepCopy()
		var tx objects.Tx
		changed := objects.RemoveFinalizer(raw, kinds.VolumeFinalizer)
		if in, ok, err := claims.GetInstance(ctx, w.Store, raw.GetUID(), raftstore.ReadOptions{}); err == nil && ok {
			claims.Release(&tx, in)
			changed = objects.RemoveFinalizer(raw, kubevirtv1.VirtualMachineInstanceFinalizer) || changed
		}
		if since >= held[raw.GetName()] {
			changed = objects.RemoveFinalizer(raw, foreign) || changed
		}
		if !changed {
			return nil
		}
		tx.UpdateRaw(raw)
		if _, err := tx.Commit(ctx, w.Store); err != nil && !apierrors.IsConflict(err) && ctx.Err() == nil {
			w.Error(err)
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		w.Error(err)
	}
}
