package sweep

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
	"virtmesh/raftstore"
)

func TestClaimsOfLostInstancesAreSwept(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		cc := w.Host("h1").Deps.Claims
		var guest, unconfirmed atomic.Bool
		sweeper, err := New(w.Host("h1").Deps, "h1", func(_ context.Context, uid types.UID) (bool, error) { return uid == "lost" && guest.Load(), nil },
			func(context.Context) error {
				if unconfirmed.Load() {
					return raftstore.ErrUnconfirmed
				}
				return nil
			})
		w.Check(err)
		guest.Store(true)
		for _, host := range []string{"h1", "h2"} {
			w.Commit(func(tx *objects.Tx) { claims.Publish(tx, claims.Capacity{Host: host}) })
		}
		var lost *kubevirtv1.VirtualMachineInstance
		for name, host := range map[string]string{"lost": "h1", "kept": "h1", "elsewhere": "h2"} {
			vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
			if name == "lost" {
				lost = vmi
			}
			w.Commit(func(tx *objects.Tx) {
				if name != "elsewhere" {
					tx.Create(vmi)
				}
				claims.Place(tx, claims.Instance{Namespace: "ns", Name: name, UID: vmi.UID, Host: host}, claims.Epoch{})
			})
		}
		w.Run(sweeper.Run)
		synctest.Wait()
		w.Commit(func(tx *objects.Tx) {
			claims.Attach(tx, cc.Volume(objects.Key{Namespace: "ns", Name: "disk"}), "lost")
		})
		w.Commit(func(tx *objects.Tx) { tx.Delete(lost, objects.DeleteOptions{}) })
		time.Sleep(time.Minute)
		if n := len(w.Store.Keys("/claims/vmi/")); n != 3 {
			t.Errorf("%d claims while the guest is there, want 3", n)
		}
		guest.Store(false)
		unconfirmed.Store(true)
		time.Sleep(time.Minute)
		if n := len(w.Store.Keys("/claims/vmi/")); n != 3 {
			t.Errorf("%d claims while nobody confirms that the instance is gone, want 3", n)
		}
		unconfirmed.Store(false)
		time.Sleep(10 * time.Minute)
		if _, ok := cc.Instance("lost"); ok || len(w.Store.Keys("/claims/volume/")) != 0 || len(w.Store.Keys("/claims/vmi/")) != 2 {
			t.Errorf("left: %v", w.Store.Keys("/claims/"))
		}
	})
}
