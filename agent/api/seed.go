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
	"virtmesh/raftstore"
)

// seedPause is the time between attempts to write while the mesh has no leader.
const seedPause = time.Second

// seed makes the default namespace, once in the life of a mesh.
func (s *Server) seed(ctx context.Context) error {
	ns := &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{
			Name:              metav1.NamespaceDefault,
			UID:               uuid.NewUUID(),
			CreationTimestamp: metav1.Now(),
			Labels:            map[string]string{corev1.LabelMetadataName: metav1.NamespaceDefault},
		},
		Spec:   corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
		Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
	}
	data, err := runtime.Encode(store.NewCodec(corev1.SchemeGroupVersion.WithKind("Namespace")), ns)
	if err != nil {
		return fmt.Errorf("seed default namespace: %w", err)
	}
	key := namespacePrefix + ns.Name
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
