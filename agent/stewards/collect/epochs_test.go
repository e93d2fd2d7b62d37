package collect

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

// The epochs of names without machine, instance and claim are forgotten, and
// no name is given one twice.
func TestEpochsOfUnusedNamesAreForgotten(t *testing.T) {
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
		log := slog.New(slog.DiscardHandler)
		cacheCfg := objects.DefaultCacheConfig()
		cacheCfg.Store, cacheCfg.Logger = s, log
		cache, err := objects.NewCache(cacheCfg)
		if err != nil {
			t.Fatal(err)
		}
		cfg := DefaultEpochsConfig()
		cfg.Store, cfg.Cache, cfg.Claims, cfg.Logger = s, cache, claims.NewCache(cache, log), log
		epochs, err := NewEpochs(cfg)
		if err != nil {
			t.Fatal(err)
		}
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
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { cache.Run(ctx) })
		wg.Go(func() {
			if err := epochs.Run(ctx); err != nil {
				t.Error(err)
			}
		})
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
		before := s.Commits()
		time.Sleep(time.Hour)
		if n := s.Commits() - before; n != 0 {
			t.Errorf("%d transactions with nothing to forget", n)
		}
		cancel()
		wg.Wait()
	})
}
