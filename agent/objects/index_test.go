package objects_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

var _ stewards.RevisionSource = (*objects.Index[*kubevirtv1.VirtualMachineInstance])(nil)

// labelled names the keys that the values of an object's labels spell.
func labelled(vmi *kubevirtv1.VirtualMachineInstance) []objects.Key {
	var keys []objects.Key
	for _, name := range vmi.Labels {
		keys = append(keys, objects.Key{Namespace: "ns", Name: name})
	}
	return keys
}

// Whatever is written, and whenever watches break, an index finds the objects that name a
// key, and its subscribers hear of each key that an object named before or names now.
func TestIndexesFollowTheObjects(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{"put", "delete", "break", "index"}), 1, 30).Draw(rt, "steps")
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), len(steps), len(steps)).Draw(rt, "names")
		labels := rapid.SliceOfN(rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"x", "y", "z"}), 0, 2, rapid.ID), len(steps), len(steps)).Draw(rt, "labels")
		synctest.Test(t, func(t *testing.T) { followIndexes(t, rt, steps, names, labels) })
	})
}

func followIndexes(t *testing.T, rt *rapid.T, steps, names []string, labels [][]string) {
	s := objectstest.New()
	cache, stop := startCache(t, s)
	defer stop()
	inf := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
	indexes := []*objects.Index[*kubevirtv1.VirtualMachineInstance]{objects.NewIndex(inf, labelled)}
	var heard sync.Map
	indexes[0].Subscribe(func(key objects.Key) { heard.Store(key.Name, true) })
	for i, step := range steps {
		heard.Clear()
		key := objects.Key{Namespace: "ns", Name: names[i]}
		have, err := objects.Get[*kubevirtv1.VirtualMachineInstance](t.Context(), s, key, raftstore.ReadOptions{})
		exists := err == nil
		wanted := map[string]string{}
		for j, name := range labels[i] {
			wanted[fmt.Sprint("label", j)] = name
		}
		var tx objects.Tx
		switch {
		case step == "put" && exists:
			next := have.DeepCopy()
			next.Labels = wanted
			tx.Update(have, next)
		case step == "put":
			vmi := newVMI(names[i])
			vmi.Labels = wanted
			tx.Create(vmi)
		case step == "delete" && exists:
			tx.Delete(have, objects.DeleteOptions{})
		case step == "break":
			s.BreakWatches(raftstore.ErrCompacted)
		case step == "index":
			indexes = append(indexes, objects.NewIndex(inf, labelled))
		}
		wrote := !tx.Empty()
		if _, err := tx.Commit(t.Context(), s); err != nil {
			rt.Fatal(err)
		}
		time.Sleep(10 * time.Second) // until a broken watch is there again
		if !wrote {
			continue
		}
		if exists {
			for _, name := range have.Labels {
				if _, ok := heard.Load(name); !ok {
					rt.Errorf("nobody heard of %s, which %s named before", name, names[i])
				}
			}
		}
		for _, name := range labels[i] {
			if _, ok := heard.Load(name); step == "put" && !ok {
				rt.Errorf("nobody heard of %s, which %s names", name, names[i])
			}
		}
	}
	list, _, err := objects.List[*kubevirtv1.VirtualMachineInstance](t.Context(), s, "", raftstore.ReadOptions{})
	if err != nil {
		rt.Fatal(err)
	}
	for n, x := range indexes {
		checkIndex(rt, n, x, list)
	}
}

// checkIndex compares what an index finds with what the store has.
func checkIndex(rt *rapid.T, n int, x *objects.Index[*kubevirtv1.VirtualMachineInstance], list []*kubevirtv1.VirtualMachineInstance) {
	var all, keys []string
	naming := map[string][]string{}
	for _, vmi := range list {
		for _, key := range labelled(vmi) {
			naming[key.Name] = append(naming[key.Name], vmi.Name)
			keys = append(keys, key.Name)
		}
		if len(vmi.Labels) > 0 {
			all = append(all, vmi.Name)
		}
	}
	slices.Sort(keys)
	var got []string
	for _, key := range x.Keys() {
		got = append(got, key.Name)
	}
	slices.Sort(got)
	if want := slices.Compact(keys); !slices.Equal(got, want) {
		rt.Errorf("index %d has the keys %v, want %v", n, got, want)
	}
	if got := namesOf(x.List("ns")); !slices.Equal(got, all) || len(x.List("elsewhere")) > 0 {
		rt.Errorf("index %d lists %v, want %v", n, got, all)
	}
	for _, name := range []string{"x", "y", "z"} {
		if got := namesOf(x.Naming(objects.Key{Namespace: "ns", Name: name})); !slices.Equal(got, naming[name]) {
			rt.Errorf("index %d: %v name %s, want %v", n, got, name, naming[name])
		}
	}
}

func namesOf(list []*kubevirtv1.VirtualMachineInstance) []string {
	var names []string
	for _, vmi := range list {
		names = append(names, vmi.Name)
	}
	return names
}

// An informer of more objects than stay decoded shows all of them, as they are now, on a
// store that keeps them packed.
func TestInformerOfManyObjects(t *testing.T) {
	s := objects.FromRaft(raftstoretest.New(t), nil)
	const many = 600
	create := func(i int) *kubevirtv1.VirtualMachineInstance {
		vmi := newVMI(fmt.Sprintf("vmi-%03d", i))
		vmi.Annotations = map[string]string{"text": strings.Repeat("long enough to be packed ", 10), "number": fmt.Sprint(i)}
		return vmi
	}
	for i := range many {
		commit(t, s, func(tx *objects.Tx) { tx.Create(create(i)) })
	}
	cache, stop := startCache(t, s)
	defer stop()
	inf := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
	if err := inf.WaitForSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	changed := make(chan objects.Change[*kubevirtv1.VirtualMachineInstance], many+1)
	defer inf.AddHandler(func(c objects.Change[*kubevirtv1.VirtualMachineInstance]) { changed <- c })()
	for range many {
		<-changed
	}
	first := get(t, s, "vmi-000")
	next := first.DeepCopy()
	next.Annotations["number"] = "another"
	commit(t, s, func(tx *objects.Tx) { tx.Update(first, next) })
	c := <-changed
	if c.Key.Name != "vmi-000" || c.IsNew() || c.Recreated || c.Old().Annotations["number"] != "0" || c.New.Annotations["number"] != "another" {
		t.Errorf("told that %v was %v and is %v", c.Key, c.Old().Annotations, c.New.Annotations)
	}
	for round := range 2 {
		for i, vmi := range inf.List("") {
			got, ok := inf.Get(objects.KeyOf(vmi))
			want := fmt.Sprint(i)
			if i == 0 {
				want = "another"
			}
			if !ok || got.Annotations["number"] != want || vmi.Annotations["number"] != want || got.ResourceVersion != vmi.ResourceVersion {
				t.Fatalf("round %d: object %d is %v, and %v in the list", round, i, got.Annotations, vmi.Annotations)
			}
		}
	}
	if inf.Has(objects.Key{Namespace: "ns", Name: "nobody"}) || !inf.Has(objects.KeyOf(next)) {
		t.Error("what is there is confused with what is not")
	}
}

// A handler that missed a deletion is told that the object is another one.
func TestRecreatedObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New()
		commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI("a")) })
		cache, stop := startCache(t, s)
		defer stop()
		inf := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
		synctest.Wait()
		var last objects.Change[*kubevirtv1.VirtualMachineInstance]
		inf.AddHandler(func(c objects.Change[*kubevirtv1.VirtualMachineInstance]) { last = c })
		s.BreakWatches(raftstore.ErrCompacted)
		old := get(t, s, "a")
		commit(t, s, func(tx *objects.Tx) { tx.Delete(old, objects.DeleteOptions{}) })
		commit(t, s, func(tx *objects.Tx) { tx.Create(newVMI("a")) })
		time.Sleep(time.Minute)
		synctest.Wait()
		if !last.Recreated || last.Old().UID != old.UID || last.New.UID == old.UID {
			t.Errorf("told that %v became %v, recreated %v", metav1.Object(last.Old()).GetUID(), last.New.UID, last.Recreated)
		}
	})
}
