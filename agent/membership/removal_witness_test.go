package membership

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/gossip/gossiptest"
	"virtmesh/raftstore"
)

// TestOnlyTheDeadAreRemoved: the guests of a removed host are started elsewhere. Both
// witnesses must say that it is dead, or the user must insist.
func TestOnlyTheDeadAreRemoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh, err := gossiptest.Start(2, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer mesh.Shutdown()
		if !mesh.AwaitAlive(10 * time.Second) {
			t.Fatal("no mesh")
		}
		silence, noLeader := time.Hour, error(nil)
		m := newMember(Config{Name: "host1"}, Options{Logger: slog.New(slog.DiscardHandler)})
		m.gossip, m.peers = mesh.Member("host1"), NewPeers("host1", nil, m.log)
		m.witness = NewWitness(m.peers, nil)
		m.witness.limit = func() time.Duration { return 10 * time.Second }
		m.witness.silencesOf = func(context.Context) (map[string]time.Duration, error) {
			return map[string]time.Duration{"host1": 0, "host2": silence, "host3": silence}, noLeader
		}
		store := identitytest.NewStore()
		for _, name := range []string{"host1", "host2", "host3"} {
			writeRecord(t, store, name, name+":7443")
		}
		m.peers.OpenRecords(identity.NewHosts(store))
		a := administration{Member: m}
		for _, c := range []struct {
			name, host string
			silence    time.Duration
			noLeader   error
			force      bool
			want       error
		}{
			{name: "it gossips", host: "host2", silence: time.Hour, want: fault.Conflict},
			{name: "it gossips, and the user insists", host: "host2", silence: time.Hour, force: true},
			{name: "it answers the leader", host: "host3", silence: time.Second, want: fault.Conflict},
			{name: "it answers the leader, and the user insists", host: "host3", silence: time.Second, force: true},
			{name: "no leader can tell", host: "host3", silence: time.Hour, noLeader: raftstore.ErrNoLeader, want: fault.Unavailable},
			{name: "both hear nothing", host: "host3", silence: time.Hour},
		} {
			silence, noLeader = c.silence, c.noLeader
			time.Sleep(time.Minute) // the last answer of the leader is old
			err := a.mustBeDead(t.Context(), c.host, c.force)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
			// A host that was switched off a moment ago is still heard: who removes it at once must
			// read that it takes a while.
			if c.want == fault.Conflict && !strings.Contains(err.Error(), "if it has just been switched off, wait half a minute") {
				t.Errorf("%s: %v does not say to wait", c.name, err)
			}
			if c.noLeader != nil && !strings.Contains(err.Error(), "the mesh has no leader: nothing can be changed") {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		// A machine that was removed and still gossips does not block a second removal.
		writeRecord(t, store, "host2", "")
		m.peers.records.read()
		silence, noLeader = time.Hour, nil
		time.Sleep(time.Minute)
		if err := a.mustBeDead(t.Context(), "host2", false); err != nil {
			t.Errorf("a machine without a record: %v", err)
		}
	})
}

// TestRemovalBarsTheMachineThatWasMeant: the host that carries out a removal dies after
// it has barred the machine and before that is written down, and another machine joins
// under the name before the next host repeats the step.
func TestRemovalBarsTheMachineThatWasMeant(t *testing.T) {
	t.Parallel()
	store := identitytest.NewStore()
	hosts := identity.NewHosts(store)
	writeRecord(t, store, "host2", "10.0.0.2:7443")
	meant, err := hosts.Get(t.Context(), "host2", raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := removal{host: "host2", machine: meant.ID, hosts: hosts}
	if err := r.expelHost(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.expelHost(t.Context()); err != nil {
		t.Errorf("the step was repeated, and nobody has joined: %v", err)
	}
	writeRecord(t, store, "host2", "10.0.0.3:7443")
	if err := r.expelHost(t.Context()); !errors.Is(err, fault.Conflict) {
		t.Errorf("the step was repeated, and another machine has joined: %v", err)
	}
	successor, err := hosts.Get(t.Context(), "host2", raftstore.ReadOptions{})
	if err != nil {
		t.Fatalf("the next machine was barred: %v", err)
	}
	if err := hosts.Admit(successor.Node(), identity.Pin{}); err != nil || successor.ID == meant.ID {
		t.Errorf("the next machine: %v", err)
	}
}

// After its removal a host may still have keys that the removal does not replace by itself: as
// long as they are in the state, and also later, since it may have voted before.
func TestARemovedHostMayKeepKeys(t *testing.T) {
	t.Parallel()
	keeps := func(m *Member, host string) bool {
		t.Helper()
		keeps, err := administration{Member: m}.keepsKeys(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		return keeps
	}
	first, _ := pair(t)
	if !keeps(first, "host1") || !keeps(first, "host2") {
		t.Error("the CA's key is in the state, and a host is said not to have it")
	}
	makeBundle(t, first)
	stepUntil(t, first, withdrawKey)
	if !keeps(first, "host1") || !keeps(first, "host2") {
		t.Errorf("the voter may keep keys: %t, a host that may have lost its vote: %t", keeps(first, "host1"), keeps(first, "host2"))
	}
}
