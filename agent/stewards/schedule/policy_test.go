package schedule

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
)

// The mesh's settings are read anew for each decision, and an instance that waits
// for room is tried again when they change.
func TestSettingsOfTheMeshDecide(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 1400<<20)
		b.create("a")
		b.create("b")
		b.expectHost("a", "h1")
		b.expectWaiting("b", "memory")
		config := &meshv1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.Name}}
		config.Spec.Capacity.MemoryOvercommitPercent = new(int64(1000))
		b.commit(func(tx *objects.Tx) { tx.Create(config) })
		b.hear("h1", nil) // lets time pass
		b.expectHost("b", "h1")
	})
}
