package collect

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
)

func TestClaimsOfLostInstancesAreSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objectstest.New(claims.Rules()...)
		commit := func(build func(tx *objects.Tx)) {
			t.Helper()
			var tx objects.Tx
			build(&tx)
			if _, err := tx.Commit(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		log := slog.New(slog.DiscardHandler)
		cacheCfg := objects.DefaultCacheConfig()
		cacheCfg.Store, cacheCfg.Logger = s, log
		cache, err := objects.NewCache(cacheCfg)
		if err != nil {
			t.Fatal(err)
		}
		cc := claims.NewCache(cache, log)
		var guest atomic.Bool
		cfg := DefaultSweeperConfig()
		cfg.Host, cfg.Store, cfg.Cache, cfg.Claims, cfg.Logger = "h1", s, cache, cc, log
		cfg.HasGuest = func(_ context.Context, uid types.UID) (bool, error) { return uid == "lost" && guest.Load(), nil }
		sweeper, err := NewSweeper(cfg)
		if err != nil {
			t.Fatal(err)
		}
		guest.Store(true)
		for _, host := range []string{"h1", "h2"} {
			commit(func(tx *objects.Tx) { claims.Publish(tx, claims.Capacity{Host: host}) })
		}
		var lost *kubevirtv1.VirtualMachineInstance
		for name, host := range map[string]string{"lost": "h1", "kept": "h1", "elsewhere": "h2"} {
			vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
			if name == "lost" {
				lost = vmi
			}
			commit(func(tx *objects.Tx) {
				if name != "elsewhere" {
					tx.Create(vmi)
				}
				claims.Place(tx, claims.Instance{Namespace: "ns", Name: name, UID: vmi.UID, Host: host}, claims.Epoch{})
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { cache.Run(ctx) })
		wg.Go(func() {
			if err := sweeper.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		commit(func(tx *objects.Tx) {
			claims.Attach(tx, cc.Volume(objects.Key{Namespace: "ns", Name: "disk"}), "lost")
		})
		commit(func(tx *objects.Tx) { tx.Delete(lost, objects.DeleteOptions{}) })
		time.Sleep(time.Minute)
		if n := len(s.Keys("/claims/vmi/")); n != 3 {
			t.Errorf("%d claims while the guest is there, want 3", n)
		}
		guest.Store(false)
		time.Sleep(time.Minute)
		if _, ok := cc.Instance("lost"); ok || len(s.Keys("/claims/volume/")) != 0 || len(s.Keys("/claims/vmi/")) != 2 {
			t.Errorf("left: %v", s.Keys("/claims/"))
		}
		cancel()
		wg.Wait()
	})
}
