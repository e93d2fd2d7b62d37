package schedule

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
)

// In a large mesh there are news of some host all the time. A host without news must not
// be read from the store, decoded or described anew each time: it has a label for each
// machine type, CPU model and feature.
func TestHostsWithoutNewsCostLittle(t *testing.T) {
	run(t, func(b *bench) {
		const hosts = 300 // more than an informer keeps decoded
		emulator := machine.Emulator{MaxVCPUs: 255}
		for i := range 100 {
			emulator.MachineTypes = append(emulator.MachineTypes, fmt.Sprintf("pc-q35-%d.0", i))
		}
		labels := map[string]string{}
		emulator.SetLabels(labels)
		b.commit(func(tx *objects.Tx) {
			for i := range hosts {
				tx.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("h", i), Labels: labels}})
			}
		})
		view := b.views[0]
		if h := view.lines["h1"].host; h.Emulator == nil || len(h.Emulator.MachineTypes) != 100 {
			b.Fatalf("described as %+v", h)
		}
		const most = 3 * hosts
		if n := testing.AllocsPerRun(5, func() {
			for i := range hosts {
				view.refreshHost(fmt.Sprint("h", i))
			}
		}); n > most {
			b.Errorf("%v allocations for %d hosts without news, want at most %d", n, hosts, most)
		}
	})
}
