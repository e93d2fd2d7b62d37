package membership

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
	"virtmesh/raftstore/raftstoretest"
)

// insist carries out steps as an operation does: what cannot be done yet is tried again.
func insist(t *testing.T, steps []Step) {
	t.Helper()
	for _, step := range steps {
		raftstoretest.Eventually(t, func() error {
			err := step.Do(t.Context(), func(int64, int64) {})
			if err != nil && !errors.Is(err, fault.Unavailable) {
				t.Fatalf("%s: %v", step.Name, err)
			}
			return err
		})
	}
}

// An agent that has just started goes on with a replacement of the CA that another one has begun.
// Nobody that it does not hear yet counts as off before gossip has had the time to find it: host2
// is on, and is waited for; host3 is off, and is not.
func TestAHostThatHasJustStartedWaitsUntilItHears(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh, err := gossiptest.Start(1, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer mesh.Shutdown()
		if err := mesh.Member("host1").SetFacts(gossip.Facts{MeshAddr: "host1:7443", Version: "follows"}); err != nil {
			t.Fatal(err)
		}
		store := identitytest.NewStore()
		for _, name := range []string{"host1", "host2", "host3"} {
			writeRecord(t, store, name, name+":7946")
		}
		p := NewPeers("host1", nil, slog.New(slog.DiscardHandler))
		p.OpenGossip(mesh.Member("host1"))
		p.OpenRecords(identity.NewHosts(store))
		r := caRotation{Member: &Member{peers: p}}
		var followed time.Duration
		begin, ended := time.Now(), make(chan error, 1)
		go func() {
			err := r.awaitHosts(t.Context(), func(int64, int64) {}, "follows", func(f gossip.Facts) bool { return f.Version == "follows" })
			followed = time.Since(begin)
			ended <- err
		}()
		time.Sleep(3 * time.Second)
		if err := mesh.Add(func(_ int, c *gossip.Config) { c.Facts = gossip.Facts{MeshAddr: "host2:7443"} }); err != nil {
			t.Fatal(err)
		}
		if !mesh.AwaitAlive(10 * time.Second) {
			t.Fatal("host1 does not hear host2")
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if followed > 0 {
			t.Fatalf("host2 does not follow, and the step ended after %s", followed)
		}
		if err := mesh.Member("host2").SetFacts(gossip.Facts{MeshAddr: "host2:7443", Version: "follows"}); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("all hosts that are on follow: %v", err)
		}
	})
}
