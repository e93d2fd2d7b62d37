package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"virtmesh/agent/api/storage"
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
	data, err := runtime.Encode(storage.NewCodec(corev1.SchemeGroupVersion.WithKind("Namespace")), ns)
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
		s.config.Logger.WarnContext(ctx, "cannot write the default namespace yet", "error", err)
		select {
		case <-time.After(seedPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drain counts requests, and ends them when the server stops.
type drain struct {
	mu      sync.Mutex
	done    bool
	cancels map[*http.Request]context.CancelFunc // of the requests that last
	wg      sync.WaitGroup
}

func newDrain() *drain {
	return &drain{cancels: map[*http.Request]context.CancelFunc{}}
}

// enter counts a request in, unless the server has stopped.
func (d *drain) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		return false
	}
	d.wg.Add(1)
	return true
}

// lasting makes the server's end the end of r too, until the returned function is
// called.
func (d *drain) lasting(r *http.Request) (*http.Request, func()) {
	ctx, cancel := context.WithCancel(r.Context())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		cancel()
	}
	d.cancels[r] = cancel
	return r.WithContext(ctx), func() {
		d.mu.Lock()
		delete(d.cancels, r)
		d.mu.Unlock()
		cancel()
	}
}

// filter refuses requests after the end, and ends those that would last.
func (d *drain) filter(next http.Handler, c *genericapiserver.Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.enter() {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the server is stopping", http.StatusServiceUnavailable)
			return
		}
		defer d.wg.Done()
		info, err := c.RequestInfoResolver.NewRequestInfo(r)
		if err == nil && c.LongRunningFunc(r, info) {
			var release func()
			r, release = d.lasting(r)
			defer release()
		}
		next.ServeHTTP(w, r)
	})
}

// end refuses further requests, ends the lasting ones, and waits for the others
// for at most limit.
func (d *drain) end(limit time.Duration) {
	d.mu.Lock()
	d.done = true
	for _, cancel := range d.cancels {
		cancel()
	}
	d.mu.Unlock()
	empty := make(chan struct{})
	go func() {
		d.wg.Wait()
		close(empty)
	}()
	select {
	case <-empty:
	case <-time.After(limit):
	}
}

// readyCheck is one check of /readyz.
type readyCheck struct {
	name  string
	check func(context.Context) error
}

// Name implements healthz.HealthChecker.
func (c readyCheck) Name() string { return c.name }

// Check implements healthz.HealthChecker.
func (c readyCheck) Check(r *http.Request) error { return c.check(r.Context()) }
