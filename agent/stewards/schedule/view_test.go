package schedule

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
)

// In a large mesh the facts are read several times a second. A host without news
// must not be described anew each time: it has a label for each machine type, CPU
// model and feature.
func TestHostsWithoutNewsCostLittle(t *testing.T) {
	run(t, func(b *bench) {
		emulator := machine.Emulator{MaxVCPUs: 255}
		for i := range 100 {
			emulator.MachineTypes = append(emulator.MachineTypes, fmt.Sprintf("pc-q35-%d.0", i))
		}
		b.host("h1", 8*gib)
		b.commit(func(tx *objects.Tx) {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "h1", Labels: map[string]string{}}}
			emulator.SetLabels(node.Labels)
			tx.Create(node)
		})
		view := b.views[0]
		if h := view.lines["h1"].host; h.Emulator == nil || len(h.Emulator.MachineTypes) != 100 {
			b.Fatalf("described as %+v", h)
		}
		const most = 50
		if n := testing.AllocsPerRun(20, func() { view.refreshHost("h1") }); n > most {
			b.Errorf("%v allocations for a host without news, want at most %d", n, most)
		}
	})
}
