package namespace

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
)

// run starts the loop in a world with two namespaces.
func run(t *testing.T, test func(w *stewardstest.World)) {
	t.Helper()
	stewardstest.Run(t, func(w *stewardstest.World) {
		c, err := New(w.Host("h1").Deps)
		w.Check(err)
		w.Run(c.Run)
		for _, name := range []string{"doomed", "other"} {
			w.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}})
		}
		test(w)
	})
}

func namespace(w *stewardstest.World, name string) *corev1.Namespace {
	w.Helper()
	return stewardstest.Get[*corev1.Namespace](w, objects.Key{Name: name})
}

func end(w *stewardstest.World, name string) {
	w.Helper()
	stewardstest.Delete[*corev1.Namespace](w, objects.Key{Name: name}, objects.DeleteOptions{})
}

func secret(ns, name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
}

func TestContentGoesWithItsNamespace(t *testing.T) {
	run(t, func(w *stewardstest.World) {
		w.Commit(func(tx *objects.Tx) {
			for i := range 120 {
				tx.Create(secret("doomed", fmt.Sprint("s", i)))
			}
			tx.Create(secret("other", "kept"))
			tx.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}})
			tx.Put("/registry/example.com/things/doomed/x", []byte(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"x"}}`))
		})
		end(w, "doomed")
		time.Sleep(10 * time.Second)
		if ns := namespace(w, "doomed"); ns != nil {
			w.Errorf("still there: %+v", ns)
		}
		keys := strings.Join(w.Store.Keys("/registry/"), " ")
		if want := "/registry/core/namespaces/other /registry/core/nodes/doomed /registry/core/secrets/other/kept"; keys != want {
			w.Errorf("left: %s, want %s", keys, want)
		}
	})
}

func TestFinalizersHoldItBackAndAreNamed(t *testing.T) {
	run(t, func(w *stewardstest.World) {
		vm := &kubevirtv1.VirtualMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "doomed", Name: "vm", Finalizers: []string{"test/hold"}}}
		w.Commit(func(tx *objects.Tx) { tx.Create(vm) })
		end(w, "doomed")
		time.Sleep(time.Minute)
		ns := namespace(w, "doomed")
		if ns == nil || ns.Status.Phase != corev1.NamespaceTerminating {
			w.Fatalf("namespace %+v", ns)
		}
		messages := map[corev1.NamespaceConditionType]string{}
		for _, c := range ns.Status.Conditions {
			if c.Status == corev1.ConditionTrue {
				messages[c.Type] = c.Message
			}
		}
		if got := messages[corev1.NamespaceContentRemaining]; got != "Some resources are remaining: virtualmachines.kubevirt.io has 1 resource instances" {
			w.Errorf("ContentRemaining: %q", got)
		}
		if got := messages[corev1.NamespaceFinalizersRemaining]; got != "Some content in the namespace has finalizers remaining: test/hold in 1 resource instances" {
			w.Errorf("FinalizersRemaining: %q", got)
		}
		if n := w.CommitsDuring(time.Hour); n != 0 {
			w.Errorf("%d transactions while it waits", n)
		}
		stewardstest.Edit(w, objects.KeyOf(vm), func(vm *kubevirtv1.VirtualMachine) { vm.Finalizers = nil })
		time.Sleep(5 * time.Second)
		if ns := namespace(w, "doomed"); ns != nil {
			w.Errorf("still there: %+v", ns.Status)
		}
	})
}

func TestALiveNamespaceIsLeftAlone(t *testing.T) {
	run(t, func(w *stewardstest.World) {
		w.Commit(func(tx *objects.Tx) { tx.Create(secret("other", "kept")) })
		time.Sleep(time.Hour)
		if len(w.Store.Keys("/registry/core/secrets/")) != 1 || namespace(w, "other") == nil {
			w.Error("something was deleted")
		}
	})
}
