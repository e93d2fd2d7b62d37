package serviceaccount

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
)

// Every namespace has the account "default", also after somebody has deleted it; one that is being
// deleted gets none. Nothing happens before the mesh is at the level of accounts.
func TestEveryNamespaceHasItsAccount(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		c, err := New(w.Host("h1").Deps)
		w.Check(err)
		w.Run(c.Run)
		account := func(namespace string) *corev1.ServiceAccount {
			time.Sleep(levelPause + time.Second)
			return stewardstest.Get[*corev1.ServiceAccount](w, objects.Key{Namespace: namespace, Name: name})
		}
		held := corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}
		for _, ns := range []string{"a", "ends"} {
			w.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: held})
		}
		stewardstest.Delete[*corev1.Namespace](w, objects.Key{Name: "ends"}, objects.DeleteOptions{})
		if got := account("a"); got != nil {
			w.Errorf("below the level: %+v", got)
		}
		w.Store.SetFeatureLevel(level.Access)
		first := account("a")
		if first == nil {
			w.Fatal("no account")
		}
		stewardstest.Delete[*corev1.ServiceAccount](w, objects.Key{Namespace: "a", Name: name}, objects.DeleteOptions{})
		if again := account("a"); again == nil || again.UID == first.UID {
			w.Errorf("after its deletion: %+v", again)
		}
		if got := account("ends"); got != nil {
			w.Errorf("in a namespace that is being deleted: %+v", got)
		}
	})
}
