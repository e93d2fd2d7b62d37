package namespace

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

type bench struct {
	*testing.T
	store *objectstest.Store
}

func run(t *testing.T, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		b := &bench{T: t, store: objectstest.New()}
		cacheCfg := objects.DefaultCacheConfig()
		cacheCfg.Store, cacheCfg.Logger = b.store, log
		cache, err := objects.NewCache(cacheCfg)
		if err != nil {
			t.Fatal(err)
		}
		cfg := DefaultConfig()
		cfg.Store, cfg.Cache, cfg.Logger = b.store, cache, log
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { cache.Run(ctx) })
		wg.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for _, name := range []string{"doomed", "other"} {
			b.commit(func(tx *objects.Tx) {
				tx.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}})
			})
		}
		test(b)
		cancel()
		wg.Wait()
	})
}

func (b *bench) commit(build func(tx *objects.Tx)) {
	b.Helper()
	var tx objects.Tx
	build(&tx)
	if _, err := tx.Commit(b.Context(), b.store); err != nil {
		b.Fatal(err)
	}
	synctest.Wait()
}

func (b *bench) namespace(name string) *corev1.Namespace {
	b.Helper()
	ns, err := objects.Get[*corev1.Namespace](b.Context(), b.store, objects.Key{Name: name}, raftstore.ReadOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		b.Fatal(err)
	}
	return ns
}

func secret(ns, name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
}

func TestContentGoesWithItsNamespace(t *testing.T) {
	run(t, func(b *bench) {
		b.commit(func(tx *objects.Tx) {
			for i := range 120 {
				tx.Create(secret("doomed", fmt.Sprint("s", i)))
			}
			tx.Create(secret("other", "kept"))
			tx.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}})
			tx.Put("/registry/example.com/things/doomed/x", []byte(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"x"}}`))
		})
		b.commit(func(tx *objects.Tx) { tx.Delete(b.namespace("doomed"), objects.DeleteOptions{}) })
		time.Sleep(10 * time.Second)
		if ns := b.namespace("doomed"); ns != nil {
			b.Errorf("still there: %+v", ns)
		}
		keys := strings.Join(b.store.Keys("/registry/"), " ")
		if want := "/registry/core/namespaces/other /registry/core/nodes/doomed /registry/core/secrets/other/kept"; keys != want {
			b.Errorf("left: %s, want %s", keys, want)
		}
	})
}

func TestFinalizersHoldItBackAndAreNamed(t *testing.T) {
	run(t, func(b *bench) {
		vm := &kubevirtv1.VirtualMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "doomed", Name: "vm", Finalizers: []string{"test/hold"}}}
		b.commit(func(tx *objects.Tx) { tx.Create(vm) })
		b.commit(func(tx *objects.Tx) { tx.Delete(b.namespace("doomed"), objects.DeleteOptions{}) })
		time.Sleep(time.Minute)
		ns := b.namespace("doomed")
		if ns == nil || ns.Status.Phase != corev1.NamespaceTerminating {
			b.Fatalf("namespace %+v", ns)
		}
		messages := map[corev1.NamespaceConditionType]string{}
		for _, c := range ns.Status.Conditions {
			if c.Status == corev1.ConditionTrue {
				messages[c.Type] = c.Message
			}
		}
		if got := messages[corev1.NamespaceContentRemaining]; got != "Some resources are remaining: virtualmachines.kubevirt.io has 1 resource instances" {
			b.Errorf("ContentRemaining: %q", got)
		}
		if got := messages[corev1.NamespaceFinalizersRemaining]; got != "Some content in the namespace has finalizers remaining: test/hold in 1 resource instances" {
			b.Errorf("FinalizersRemaining: %q", got)
		}
		before := b.store.Commits()
		time.Sleep(time.Hour)
		if n := b.store.Commits() - before; n != 0 {
			b.Errorf("%d transactions while it waits", n)
		}
		old, err := objects.Get[*kubevirtv1.VirtualMachine](b.Context(), b.store, objects.KeyOf(vm), raftstore.ReadOptions{})
		if err != nil {
			b.Fatal(err)
		}
		next := old.DeepCopy()
		next.Finalizers = nil
		b.commit(func(tx *objects.Tx) { tx.Update(old, next) })
		time.Sleep(5 * time.Second)
		if ns := b.namespace("doomed"); ns != nil {
			b.Errorf("still there: %+v", ns.Status)
		}
	})
}

func TestALiveNamespaceIsLeftAlone(t *testing.T) {
	run(t, func(b *bench) {
		b.commit(func(tx *objects.Tx) { tx.Create(secret("other", "kept")) })
		time.Sleep(time.Hour)
		if len(b.store.Keys("/registry/core/secrets/")) != 1 || b.namespace("other") == nil {
			b.Error("something was deleted")
		}
	})
}
