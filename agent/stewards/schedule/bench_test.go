package schedule

import (
	"fmt"
	"log/slog"
	"testing"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
)

// BenchmarkRefresh measures what news cost a view of 500 hosts with a label for each
// machine type and CPU model: of the load of one host, and of anything (a resync).
func BenchmarkRefresh(b *testing.B) {
	emulator := machine.Emulator{MaxVCPUs: 255}
	for i := range 120 {
		emulator.MachineTypes = append(emulator.MachineTypes, fmt.Sprintf("pc-q35-%d.0", i))
	}
	f := &facts{members: map[string]gossip.Member{}}
	for i := range 500 {
		f.set(fmt.Sprint("h", i), func(m *gossip.Member) {
			m.Facts.Labels = map[string]string{}
			emulator.SetLabels(m.Facts.Labels)
		})
	}
	cfg := objects.DefaultCacheConfig()
	cfg.Store, cfg.Logger = objectstest.New(), slog.New(slog.DiscardHandler)
	cache, err := objects.NewCache(cfg)
	if err != nil {
		b.Fatal(err)
	}
	view := NewView(cfg.Store, cache, claims.NewCache(cache, cfg.Logger), f)
	view.stale.note("")
	view.refreshHosts()
	for _, bc := range []struct{ name, of string }{{"one", "h7"}, {"all", ""}} {
		b.Run(bc.name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				f.set("h7", func(m *gossip.Member) { m.Facts.Load = float64(i) })
				view.stale.note(bc.of)
				view.refreshHosts()
			}
		})
	}
}
