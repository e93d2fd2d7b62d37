package membership

import (
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/level"
	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
	"virtmesh/raftstore"
)

// What a host gossips is newer than its record, which it changes once the mesh has a
// leader; of a host that is not heard the record is all that is known. A machine that
// gossips and has no record does not count.
func TestLevelHosts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := gossiptest.Start(4, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Shutdown()
		if !m.AwaitAlive(10 * time.Second) {
			t.Fatal("no mesh")
		}
		for name, facts := range map[string]gossip.Facts{
			"host2": {MeshAddr: "host2:7443", Version: "2.0", FeatureLevel: 7},
			"host3": {MeshAddr: "host3:7443", Version: "1.0", FeatureLevel: 6},
			"host4": {MeshAddr: "host4:7443", Version: "0.9", FeatureLevel: 1},
		} {
			if err := m.Member(name).SetFacts(facts); err != nil {
				t.Fatal(err)
			}
		}
		p := NewPeers("host1", nil, slog.New(slog.DiscardHandler))
		p.OpenGossip(m.Member("host1"))
		store := identitytest.NewStore()
		for _, record := range []identity.HostRecord{
			{Name: "host1", Version: "1.0", FeatureLevel: 6}, {Name: "host2", Version: "1.0", FeatureLevel: 6},
			{Name: "host3", Version: "1.0", FeatureLevel: 6}, {Name: "host9", Version: "0.5", FeatureLevel: 5},
		} {
			record.ID, record.MeshAddress, record.GossipAddress = record.Name, record.Name+":7443", record.Name+":7946"
			value, err := json.Marshal(record)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.HostKey(record.Name), Value: value}}}); err != nil {
				t.Fatal(err)
			}
		}
		p.OpenRecords(identity.NewHosts(store))
		time.Sleep(10 * time.Second)
		want := []level.Host{
			{Name: "host1", Version: "1.0", Highest: 6, Live: true}, // its facts name no level
			{Name: "host2", Version: "2.0", Highest: 7, Live: true}, {Name: "host3", Version: "1.0", Highest: 6, Live: true},
			{Name: "host9", Version: "0.5", Highest: 5},
		}
		if got := p.LevelHosts(); !slices.Equal(got, want) {
			t.Errorf("hosts %+v, want %+v", got, want)
		}
	})
}

// Status says at which level the mesh is, what this host knows, and who raises it.
func TestStatusTellsTheLevel(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	m := found(t, path, config)
	status, err := m.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := status.Level
	if l == nil || l.Mesh != m.store.FeatureLevel() || l.Known != level.Highest || l.Reachable != level.Highest || len(l.HeldUpBy) != 0 || l.Policy != "Manual" {
		t.Errorf("level %+v", l)
	}
	if status.Members[0].FeatureLevel != level.Highest {
		t.Errorf("members %+v", status.Members)
	}
	a := administration{Member: m}
	told := fault.Of(a.RaiseLevel(t.Context(), level.Highest+1))
	if told == nil || told.Code != fault.Conflict || !strings.Contains(told.Sentence, "host1") || strings.Contains(told.Sentence, "raftstore") {
		t.Errorf("a raise to a level that nobody knows: %v", told)
	}
	if err := a.RaiseLevel(t.Context(), m.store.FeatureLevel()-1); !errors.Is(err, fault.Invalid) {
		t.Errorf("a raise downwards: %v", err)
	}
	if err := a.RaiseLevel(t.Context(), m.store.FeatureLevel()); err != nil {
		t.Errorf("a raise to where the mesh is: %v", err)
	}
}
