package objects_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// BenchmarkInformerSync measures how long an informer of 100,000 objects takes from its
// start until it is in sync, when it decodes each of them once.
func BenchmarkInformerSync(b *testing.B) {
	const number, perTransaction = 100_000, 500
	store := objects.FromRaft(raftstoretest.New(b), nil)
	kind := objects.KindFor[*corev1.ConfigMap]()
	for i := 0; i < number; {
		var txn raftstore.Txn
		for range perTransaction {
			m := &corev1.ConfigMap{Data: map[string]string{"key": fmt.Sprint("value ", i)}}
			m.Namespace, m.Name = fmt.Sprint("ns", i%100), fmt.Sprint("map-", i)
			value, err := objects.Encode(m)
			if err != nil {
				b.Fatal(err)
			}
			txn.Ops = append(txn.Ops, raftstore.Op{Key: kind.StoreKey(objects.KeyOf(m)), Value: value})
			i++
		}
		if _, err := store.Commit(b.Context(), txn); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		cfg := objects.DefaultCacheConfig()
		cfg.Store, cfg.Logger = store, slog.New(slog.DiscardHandler)
		cache, err := objects.NewCache(cfg)
		if err != nil {
			b.Fatal(err)
		}
		maps := objects.For[*corev1.ConfigMap](cache)
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan struct{})
		go func() { defer close(done); cache.Run(ctx) }()
		if err := maps.WaitForSync(ctx); err != nil {
			b.Fatal(err)
		}
		cancel()
		<-done
		if n := len(maps.Keys()); n != number {
			b.Fatalf("the informer has %d objects", n)
		}
	}
}
