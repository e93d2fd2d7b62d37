package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"

	"virtmesh/agent/api/store"
	"virtmesh/agent/kinds"
	"virtmesh/raftstore"
)

// seedPause is the time between attempts to write while the mesh has no leader.
const seedPause = time.Second

// seedDefaultNamespace creates the default namespace, once in the life of a mesh.
func (s *Server) seedDefaultNamespace(ctx context.Context) error {
	kind := kinds.For[*corev1.Namespace]()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: metav1.NamespaceDefault, UID: uuid.NewUUID(), CreationTimestamp: metav1.Now(),
	}}
	kind.Default(s.config.Defaults(), ns)
	data, err := runtime.Encode(store.NewCodec(kind), ns)
	if err != nil {
		return fmt.Errorf("seed default namespace: %w", err)
	}
	key := kind.StoreKey(kinds.KeyOf(ns))
	txn := raftstore.Txn{
		RequestID: string(ns.UID),
		If:        []raftstore.Condition{{Key: key}},
		Ops:       []raftstore.Op{{Key: key, Value: data}},
	}
	for {
		if _, _, err := s.config.Store.Get(ctx, key, raftstore.ReadOptions{Consistency: raftstore.Local}); err == nil {
			return nil
		}
		_, err := s.config.Store.Commit(ctx, txn)
		var conflict *raftstore.ConflictError
		if err == nil || errors.As(err, &conflict) {
			return nil
		}
		s.config.Logger.WarnContext(ctx, "cannot write the default namespace yet", "err", err)
		select {
		case <-time.After(seedPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
