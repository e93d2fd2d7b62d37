package collect

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
	"virtmesh/raftstore"
)

// The epochs of names without machine, instance and claim are forgotten, and
// no name is given one twice.
func TestEpochsOfUnusedNamesAreForgotten(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		s, commit := w.Store, w.Commit
		read := raftstore.ReadOptions{}
		place := func(name, uid string) (in claims.Instance) {
			t.Helper()
			last, err := claims.GetEpoch(t.Context(), s, objects.Key{Namespace: "ns", Name: name}, read)
			if err != nil {
				t.Fatal(err)
			}
			commit(func(tx *objects.Tx) {
				claims.Place(tx, claims.Instance{Namespace: "ns", Name: name, UID: types.UID(uid), Host: "h1"}, last)
			})
			if in, _, err = claims.GetInstance(t.Context(), s, types.UID(uid), read); err != nil {
				t.Fatal(err)
			}
			return in
		}
		epochs, err := NewEpochs(w.Host("h1").Deps)
		w.Check(err)
		commit(func(tx *objects.Tx) {
			claims.Publish(tx, claims.Capacity{Host: "h1"})
			meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: name} }
			tx.Create(&kubevirtv1.VirtualMachine{ObjectMeta: meta("machine")})
			tx.Create(&kubevirtv1.VirtualMachineInstance{ObjectMeta: meta("instance")})
		})
		for range 3 {
			in := place("bare", "bare-"+time.Now().String())
			commit(func(tx *objects.Tx) { claims.Release(tx, in) })
			time.Sleep(time.Second)
		}
		for _, name := range []string{"machine", "instance"} {
			in := place(name, name)
			commit(func(tx *objects.Tx) { claims.Release(tx, in) })
		}
		place("claimed", "claimed")
		commit(func(tx *objects.Tx) {
			tx.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "exists"}})
			in := claims.Instance{Namespace: "ns", UID: "any"}
			claims.Depend(tx, in, claims.Regard{KeptOut: []string{"exists", "gone", "ns"}}, claims.Sight{})
		})
		w.Run(epochs.Run)
		time.Sleep(5 * time.Minute)
		if keys := s.Keys("/claims/epoch/"); len(keys) != 3 {
			t.Errorf("epochs %v, want those of claimed, instance and machine", keys)
		}
		if keys := s.Keys("/claims/guard/"); !slices.Equal(keys, []string{"/claims/guard/exists", "/claims/guard/ns"}) {
			t.Errorf("guards %v, want those of a namespace that exists, and of one in which something runs", keys)
		}
		if in := place("bare", "again"); in.Epoch != 4 {
			t.Errorf("epoch %d after three were used, want 4", in.Epoch)
		}
		if n := w.CommitsDuring(time.Hour); n != 0 {
			t.Errorf("%d transactions with nothing to forget", n)
		}
	})
}
